"""The page: one self-contained HTML file, every text escaped, readable on a phone and without a network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from bench.analysis.claims import Judgement
from bench.analysis.scoring import ScoredCell, ScoredRun
from bench.printable import printable
from bench.records.reference import reference_in_words
from bench.records.run import Run
from bench.report import comparisons
from bench.report.album import Album
from bench.report.claim_views import answer, claim_views
from bench.report.embedded_images import embedded
from bench.report.identity import sample_in_words
from bench.report.image_grid import PromptGrid
from bench.report.page_data import page_data
from bench.report.per_prompt import CURVE_HEIGHT, CURVE_WIDTH, Difference
from bench.report.sentences import Sentence, sentences
from bench.report.table_forms import FORMS
from bench.report.tables import Table
from bench.report.ties import MARKS, MARKS_IN_WORDS

WEB = Path(__file__).parent / "web"
SCRIPTS = ("base.js", "tables.js", "viewer.js", "pictures.js", "charts.js")
_VEGA = ("vega.min.js", "vega-lite.min.js", "vega-interpreter.js")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
_WORDS = (
    *("metric_in_words", "would_decide", "looks_in_words", "opponent_in_words", "gain_in_words", "digits_of"),
    *("interval_in_words", "threshold_in_words"),
)
"""Functions of bench.report.comparisons that templates use as filters."""


def render_page(
    scored: ScoredRun,
    judgements: Sequence[Judgement],
    tables: Mapping[str, Table],
    grids: Sequence[PromptGrid],
    differences: Mapping[str, Difference],
    album: Album,
    inputs: str,
    real: Sequence[tuple[str, bytes]] = (),
    left_out: Sequence[str] = (),
) -> str:
    """Return the HTML; `inputs` is the fingerprint of what it was made from, and is kept in its head.

    `album` has the pictures of `grids` and `differences`. `real` are some of the reference images, each with its
    caption, as PNG. `left_out` are sentences on the rows that are not in it.
    """
    run, cells = scored.run, scored.cells
    claims = claim_views(judgements, differences)
    said = sentences(claims, scored.images, grids)
    shown = {
        **page_data(scored, grids, album),
        "tables": {name: _forms(table) for name, table in tables.items()},
        "gains": {view.anchor: view.difference.of_prompts for view in claims if view.difference},
    }
    return render_template(
        "page.html.j2",
        [*_VEGA, *SCRIPTS] if cells else SCRIPTS,
        inputs=inputs,
        run=run,
        joined={name: part.store.location for name, part in scored.joined.items()},
        images=_image_counts(scored),
        cells=cells,
        failed=[cell for cell in cells if cell.record.failure],
        unscored=_unscored(cells),
        waiting=len(run.cells) - len(cells),
        overridden=_overridden(cells),
        left_out=left_out,
        sentence=answer(run, judgements),
        claims=claims,
        sentences=said,
        tables=tables,
        marks=MARKS,
        marks_in_words=MARKS_IN_WORDS,
        grids=grids,
        album=album,
        picture_note=album.note,
        real=real,
        curve_width=CURVE_WIDTH,
        curve_height=CURVE_HEIGHT,
        machines=list({str(cell.record.environment): cell.record.environment for cell in cells}.values()),
        facts=_joint_facts(scored),
        contents=_contents(cells, grids, real, said),
        data=as_json(shown),
    )


def render_template(
    template: str, scripts: Sequence[str], folder: Path = WEB, live: bool = False, **values: Any
) -> str:
    """Render a page from a template of this package or of `folder`: every text is escaped, a missing name is an error.

    `scripts` are names of files of either; the content security policy lets the page run these and load nothing, but
    for a `live` page, which may ask its own server.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([WEB, folder]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters.update({name: getattr(comparisons, name) for name in _WORDS}, embedded=embedded)
    environment.filters.update(
        fixed=lambda value, digits: f"{value:.{digits}f}", signed=lambda value, digits: f"{value:+.{digits}f}"
    )
    texts = [_script(name, folder) for name in scripts]
    policy = _policy(texts) + ("; connect-src 'self'" if live else "")
    environment.globals.update(scripts=[Markup(text) for text in texts], policy=policy)  # noqa: S704
    return environment.get_template(template).render(**values)


def _script(name: str, folder: Path) -> str:
    """Return a script's text; the released files of Vega without the names of their source maps, and as scripts."""
    if name not in _VEGA:
        return next(path for path in (WEB / name, folder / name) if path.exists()).read_text(encoding="utf-8")
    text = (WEB / "vega" / name).read_text(encoding="utf-8")
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("//# sourceMappingURL="))
    if name == "vega-interpreter.js":  # published as a module only
        text = text.replace("from 'vega-util';", "= vega;").replace("import {", "const {", 1)
        text = text.replace("export { expression as expressionInterpreter };", "vega.interpreter = expression;")
        text = f"{{\n{text}}}"
    return text


def _policy(scripts: Sequence[str]) -> str:
    """Return the content security policy: embedded pictures or those in the page's folder, and these scripts only."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"{_POLICY}img-src data: 'self' file:; script-src {allowed}"


def as_json(values: Mapping[str, Any]) -> Markup:
    """Return JSON that cannot end the element it stands in."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(printable(text).replace("<", "\\u003c"))  # noqa: S704


def _forms(table: Table) -> dict[str, Any]:
    """Return a table in the forms in which it can be copied: lines before the rows, rows, lines after them."""
    written = {form: write(table) for form, write in FORMS.items()}
    return {form: [text.head, text.rows, text.foot] for form, text in written.items()}


def _contents(
    cells: Sequence[ScoredCell], grids: Sequence[PromptGrid], real: Sequence[object], said: Sequence[Sentence]
) -> list[tuple[str, str]]:
    """Return the anchors and titles of the sections that the page has."""
    links = {
        **{"answer": ("Answer", True), "equal-cost": ("Equal cost", bool(grids)), "guide": ("The guide", bool(said))},
        **{"charts": ("Charts", bool(cells)), "pictures": ("Pictures", bool(grids or real))},
    }
    shown = [(anchor, title) for anchor, (title, there) in links.items() if there]
    return [*shown, ("tables", "Tables"), ("run", "Run")]


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
    samples = {sample_in_words(part.run, part.cells): len(part.run.prompts) for part in scored.parts}
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
            f"{sum(r.images.count for r in good if r.images):,}, {sample_in_words(run, cells)} per cell, "
            f"seed {settings['seed']}",
        ),
        ("Sampling", f"{seconds:.0f} s in pipeline calls, batches of {settings['batch_size']}"),
        ("Extractors", "; ".join(f"{name}, {_named(own)}" for name, own in settings["extractors"].items()) or "none"),
        ("Reference", reference),
    ]
