"""From a run's directory to everything that people look at."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from bench.judge.claims import judge_claims
from bench.judge.scores import ScoredCell, score_run
from bench.records import Run
from bench.report.grid import draw_grid, prompt_grids
from bench.report.page import Plot, render_page
from bench.report.plots import STYLE, draw_figures
from bench.report.tables import cost_table, score_table, scores_to_csv, to_csv, to_latex, to_markdown, verdict_table
from bench.store import Store


def write_report(store: Store) -> Path:
    """Write scores.csv, tables/, plots/, grid.png and report.html into the run's directory; returns the page's path."""
    run = store.run()
    cells = score_run(store, run)
    judgements = judge_claims(run, cells)
    tables = {
        table.name: table
        for table in (verdict_table(judgements), score_table(run, cells), cost_table(run, cells))
        if table.rows
    }
    store.write_text("scores.csv", scores_to_csv(run, cells))
    for table in tables.values():
        for suffix, write in (("md", to_markdown), ("tex", to_latex), ("csv", to_csv)):
            store.write_text(f"tables/{table.name}.{suffix}", write(table))
    plots = _draw_plots(run, cells)
    for plot in plots:
        store.write_bytes(f"plots/{plot.name}.png", plot.png)
        store.write_bytes(f"plots/{plot.name}.svg", plot.svg)
    grids = prompt_grids(store, run, cells)
    if grids:
        picture = io.BytesIO()
        draw_grid(grids).save(picture, format="PNG")
        store.write_bytes("grid.png", picture.getvalue())
    return store.write_text("report.html", render_page(run, cells, judgements, tables, plots, grids))


def _draw_plots(run: Run, cells: Sequence[ScoredCell]) -> list[Plot]:
    with mpl.rc_context(STYLE):
        figures = list(draw_figures(run, cells))
        return [Plot(name, caption, _to_png(figure), _to_svg(figure)) for name, caption, figure in figures]


def _to_png(figure: Figure) -> bytes:
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(content, format="png", dpi=150, metadata={"Software": None})
    return content.getvalue()


def _to_svg(figure: Figure) -> bytes:
    content = io.BytesIO()
    FigureCanvasSVG(figure).print_figure(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()
