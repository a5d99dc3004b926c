"""The page in a real browser, where one is installed: it fits a desktop and a phone, sorts, and steps."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_report import keep, store

from bench.report.write import write_report
from bench.store.store import Store

__all__ = ["store"]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


def browse(directory: Path, page: str, *flags: str) -> str:
    path = directory / "page.html"
    path.write_text(page, encoding="utf-8")
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={directory}/profile", *flags, path.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout


def after(page: str, script: str) -> str:
    """Return the page with a script that writes its findings into the title."""
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)  # it lets no other script run
    return free.replace("</body>", f"<script>{script}</script></body>")


@pytest.fixture
def page(store: Store) -> str:
    for record in store.records():
        if record.status == "ok":
            keep(store, record, [Image.new("RGB", (8, 8), (40 * record.cell.steps, 0, 0))] * 2)
    return Path(write_report(store)).read_text(encoding="utf-8")


def title(text: str) -> str:
    found = re.search(r"<title>(.*?)</title>", text, re.DOTALL)
    assert found
    return found[1]


@pytest.mark.parametrize("width", WIDTHS)
def test_no_element_overflows_the_page(page: str, tmp_path: Path, width: str) -> None:
    w, h = WIDTHS[width]
    inner = f'<iframe id=f style="width:{w}px;height:{h}px" srcdoc="" ></iframe>'
    framed = after(
        f"<!doctype html><title>-</title><body>{inner}</body>",
        "const f = document.getElementById('f'); f.onload = () => { const e = f.contentDocument.documentElement;"
        "document.title = e.scrollWidth + ' ' + e.clientWidth; }; "
        "f.srcdoc = document.getElementById('page').textContent;",
    )
    escaped = page.replace("</script>", "<\\/script>")
    framed = framed.replace("<body>", f'<body><script type="text/plain" id="page">{escaped}</script>')
    framed = framed.replace(".textContent;", ".textContent.replaceAll('<\\\\/script>', '<' + '/script>');")
    scroll, client = map(int, title(browse(tmp_path, framed, "--dump-dom", "--virtual-time-budget=4000")).split())
    assert scroll <= client, f"{scroll} pixels in a window of {client}"


@pytest.mark.parametrize("width", WIDTHS)
def test_a_screenshot_is_not_blank(page: str, tmp_path: Path, width: str) -> None:
    shot = tmp_path / "shot.png"
    browse(tmp_path, page, f"--screenshot={shot}", f"--window-size={','.join(map(str, WIDTHS[width]))}")
    assert np.asarray(Image.open(shot).convert("L")).std() > 10


def test_tables_sort_and_the_slider_moves(page: str, tmp_path: Path) -> None:
    script = (
        "const t = document.querySelector('table.sortable'), head = t.querySelectorAll('th')[4];"
        "const column = () => [...t.tBodies[0].rows].map(r => r.cells[4].textContent).join(' ');"
        "head.click(); const up = column();"
        "head.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'})); const down = column();"
        "const walk = document.querySelector('.walk'), slider = walk.querySelector('input');"
        "const before = walk.querySelector('output').textContent; slider.value = slider.max;"
        "slider.dispatchEvent(new Event('input'));"
        "document.title = [up, down, before, walk.querySelector('output').textContent, walk.hidden].join('|');"
    )
    up, down, first, last, hidden = title(
        browse(tmp_path, after(page, script), "--dump-dom", "--virtual-time-budget=4000")
    ).split("|")
    assert [int(text) for text in up.split()] == sorted(int(text) for text in up.split())
    assert down.split() == up.split()[::-1] or sorted(map(int, down.split()), reverse=True) == [*map(int, down.split())]
    assert (first, last) == ("4 steps", "8 steps")
    assert hidden == "false"
