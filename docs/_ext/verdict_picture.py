"""Draws docs/_static/verdict.png, the picture of the README, from the report in results/reference/mini. Needs Chromium.

python docs/_ext/verdict_picture.py
"""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

PROJECT = Path(__file__).parents[2]
RUN = PROJECT / "results" / "reference" / "mini"
CLAIMS = ("TCD beats DPM-Solver++(2S) at 2 and at 4 steps", "TCD beats DPM-Solver++(2S) at 8 steps")
TOP_ROW, LEGEND = (0.0, 0.313), (0.937, 1.0)
"""Shares of the plot's height."""
WIDTH, HEIGHT = 1000, 800


def main() -> None:
    """Lay verdicts and plot out as the report does, and take a screenshot."""
    report = (RUN / "report.html").read_text(encoding="utf-8")
    style = re.findall(r"<style>.*?</style>", report, re.DOTALL)[0]
    verdicts = re.findall(r'<div class="verdict">.*?</div>', report, re.DOTALL)
    chosen = [verdict for verdict in verdicts if any(f"{claim}\n" in verdict for claim in CLAIMS)]
    plot = Image.open(RUN / "plots" / "mini-quality-evaluations.png")
    parts = "".join(
        f'<img src="{crop(plot, *share)}" style="width:100%;margin:8px 0 0">' for share in (TOP_ROW, LEGEND)
    )
    with tempfile.TemporaryDirectory() as folder:
        page, picture = Path(folder, "page.html"), Path(folder, "page.png")
        page.write_text(f"<meta charset=utf-8>{style}<body>{''.join(chosen)}{parts}</body>", encoding="utf-8")
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        browser = shutil.which("chromium") or "google-chrome"
        subprocess.run(
            [browser, *flags, f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={picture}", str(page)], check=True
        )
        shot = Image.open(picture).convert("RGB")
    rows = [y for y in range(shot.height) if shot.crop((0, y, shot.width, y + 1)).getextrema() != ((255, 255),) * 3]
    shot = shot.crop((0, 0, shot.width, max(rows) + 12))
    shot.quantize(192).save(PROJECT / "docs" / "_static" / "verdict.png", optimize=True)


def crop(plot: Image.Image, top: float, bottom: float) -> str:
    """A horizontal strip of a picture as a data URI."""
    content = io.BytesIO()
    plot.crop((0, round(top * plot.height), plot.width, round(bottom * plot.height))).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


if __name__ == "__main__":
    main()
