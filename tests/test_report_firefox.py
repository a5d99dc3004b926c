"""The page in Firefox: nothing overflows or leaves it, and its controls answer to mouse and keyboard."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("websockets", reason="websockets is not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")

import firefox  # noqa: E402
from firefox import Firefox  # noqa: E402
from test_report_browser import page_path  # noqa: E402

pytestmark = pytest.mark.skipif(firefox.BINARY is None, reason="no Firefox on the path")
__all__ = ["page_path"]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firefox]:
    with firefox.running(tmp_path_factory.mktemp("firefox")) as tab:
        yield tab


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_overflows_leaves_the_page_or_breaks_rules_of_accessibility(
    tab: Firefox, page_path: Path, width: int
) -> None:
    del tab.requests[:], tab.complaints[:]
    tab.open(page_path.as_uri(), width)
    tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    tab.evaluate("document.getElementById('charts').scrollIntoView()")
    tab.until("[...document.querySelectorAll('.chart > div')].every(one => one.querySelector('svg'))")
    for ground in ("rgb(255, 255, 255)", "rgb(18, 22, 28)"):
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == ground
        wide, room = tab.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= room
        tab.evaluate("document.getElementById('theme').focus()")
        tab.press("Enter")
    tab.evaluate(f"(() => {{ {axe.AXE_SCRIPT} }})()")
    assert tab.evaluate("axe.run().then(found => found.violations.map(one => [one.id, one.nodes[0].html]))") == []
    assert {url for url in tab.requests if not url.startswith("data:")} <= {page_path.as_uri()}
    assert tab.complaints == []


def test_claims_pictures_filters_and_equal_cost_answer_to_mouse_and_keyboard(tab: Firefox, page_path: Path) -> None:
    tab.open(page_path.as_uri(), 1440)
    tab.evaluate("document.querySelector('.claim summary').focus()")
    tab.press("Enter")
    tab.until("document.querySelector('.claim').open && document.querySelector('.losses .pair img').naturalWidth")
    tab.click(".losses .pair .shot")
    tab.until("document.getElementById('viewer').open && document.getElementById('viewer-second').naturalWidth")
    said = tab.evaluate("document.getElementById('viewer-said').textContent")
    assert "against" in said
    tab.press("f")
    tab.until("document.getElementById('viewer-stage').classList.contains('flicker')")
    tab.until("document.getElementById('viewer-second').style.visibility === 'hidden'")
    tab.press("ArrowRight")
    assert tab.evaluate("document.getElementById('viewer-said').textContent") != said
    tab.press("Escape")
    tab.until("!document.getElementById('viewer').open")
    shown = "document.querySelectorAll('#table-scores tbody tr:not([hidden])').length"
    before = tab.evaluate(shown)
    tab.click("#filters fieldset button")
    assert tab.evaluate(shown) < before
    tab.click("#filters div > button:last-child")
    assert tab.evaluate(shown) == before
    tab.evaluate("document.getElementById('equal-budget').focus()")
    lines = "document.querySelectorAll('#equal-rows tbody tr').length"
    tab.press("\ue010")  # End
    assert tab.evaluate(lines) > 0
    tab.evaluate("document.getElementById('charts').scrollIntoView()")
    tab.until("document.querySelector('.chart svg .mark-symbol path')")
