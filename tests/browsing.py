"""Chromium, driven by playwright: pages in a window of a width, in light or dark, and what they asked for."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")
WIDTHS = (390, 820, 1440)
WINDOWS = ((390, "light"), (390, "dark"), (820, "light"), (1440, "dark"))
"""Widths and colours of pages that are less than the report."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


def until(page: Any, expression: str) -> None:
    """Wait until an expression holds; playwright's own waiting needs eval, which the page forbids."""
    for _ in range(3000):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(expression)


class Opened:
    """A page in a window, with what it asked for and complained about."""

    def __init__(self, browser: Any, address: str, width: int = 1440, scheme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.context.set_default_timeout(300_000)  # of a busy machine
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def draw_everything(self) -> None:
        """Open all that is folded, and bring every chart into the window."""
        self.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        for chart in self.page.locator(".chart > div").all():
            chart.scroll_into_view_if_needed()
        until(self.page, "[...document.querySelectorAll('.chart > div')].every(one => one.querySelector('svg'))")

    def check(self) -> None:
        """Nothing overflows, no rule of accessibility is broken, and the console has no message."""
        sizes = self.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert sizes[0] <= sizes[1]
        found = axe.Axe().run(self.page)
        assert [(one["id"], one["nodes"][0]["html"]) for one in found.response["violations"]] == []
        assert self.complaints == []
