"""The page in a real browser: the five questions of docs/explanation/report.md, every control by mouse and keyboard, at
three widths, light and dark, without a request and without violations of accessibility rules.

Needs Chromium on the path; playwright drives it.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browsing import NEEDS_CHROMIUM, WIDTHS, Opened, browser, until
from PIL import Image
from test_report import CLAIM, PROMPTS, keep, make_store

from bench.records.run import Claim, Side
from bench.report import build
from bench.report.write import write_report

pytestmark = NEEDS_CHROMIUM
__all__ = ["browser"]
HOSTILE = ("<img src=x onerror=alert(1)> </script>", "$x_1$", "long " * 400, "مرحبا \u202e", "🙂" * 60, "w" * 2000)
WORSE = Claim(
    "worse", "TCD at 2 steps is <not> worse than at 4", Side("tcd", (2,), 0.0), Side("tcd", (4,), 0.0),
    ("clip_score@mini", "fid@mini"), "not_worse", margins={"clip_score@mini": 0.1, "fid@mini": 0.1},
)  # fmt: skip


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., object]) -> Path:
    made = make_store(tmp_path_factory.mktemp("run"))
    for record in list(made.records()):
        if record.status == "ok":
            shade = 40 * record.cell.steps
            keep(made, record, [Image.new("RGB", (8, 8), (min(255, shade), 20 * row, 0)) for row in range(8)])
    run = made.run()
    prompts = (PROMPTS[0], *HOSTILE, *run.prompts[len(HOSTILE) + 1 :])
    made.save_run(replace(run, prompts=prompts, claims=(CLAIM, WORSE)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_to_pictures", draw)
        return Path(write_report(made))


@pytest.fixture(scope="module")
def opened(browser: Any, page_path: Path) -> Iterator[Any]:
    with Opened(browser, page_path.as_uri()) as page:
        yield page


@pytest.fixture
def first_screen(opened: Any) -> Any:
    """The page as it is when it was opened, but for what was chosen at equal cost."""
    opened.evaluate(
        "document.querySelectorAll('.claim').forEach(one => one.open = false); "
        "document.getElementById('viewer').close(); scrollTo(0, 0)"
    )
    return opened


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_leaves_the_page_or_breaks_rules_of_accessibility(
    browser: Any, page_path: Path, width: int, scheme: str
) -> None:
    opened = Opened(browser, page_path.as_uri(), width, scheme)
    with opened as page:
        opened.draw_everything()
        opened.check()
        assert [url for url in opened.requests if not url.startswith("data:")] == [page_path.as_uri()]
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


def test_is_tcd_better_and_by_how_much_is_on_the_first_screen(first_screen: Any) -> None:
    page = first_screen
    claim = page.locator(".claim").first
    assert claim.bounding_box()["y"] < 900
    text = claim.locator("summary").first.inner_text()
    assert "TCD <beats> itself" in text
    assert "[" in text, "the adjusted interval"
    claim.locator("summary").first.click()
    assert claim.locator("table").first.is_visible()


def test_at_equal_latency_takes_two_actions(first_screen: Any) -> None:
    page = first_screen
    page.locator(".contents a", has_text="Equal cost").click()
    page.locator("#equal-kind").select_option("latency")
    assert page.locator("#equal-said").inner_text() == "up to 400 ms per image", "at which most lines have a cell"
    rows = page.locator("#equal-rows tbody tr")
    assert rows.first.is_visible()
    count = rows.count()
    assert count == 3
    widths = "[...document.querySelectorAll('#equal .shot')].map(one => one.getBoundingClientRect().width)"
    assert len(set(page.evaluate(widths))) == 1, "those that are not loaded yet are as wide"
    page.locator("#equal-budget").press("Home")
    assert page.locator("#equal-said").inner_text() == "up to 200 ms per image"
    assert all("2 steps" in row for row in rows.all_inner_texts()), "4 steps take 400 ms"
    assert 0 < rows.count() < count


def test_what_eta_does_is_a_link_away(first_screen: Any) -> None:
    page = first_screen
    page.locator(".contents a", has_text="Charts").click()
    panels = page.locator("#charts-by-eta + p + .charts .chart h4")
    assert panels.all_inner_texts() == ["fid_mini_n40", "clip_score_mini_n40"]
    panels.first.scroll_into_view_if_needed()
    page.wait_for_selector("#charts-by-eta + p + .charts svg path")


def test_where_it_fails_worst_is_behind_the_claim(first_screen: Any) -> None:
    page = first_screen
    claim = page.locator(".claim").first
    claim.locator("summary").first.press("Enter")
    losses = claim.locator(".losses .pair")
    assert losses.count() > 0
    until(page, "document.querySelector('.losses .pair img').naturalWidth > 0")
    losses.first.locator(".shot").first.press("Enter")
    assert page.locator("#viewer").is_visible()
    assert "against" in page.locator("#viewer-said").inner_text()


def test_what_was_run_is_a_link_away(first_screen: Any) -> None:
    page = first_screen
    page.locator(".contents a", has_text="Run").press("Enter")
    until(page, "scrollY > 100")
    assert "Extractors" in page.locator("#run").inner_text()


def test_pictures_are_walked_by_arrow_keys_and_compared_by_slider_and_flicker(browser: Any, page_path: Path) -> None:
    with Opened(browser, page_path.as_uri()) as page:
        page.locator("#wall .shot").first.focus()
        page.keyboard.press("Enter")
        said = page.locator("#viewer-said")
        first, prompt = said.inner_text(), page.locator("#viewer-prompt").inner_text()
        page.keyboard.press("ArrowRight")
        assert said.inner_text() != first
        page.keyboard.press("ArrowLeft")
        assert said.inner_text() == first
        page.keyboard.press("ArrowDown")
        assert page.locator("#viewer-prompt").inner_text() != prompt
        page.locator("#viewer-against").select_option(index=2)
        page.locator("#viewer-mode").select_option("slider")
        page.locator("#viewer-divide").fill("25")
        second = page.locator("#viewer-second")
        assert second.evaluate("one => one.style.clipPath") == "inset(0px 0px 0px 25%)"
        page.locator("#viewer-mode").select_option("flicker")
        until(page, "document.getElementById('viewer-second').style.visibility === 'hidden'")
        until(page, "document.getElementById('viewer-second').style.visibility === ''")
        page.keyboard.press("Escape")
        assert not page.locator("#viewer").is_visible()


def test_tables_sort_search_follow_the_filters_and_are_copied(browser: Any, page_path: Path) -> None:
    with Opened(browser, page_path.as_uri()) as page:
        table = page.locator("#table-scores")
        rows = "[...document.querySelectorAll('#table-scores tbody tr:not([hidden])')]"
        steps = f"{rows}.map(row => row.cells[4].textContent)"
        head = table.locator("th button", has_text="Steps")
        head.click()
        up = page.evaluate(steps)
        assert up == sorted(up, key=int)
        head.press("Enter")
        assert page.evaluate(steps) == sorted(up, key=int, reverse=True)
        table.locator(".search").fill("ddim")
        assert len(page.evaluate(steps)) == 1
        table.locator(".search").fill("")
        page.locator("#filters button", has_text="2").first.scroll_into_view_if_needed()
        page.locator("#filters fieldset", has_text="Steps").get_by_role("button", name="2", exact=True).press("Enter")
        assert set(page.evaluate(steps)) == {"2"}
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        table.locator(".copy").select_option("csv")
        until(page, "document.querySelector('#table-scores .count').textContent.startsWith('copied')")
        lines = page.evaluate("navigator.clipboard.readText()").splitlines()
        written = (page_path.parent / "tables" / "scores.csv").read_text(encoding="utf-8").splitlines()
        assert lines[0] == written[0]
        assert len(lines) == 3
        assert {*lines} < {*written}
        page.get_by_role("button", name="show all").press("Enter")
        assert len(page.evaluate(steps)) == len(written) - 1


def test_long_tables_and_walls_show_their_first_rows_until_all_are_asked_for(browser: Any, page_path: Path) -> None:
    with Opened(browser, page_path.as_uri()) as page:
        rows = "[...document.querySelectorAll('#table-scores tbody tr')]"
        add = "document.querySelector('#table-scores .scroll').after(more)"
        page.evaluate(f"{{ const [more] = page.beyond(() => {rows}, 2, 'rows'); {add} }}")
        shown = f"{rows}.filter(row => row.checkVisibility()).length"
        count = page.evaluate(f"{rows}.length")
        assert page.evaluate(shown) == 2 < count
        page.emulate_media(media="print")
        assert page.evaluate(shown) == count
        page.emulate_media(media="screen")
        page.get_by_role("button", name=f"Show all {count} rows").press("Enter")
        assert page.evaluate(shown) == count
        assert page.locator("#table-scores .more:visible").count() == 0


def test_charts_answer_to_the_mouse_and_to_keys(browser: Any, page_path: Path) -> None:
    opened = Opened(browser, page_path.as_uri())
    with opened as page:
        opened.draw_everything()
        page.locator("#charts .chart").first.scroll_into_view_if_needed()
        until(page, "!page.scrolls()")
        page.evaluate("page.light(page.data.cells[0].key)")
        assert page.evaluate("document.querySelector('tr.hot').dataset.key === page.data.cells[0].key")
        box = page.locator("#charts .chart").first.locator(".mark-symbol path").last.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_selector(".tip:not([hidden])")
        tip = page.locator(".tip").inner_text()
        assert "protocol" in tip
        assert "40 images" in tip
        texts = "document.querySelector('#charts .chart svg').querySelectorAll('text')"
        said = f"[...{texts}].map(one => one.textContent).sort().join()"
        whole = page.evaluate(said)
        page.locator("#charts .chart > div").first.focus()
        page.keyboard.press("+")
        until(page, f"{said} !== {whole!r}")
        page.keyboard.press("0")
        until(page, f"{said} === {whole!r}")


def test_the_colours_can_be_switched_and_print_shows_every_picture(browser: Any, page_path: Path) -> None:
    with Opened(browser, page_path.as_uri()) as page:
        page.locator("#theme").press("Enter")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("[...document.querySelectorAll('img[data-picture]')].every(one => one.src)")
        page.emulate_media(media="print")
        assert not page.locator(".contents").is_visible()
