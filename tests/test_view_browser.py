"""The pages of `tcd-bench view` in a real browser: list, filters, live progress, at three widths, light and dark."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from browsing import NEEDS_CHROMIUM, WINDOWS, Opened, browser, until
from test_report import CLAIM, make_store, record_of

from bench.report.terminal import Column, Summary, VerdictLine
from bench.store.store import Store
from bench.view.runs import Runs
from bench.view.server import listen, make_app
from bench.workers.launch import Launch, Reporter

pytestmark = NEEDS_CHROMIUM
__all__ = ["browser"]
TOKEN = "0123456789abcdef"


@dataclass
class Served:
    """A running server, its address, and the run that goes on."""

    address: str
    store: Store
    reporter: Reporter

    def run(self, title: str) -> str:
        """Return the address of a run's page."""
        key = next(view.key for view in Runs(Path(self.store.location).parent).views() if view.title == title)
        return f"{self.address}run/{key}/"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A running run, a finished one with another method, and a stopped one of hostile names with verdicts."""
    root = tmp_path_factory.mktemp("results")
    going = make_store(root / "going")
    missing = record_of("tcd", 16, 0.0)
    cells = (*(key for key in going.run().cells if key != "missing"), missing.key)
    going.save_run(replace(going.run(), name="going", cells=cells))
    settings = {"batch_size": 40, "name": "going", "prompts": {}}
    Launch("20260101-000000-a", settings, (1.0,), cells, 40, time.time() - 100).save(going.files)
    reporter = Reporter(going.files, "20260101-000000-a", "w", "cpu")
    reporter.images = 200
    reporter.say()
    done = make_store(root / "done")
    one = next(iter(done.good_records()))
    done.save_run(replace(done.run(), name="done", cells=(one.key,), labels={"<b>ddim</b>": "DDIM"}))
    stopped = make_store(root / "stopped")
    stopped.save_run(replace(stopped.run(), claims=(CLAIM,), name="<em>run</em> " + "w" * 80))
    columns = (
        Column("method", ("TCD", "<b>ddim</b>"), False),
        Column("fid ↓", ("1.0 ± 0.1", "2.0 ± 0.1"), marks={0: "best"}),
    )
    line = VerdictLine("supported", "TCD <beats> " + "long " * 40, "fid@mini", "+1.00 [+0.50, +1.50]", 2)
    (root / "stopped" / "summary.json").write_text(Summary(columns, ("a note",), (line,)).to_json(), encoding="utf-8")
    (root / "stopped" / "report.html").write_text("<!doctype html><title>t</title><p>the report", encoding="utf-8")
    with listen(0) as listening, pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.workers.status.SILENT_S", float("inf"))  # the tests may take longer on a busy machine
        server = uvicorn.Server(uvicorn.Config(make_app(Runs(root), TOKEN), log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}/{TOKEN}/", going, reporter)
        server.should_exit = True
        thread.join(30)


@pytest.mark.parametrize(("width", "scheme"), WINDOWS)
def test_nothing_overflows_leaves_the_server_or_breaks_rules_of_accessibility(
    browser: Any, served: Served, width: int, scheme: str
) -> None:
    for title in ("", "going", "<em>run</em> " + "w" * 80):
        address = served.run(title) if title else served.address
        opened = Opened(browser, address, width, scheme)
        with opened as page:
            opened.check()
            assert all(url.startswith((served.address, "data:")) for url in opened.requests)
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


def test_the_list_is_filtered_searched_sorted_and_leads_to_reports(browser: Any, served: Served) -> None:
    with Opened(browser, served.address) as page:
        shown = "[...document.querySelectorAll('#runs tbody tr:not([hidden])')]"
        rows = f"{shown}.map(row => row.cells[0].firstChild.textContent)"
        hostile = "<em>run</em> " + "w" * 80
        assert set(page.evaluate(rows)) == {"going", "done", hostile}
        state = page.locator("#filters fieldset", has_text="State")
        state.get_by_role("button", name="running").click()
        assert page.evaluate(rows) == ["going"]
        state.get_by_role("button", name="finished").press("Enter")
        assert set(page.evaluate(rows)) == {"going", "done"}
        page.get_by_role("button", name="show all").press("Space")
        page.locator("#filters fieldset", has_text="Method").get_by_role("button", name="DDIM", exact=True).click()
        assert page.evaluate(rows) == ["done"]
        page.get_by_role("button", name="show all").click()
        page.locator(".search").fill("done")
        assert page.evaluate(rows) == ["done"]
        page.locator(".search").fill("")
        head = page.locator("th button", has_text="Run")
        head.press("Enter")
        assert page.evaluate(rows) == sorted(page.evaluate(rows), key=str.lower)
        page.get_by_role("link", name="report of").press("Enter")
        page.wait_for_url("**/report.html")
        assert page.locator("p").inner_text() == "the report"
        page.go_back()
        page.get_by_role("link", name=hostile, exact=True).click()
        assert "supported" in page.locator("#verdicts").inner_text()
        page.get_by_role("link", name="All runs").press("Enter")
        assert page.locator("h1").inner_text() == "Runs"


def test_a_running_run_is_brought_up_to_date_until_it_is_finished(browser: Any, served: Served) -> None:
    with Opened(browser, served.address) as listed, Opened(browser, served.run("going")) as own:
        row = "document.querySelector('#runs tr .running')?.closest('tr')"
        assert listed.evaluate(f"{row}.querySelector('progress').value") == 5
        assert "left" in listed.evaluate(f"{row}.querySelector('[data-live=left]').textContent")
        assert "5 of 7 cells done" in own.locator("pre").inner_text()
        served.store.commit(record_of("tcd", 16, 0.0))
        served.reporter.enter("done", None)
        served.reporter.say()
        for page in (listed, own):
            until(page, "[...document.querySelectorAll('[data-live=count]')].some(one => one.textContent === '6 of 7')")
            assert page.locator("[data-live=state]", has_text="finished").count() >= 1
