"""The page: one self-contained HTML file, every text escaped, readable on a phone and without a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from bench.analysis.claims import Judgement
from bench.analysis.scoring import ScoredCell, ScoredRun
from bench.printable import printable
from bench.records.reference import reference_in_words
from bench.records.run import Run
from bench.report.comparisons import looks_in_words, metric_in_words, opponent_in_words, would_decide
from bench.report.embedded_images import to_data_uri
from bench.report.image_grid import PromptGrid
from bench.report.per_prompt import HEIGHT, WIDTH, Difference
from bench.report.tables import Table


@dataclass(frozen=True)
class Plot:
    """A drawn plot: its file stem, caption, and PNG and SVG bytes."""

    name: str
    caption: str
    png: bytes
    svg: bytes


def render_page(
    scored: ScoredRun,
    judgements: Sequence[Judgement],
    tables: Mapping[str, Table],
    plots: Sequence[Plot],
    grids: Sequence[PromptGrid],
    pairs: Sequence[Difference],
    inputs: str,
    real: Sequence[tuple[str, bytes]] = (),
) -> str:
    """Return the HTML; `inputs` is the fingerprint of what it was made from, and is kept in its head.

    `real` are some of the reference images, each with its caption, as PNG.
    """
    run, cells = scored.run, scored.cells
    return (
        templates()
        .get_template("page.html.j2")
        .render(
            inputs=inputs,
            run=run,
            joined={name: part.store.location for name, part in scored.joined.items()},
            images=_image_counts(scored),
            cells=cells,
            failed=[cell for cell in cells if cell.record.failure],
            unscored=_unscored(cells),
            waiting=len(run.cells) - len(cells),
            overridden=_overridden(cells),
            judgements=judgements,
            tables=tables,
            plots=plots,
            grids=grids,
            real=real,
            differences=pairs,
            curve_width=WIDTH,
            curve_height=HEIGHT,
            machines=list({str(cell.record.environment): cell.record.environment for cell in cells}.values()),
            facts=_joint_facts(scored),
        )
    )


def templates(*folders: Path) -> jinja2.Environment:
    """Templates of this package and of `folders`: every text is escaped, a missing name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, *folders]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters.update(picture=to_data_uri, metric_in_words=metric_in_words, would_decide=would_decide)
    environment.filters.update(looks_in_words=looks_in_words, opponent_in_words=opponent_in_words)
    script = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
    environment.globals.update(script=Markup(script), policy=_policy(script))  # noqa: S704
    return environment


def _policy(script: str) -> str:
    """Return the content security policy of all pages: embedded content only, and this script only."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{digest}'"
    )


def _overridden(cells: Sequence[ScoredCell]) -> list[str]:
    """Base models that were sampled by another noise schedule than their checkpoint's, with both."""
    found = []
    for base in {cell.record.cell.base.name: cell.record.cell.base for cell in cells}.values():
        if own := base.checkpoint_schedule:
            parts = [part for part in {**own, **base.noise_schedule} if own.get(part) != base.noise_schedule.get(part)]
            pairs = [f"{part} {base.noise_schedule.get(part)}, trained with {own.get(part)}" for part in parts]
            found.append(f"{base.name} ({'; '.join(pairs)})")
    return found


def _unscored(cells: Sequence[ScoredCell]) -> list[tuple[str, str, str]]:
    """Return missing scores, their cells, and the reason; one entry per reason."""
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for cell in cells:
        for metric, problem in cell.problems.items():
            metrics, labels = found.setdefault(problem, ({}, {}))
            metrics[metric], labels[cell.label] = None, None
    good = sum(cell.record.status == "ok" for cell in cells)
    return [
        (", ".join(metrics), "all cells" if len(labels) == good > 3 else ", ".join(labels), problem)
        for problem, (metrics, labels) in found.items()
    ]


def _image_counts(scored: ScoredRun) -> str:
    """Return the images per cell, as `512 images of 64 prompts` or, of several runs, `256 images or 512 images`."""
    samples = {part.run.sample: len(part.run.prompts) for part in scored.parts}
    return " or ".join(sorted(samples, key=lambda sample: samples[sample]))


def _joint_facts(scored: ScoredRun) -> list[tuple[str, str]]:
    """Return the facts of a run; of several, those of each where they differ."""
    facts = [_facts(part.run, part.cells) for part in scored.parts]
    found = []
    for entries in zip(*facts, strict=True):
        values = {name: text for name, (_, text) in zip(scored.joined, entries, strict=False)}
        alike = len({text for _, text in entries}) == 1
        found.append(entries[0] if alike else (entries[0][0], "; ".join(f"{n}: {text}" for n, text in values.items())))
    return found


def _named(extractor: Mapping[str, str]) -> str:
    return " ".join(filter(None, (extractor.get("own"), extractor["source"])))


def _facts(run: Run, cells: Sequence[ScoredCell]) -> list[tuple[str, str]]:
    good = [cell.record for cell in cells if cell.record.status == "ok"]
    settings, seconds = run.settings, sum(record.sampling_s for record in good)
    bases = {cell.record.cell.base.name: cell.record.cell.base.noise_schedule for cell in cells}
    schedules = [f"{name}: {', '.join(f'{k} {v}' for k, v in own.items())}" for name, own in bases.items()]
    reference = "none: no score needs one"
    if run.real_images is not None:
        reference = f"{reference_in_words(settings['reference'])} ({run.real_images})"
    return [
        ("Task", settings["task"]["kind"].replace("_", " ")),
        ("Base models", ", ".join(settings["models"])),
        ("Noise schedules", "; ".join(schedules)),
        ("Methods", ", ".join(run.labels.get(name, name) for name in settings["methods"])),
        ("Cells", f"{len(good)} of {len(run.cells)} done"),
        (
            "Images",
            f"{sum(r.images.count for r in good if r.images):,}, {run.sample} per cell, seed {settings['seed']}",
        ),
        ("Sampling", f"{seconds:.0f} s in pipeline calls, batches of {settings['batch_size']}"),
        ("Extractors", "; ".join(f"{name}, {_named(own)}" for name, own in settings["extractors"].items()) or "none"),
        ("Reference", reference),
    ]
