"""The pages of a gate and of its history in a real browser: trends, filters, pictures before and after."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import NEEDS_CHROMIUM, WINDOWS, Opened, browser, until
from PIL import Image

from bench.__main__ import main
from bench.gate.history import append_history
from bench.gate.history_pictures import folder_of
from bench.gate.outcome import GateReport, Outcome
from bench.gate.report import BeforeAfter, write_gate

pytestmark = NEEDS_CHROMIUM
__all__ = ["browser"]
HOSTILE = "<b>cell</b> " + "w" * 120


class Drawn:
    """A picture of one colour."""

    def __init__(self, shade: int) -> None:
        self.shade = shade

    def read(self) -> bytes:
        content = io.BytesIO()
        Image.new("RGB", (8, 8), (self.shade, 90, 0)).save(content, "PNG")
        return content.getvalue()


def outcomes(gate: int) -> Iterator[Outcome]:
    moved = gate >= 12
    yield Outcome("quality", HOSTILE, "fid@mini", "regressed" if moved else "unchanged", 0.5, 1.5 if moved else 0.5)
    yield Outcome("quality", "tcd 4 steps", "kid@mini", "unchanged", 0.5, 0.5 + 0.01 * (gate % 3))
    yield Outcome("cost", "tcd 4 steps", "latency_s", "unchanged", 0.1, 0.1 + 0.001 * (gate % 5))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history")
    history = folder / "gate.jsonl"
    for gate in range(16):
        images = [
            BeforeAfter(cell, f"prompt <i>{i}</i> " + "long " * 30, 0.9 - 0.1 * i, Drawn(10 * i), Drawn(10 * i + gate))  # type: ignore[arg-type]
            for i, cell in enumerate([HOSTILE, "a", "b", "c", "d"])
        ]
        about = {"date": f"2027-01-{gate + 1:02d}"}
        report = GateReport("main", f"<i>commit {gate}</i>", tuple(outcomes(gate)), about)
        append_history(report, history, images if gate in (12, 13, 14) else ())
    write_gate(report, images, folder)
    assert len([*folder_of(history).iterdir()]) == 4 + 3 * 4, "equal pictures are kept once, the least moved one is not"
    next(folder_of(history).iterdir()).write_bytes(b"another one")
    assert main(["gate", "history", f"history={history}", f"output={folder}"]) == 0
    return folder / "history.html"


@pytest.mark.parametrize(("width", "scheme"), WINDOWS)
def test_nothing_overflows_leaves_the_page_or_breaks_rules_of_accessibility(
    browser: Any, page: Path, width: int, scheme: str
) -> None:
    for address in (page.as_uri(), page.with_name("gate.html").as_uri()):
        opened = Opened(browser, address, width, scheme)
        with opened as shown:
            opened.check()
            assert [url for url in opened.requests if not url.startswith("data:")] == [address]
            ground = shown.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
            pair = shown.locator(".pair", has=shown.locator(".shot + .shot")).first
            tops = [shot.bounding_box()["y"] for shot in pair.locator(".shot").all()]
            assert tops[0] == tops[1], "before and after are side by side"
            pair.locator(".shot").first.click()
            assert "against" in shown.locator("#viewer-said").inner_text()
            if (width, scheme) == WINDOWS[0]:
                opened.check()


def test_trends_are_read_by_mouse_and_keyboard_and_follow_the_filters(browser: Any, page: Path) -> None:
    with Opened(browser, page.as_uri()) as shown:
        assert "1 of 3 quantities have a step or a drift, 1 failed at a gate" in shown.locator(".answer").inner_text()
        first = shown.locator(".trend svg").first
        first.focus()
        shown.keyboard.press("End")
        tip = shown.locator(".tip")
        assert tip.inner_text() == "2027-01-16 <i>commit 15</i>: 1.5, regressed"
        shown.keyboard.press("ArrowLeft")
        assert tip.inner_text().startswith("2027-01-15")
        shown.keyboard.press("Home")
        assert tip.inner_text().startswith("2027-01-01")
        first.hover()
        assert tip.inner_text().startswith(("2027-01-08", "2027-01-09"))
        shown.mouse.move(0, 0)
        assert not tip.is_visible()
        cost = shown.locator("#filters fieldset", has_text="Level").get_by_role("button", name="cost")
        cost.press("Enter")  # of two the other one stays
        names = "[...document.querySelectorAll('.trend:not([hidden]) h3')].map(one => one.textContent)"
        assert shown.evaluate(names) == ["fid@mini", "kid@mini"]
        assert shown.locator("#shown").inner_text() == "2 of 3 quantities"
        shown.get_by_role("button", name="show all").click()
        assert len(shown.evaluate(names)) == 3


def test_pictures_are_compared_by_slider_and_flicker_and_walked_through_time(browser: Any, page: Path) -> None:
    with Opened(browser, page.as_uri()) as shown:
        assert shown.locator(".gone", has_text="missing").count() > 0, "one was changed since"
        whole = shown.locator(".pair", has=shown.locator(".shot + .shot")).first
        whole.locator(".shot").first.press("Enter")
        said = shown.locator("#viewer-said").inner_text()
        assert said.startswith("before, 2027-01-15 <i>commit 14</i> · against · after, 2027-01-15")
        shown.locator("#viewer-mode").select_option("slider")
        shown.locator("#viewer-divide").fill("25")
        second = shown.locator("#viewer-second")
        assert second.evaluate("one => one.style.clipPath") == "inset(0px 0px 0px 25%)"
        shown.locator("#viewer-prompt").click()
        shown.locator("#viewer").press("f")
        until(shown, "document.getElementById('viewer-second').style.visibility === 'hidden'")
        shown.locator("#viewer").press("ArrowRight")
        shown.locator("#viewer").press("ArrowRight")
        assert "2027-01-14" in shown.locator("#viewer-said").inner_text(), "the same image at the gate before"
        shown.keyboard.press("Escape")
        assert not shown.locator("#viewer").is_visible()
