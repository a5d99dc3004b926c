"""From a run's directory to its report."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.analysis.claims import Judgement, judge_run
from bench.analysis.published import Beside, load_published, set_beside
from bench.analysis.scoring import ScoredCell, ScoredRun
from bench.gc_pause import collector_paused
from bench.parallel import map_forked
from bench.pictures import load_pictures
from bench.printable import printable, spreadsheet_text
from bench.records.run import Run
from bench.report.album import make_album
from bench.report.claim_views import answer
from bench.report.embedded_images import InputPicture, Picture
from bench.report.image_grid import PromptGrid, draw_grid, films, prompt_grids
from bench.report.joint import join_runs
from bench.report.page import render_page
from bench.report.paper import PAPER, Plot, make_paper
from bench.report.per_prompt import Difference, prompt_differences
from bench.report.published import beside_table, draw_beside
from bench.report.rows import read_rows
from bench.report.table_forms import FORMS
from bench.report.tables import cost_table, score_table, settings_table, verdict_table
from bench.report.terminal import SUMMARY, SUMMARY_DATA, summarise
from bench.store.store import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Made:
    """The files of a report by name, and stored files that are missing and without which it says less."""

    files: Mapping[str, bytes]
    lacks: Sequence[str]


@collector_paused()
def make_report(store: Store, inputs: str, runs: Sequence[Store] = (), beside: bool = False) -> Made:
    """Make everything, of the run in `store` or of several `runs`; the page carries the hash of its `inputs`.

    Pictures are in the page, or `beside` it.

    Raises Damaged for a feature file or an image, and BenchError for runs that cannot be joined.
    """
    from bench.report.data_frame import joined_scores_to_frame  # pandas is slow to import

    together = read_rows(store)
    scored = join_runs(store, runs, together.claims if together else ()) if runs else ScoredRun.load(store)
    run, cells, judgements = scored.run, scored.cells, judge_run(scored)
    pairs = _set_beside(scored)
    tables = {
        table.name: table
        for table in (
            *(verdict_table(run, judgements), score_table(run, scored.images), cost_table(run, cells)),
            *(beside_table(run, pairs), settings_table(run, cells)),
        )
        if table.rows and (table.name != "scores" or run.metrics)
    }
    frame = joined_scores_to_frame(scored)
    texts: list[str] = list(frame.select_dtypes("str").columns)
    frame[texts] = frame[texts].map(spreadsheet_text, na_action="ignore")
    files = {"scores.csv": frame.to_csv(index=False, lineterminator="\n").encode()}
    left_out = together.notes if together else []
    summary = summarise(run, cells, judgements, left_out)
    files |= {SUMMARY: summary.to_text().encode(), SUMMARY_DATA: summary.to_json().encode()}
    for table in tables.values():
        for suffix, write in FORMS.items():
            files[f"tables/{table.name}.{suffix}"] = str(write(table)).encode()
    plots = _draw_plots(run, cells, judgements, pairs)
    files |= {f"plots/{plot.stem}.{kind}": content for plot in plots for kind, content in plot.files.items()}
    files[PAPER] = make_paper(run.name, answer(run, judgements), plots, tables.values()).encode()
    grids = prompt_grids(scored)
    if grids:
        picture = io.BytesIO()
        draw_grid(grids).save(picture, format="PNG")
        files["grid.png"] = picture.getvalue()
    files |= films(grids)
    behind = prompt_differences(scored, judgements)
    album = make_album(_pictures(grids, behind.values()), beside)
    files |= album.files
    homes = {part.run.real_images: part.store for part in scored.parts if part.run.real_images}
    real = [shown for name, home in homes.items() for shown in load_pictures(home.files, "reference", name)]
    page = render_page(scored, judgements, tables, grids, behind, album, inputs, real, left_out)
    lacks = [] if runs else [*_missing_images(scored), *_missing_features(scored)]
    return Made({**files, "report.html": page.encode()}, lacks)


def _set_beside(scored: ScoredRun) -> list[Beside]:
    """Return the published numbers beside the run's; of several runs beside those of each, with its name."""
    numbers = load_published()
    if not scored.joined:
        return set_beside(scored.run, scored.cells, numbers)
    return [
        replace(pair, differences=(f"run {name}", *pair.differences))
        for name, part in scored.joined.items()
        for pair in set_beside(part.run, part.cells, numbers)
    ]


def _missing_images(scored: ScoredRun) -> list[str]:
    """Return names of missing kept images, at most a hundred; prints their number."""
    store = scored.store
    gone = [store.cell(s.record.key).image_name(row) for s in scored.cells for row in store.missing_images(s.record)]
    if gone:
        what = f"results={store.location}: {len(gone)} kept images are gone ({gone[0]} for one)"
        print(f"{what}; the same tcd-bench run samples them again", file=sys.stderr)
    return gone[:100]


def _missing_features(scored: ScoredRun) -> list[str]:
    """Names of features that finished cells are scored by and lack, at most a hundred."""
    folders = [scored.store.cell(s.record.key) for s in scored.cells if s.record.status == "ok"]
    sets = scored.run.features.values()
    return [folder.features_name(gone) for folder in folders for gone in folder.missing_features(sets)][:100]


def _pictures(
    grids: Sequence[PromptGrid], differences: Iterable[Difference]
) -> Iterator[tuple[Picture | InputPicture, int]]:
    """Yield every picture that the page shows, with its number of frames."""
    for grid in grids:
        yield from ((picture, grid.frames) for _, row in grid.rows for picture in row if picture)
        yield from ((picture, 1) for _, picture in grid.inputs)
    for difference in differences:
        for pair in (*difference.losses, *difference.gains):
            yield from ((picture, difference.frames) for picture in (*pair.subject, *pair.object))


def _draw_plots(
    run: Run, cells: Sequence[ScoredCell], judgements: Sequence[Judgement], pairs: Sequence[Beside]
) -> list[Plot]:
    """Draw the plots for papers."""
    import matplotlib as mpl

    from bench.report.plots import STYLE, plan_figures
    from bench.report.power import draw_power

    with mpl.rc_context(STYLE):
        planned = list(plan_figures(run, cells))
        if (chances := draw_power(judgements)) is not None:
            planned.append(
                ("power", "Chance of a verdict, should the measured gains be the true ones", lambda: chances)
            )
        if pairs:
            planned.append(("published", "Measured and published numbers", lambda: draw_beside(run, pairs)))
        drawn = map_forked(_to_pictures, [draw for *_, draw in planned], fewest=4)
    return [Plot(name, caption, *found) for (name, caption, _), found in zip(planned, drawn, strict=True)]


def _to_pictures(draw: Callable[[], Figure]) -> tuple[float, dict[str, bytes]]:
    """Return the figure's width in inches, and the figure as PNG, SVG and PDF.

    None has the moment or the program that made it; fonts are embedded.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    figure, png, svg, pdf = draw(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    figure.set_dpi(200)
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})  # type: ignore[no-untyped-call]
    figure.set_layout_engine("none")  # the layout is found once
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    nothing = dict.fromkeys(("CreationDate", "Creator", "Producer"))
    FigureCanvasPdf(figure).print_pdf(pdf, metadata=nothing)  # type: ignore[no-untyped-call]
    files = {"png": png.getvalue(), "svg": printable(svg.getvalue().decode()).encode(), "pdf": pdf.getvalue()}
    return figure.get_figwidth(), files
