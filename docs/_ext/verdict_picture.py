"""Draws docs/_static/verdict.png, the picture of the README: the first screen of results/reference/mini/report.html.

python docs/_ext/verdict_picture.py    needs Chromium
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "results" / "reference" / "mini" / "report.html"
WIDTH, HEIGHT = 1200, 720


def main() -> None:
    """Take a screenshot of the page's beginning."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "page.png")
        flags = (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        )
        browser = shutil.which("chromium") or "google-chrome"
        size, shot = f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={picture}"
        subprocess.run([browser, *flags, size, shot, PAGE.as_uri()], check=True)
        image = Image.open(picture).convert("RGB")
    image.quantize(192).save(PROJECT / "docs" / "_static" / "verdict.png", optimize=True)


if __name__ == "__main__":
    main()
