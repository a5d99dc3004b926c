"""Several runs as one for a report, told apart by what differs between them.

Every cell of every run keeps its record, with its own latency and memory. Cells of the same key are the same cell: they
are scored and compared once, by all scores that any of the runs has for them. A score whose protocol differs between
runs (extractor, preparation of images, reference) has a name for each, so that no claim compares them.

Claims compare cells of one setting: base model, task, prompts, seed, device, batch size and versions are alike, and so
are the images of every cell that several runs have. Runs of one setting are compared as if they were one run. A claim
is judged in each setting of a run that makes it, by the rules for several base models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import PurePath
from typing import Any

from numpy.typing import NDArray

from bench.analysis.scoring import ScoredCell, ScoredRun, StoredFeatures, fingerprint
from bench.records.cell import Cell, SchedulerSpec
from bench.records.errors import BenchError, Damaged
from bench.records.record import Record
from bench.records.run import Claim, Run
from bench.records.score import split_score
from bench.report.identity import differing_fields, fields_in_words, head_of
from bench.score.metrics import metric_of
from bench.store.store import Store

MACHINE, RUN = "Machine", "Run"
_TEXT_HASH = "prompts.text_hash"


@dataclass(frozen=True)
class _SharedFeatures(StoredFeatures):
    """The features of a cell that several runs have."""

    others: tuple[StoredFeatures, ...] = ()

    def features_of(self, record: Record, name: str) -> Mapping[str, NDArray[Any]] | None:
        """Return a set of features, of the first of the runs that has it."""
        found = (own.features_of(record, name) for own in self.others)
        return next((features for features in found if features is not None), None)


@dataclass(frozen=True)
class _Entry:
    """A cell of one of the runs, and its group: cells that claims may compare with each other.

    `whole` is the cell with all images of its run, of which it may have fewer.
    """

    run: str
    scored: ScoredCell
    whole: Cell
    group: tuple[str, ...]

    @property
    def images(self) -> tuple[str, ...]:
        """What is equal for the same cell of several runs."""
        return (*self.group, self.scored.record.cell.method, self.scored.record.key)

    @property
    def place(self) -> tuple[str, ...]:
        """What is equal for the same cell of several runs, whatever its number of images."""
        return (*self.group, self.scored.record.cell.method, self.whole.key)


def join_runs(output: Store, stores: Sequence[Store], more_claims: Sequence[Claim] = ()) -> ScoredRun:
    """Load and score several runs as one, whose report is written to `output`; all of them make `more_claims`.

    Raises BenchError where a directory holds no run of this version, or runs contradict each other; Damaged.
    """
    requests = [_request(store) for store in stores]
    names = _name_runs([store.location for store in stores], requests)
    joined = {
        name: ScoredRun.load(store, run)
        for name, store, run in zip(names, stores, _keep_protocols_apart(requests), strict=True)
    }
    _refuse_contradictions(joined)
    entries = [*_entries(joined)]
    places = _places(joined)
    told = _tell_apart(entries)
    words = _settings_in_words(entries, told, places)
    shared = _share_scores(entries)
    cells = tuple(
        replace(
            shared[e.images],
            record=e.scored.record,
            estimates=shared[e.images].estimates if e.scored.record.status == "ok" else {},
            disturbed=e.scored.disturbed,
            traits=traits,
            setting=", ".join(f"{head} {text}" for head, text in traits.items()),
        )
        for e, traits in zip(entries, told, strict=True)
    )
    distinct = _distinct(entries, told, shared, words)
    claims = _claims({name: part.run for name, part in joined.items()})
    claims += [(claim, tuple(joined)) for claim in more_claims]
    compared = {
        claim.name: _compared(claim, makers, entries, cells, distinct, words, places) for claim, makers in claims
    }
    run = _joint_request(names, [part.run for part in joined.values()], tuple(claim for claim, _ in claims))
    return ScoredRun(output, run, cells, joined, compared, tuple(distinct.values()))


def machine_of(record: Record) -> str:
    """Return the name of the GPU, or of the processor of a run without one."""
    gpus = record.environment.get("gpus") or ()
    return str(gpus[0].get("name") if gpus else record.environment.get("processor", "unknown"))


def _request(store: Store) -> Run:
    try:
        return store.run()
    except Damaged:
        raise
    except BenchError as error:
        raise BenchError(
            str(error) if store.location in str(error) else f"results={store.location}: {error}"
        ) from error


def _name_runs(locations: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Return the runs' names where they are distinct, else the part of their locations that is."""
    parts = [PurePath(location.rstrip("/")).parts for location in locations]
    shortest = min(map(len, parts))
    before = next((i for i in range(shortest) if len({own[i] for own in parts}) > 1), shortest)
    after = next((i for i in range(shortest) if len({own[-1 - i] for own in parts}) > 1), 0)
    inner = ["/".join(own[before : len(own) - after]) for own in parts]
    for names in ([run.name for run in runs], [own[-1] for own in parts], inner):
        if all(names) and len(set(names)) == len(names):
            return names
    return list(locations)


def _keep_protocols_apart(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with another name for each score whose protocol differs between them: `fid@mini-1a2b3c`."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for score in run.metrics:
            found.setdefault(score, set()).add(fingerprint(run, score, 0))
    apart = [score for score, protocols in found.items() if len(protocols) > 1]
    return [_rename(run, [score for score in run.metrics if score in apart]) if apart else run for run in runs]


def _rename(run: Run, scores: Sequence[str]) -> Run:
    names, features = dict[str, str](), dict(run.features)
    references, protocols = dict(run.references), dict(run.protocols)
    for score in scores:
        metric, (short, extractor) = metric_of(score), split_score(score)
        own = "-".join(filter(None, (extractor, fingerprint(run, score, 0)[:6])))
        names[score] = f"{short}@{own}"
        features[own] = run.features[metric.feature_set]
        if metric.needs_reference and metric.extractor in run.references:
            references[own] = run.references[metric.extractor]
        if metric.extractor in run.protocols:
            protocols[own] = run.protocols[metric.extractor]
    claims = tuple(
        replace(
            claim,
            metrics=tuple(names.get(score, score) for score in claim.metrics),
            margins={names.get(score, score): margin for score, margin in claim.margins.items()},
        )
        for claim in run.claims
    )
    metrics = tuple(names.get(score, score) for score in run.metrics)
    return replace(run, metrics=metrics, claims=claims, features=features, references=references, protocols=protocols)


def _refuse_contradictions(joined: Mapping[str, ScoredRun]) -> None:
    """Raise BenchError where a cell has other images in another run on an equal machine."""
    # On another machine rounding may differ: those cells are told apart.
    for (one, first), (other, second) in combinations(joined.items(), 2):
        known = {cell.record.key: cell.record for cell in first.cells if cell.record.images}
        for cell in second.cells:
            same = known.get(cell.record.key)
            if same is None or cell.record.images is None or same.images_hash == cell.record.images_hash:
                continue
            if (machine := machine_of(same)) == machine_of(cell.record):
                raise BenchError(
                    f"results: {cell.record.cell.label} (cell {cell.record.key}) has other images in {one} "
                    f"({first.store.location}) than in {other} ({second.store.location}), both sampled on {machine}; "
                    "compare them with `tcd-bench gate`, and leave one of these runs out of the report"
                )


def _entries(joined: Mapping[str, ScoredRun]) -> Iterator[_Entry]:
    """Yield all cells, run by run; runs whose cells of one setting are not the same are separate groups."""
    images: dict[tuple[Any, ...], set[tuple[str, str]]] = {}
    for part in joined.values():
        for scored, cell in _whole_cells(part):
            place = (*_setting_key(cell), cell.method, cell.steps, cell.eta, cell.guidance_scale)
            if (record := scored.record).status == "ok":
                images.setdefault(place, set()).add((cell.key, ""))
                images.setdefault((*place, record.key), set()).add((record.key, record.images_hash))
    differing = {place[:2] for place, found in images.items() if len(found) > 1}
    for name, part in joined.items():
        for scored, cell in _whole_cells(part):
            key = _setting_key(cell)
            yield _Entry(name, scored, cell, (*key, name) if key in differing else key)


def _whole_cells(part: ScoredRun) -> Iterator[tuple[ScoredCell, Cell]]:
    """Yield the cells of a run, each also with the prompts of the one that has the most."""
    most = max((scored.record.cell for scored in part.cells), key=lambda cell: cell.prompts.count, default=None)
    for scored in part.cells:
        cell = scored.record.cell
        if most is not None and cell.prompts != most.prompts:
            cell = replace(cell, prompts=most.prompts, task=replace(cell.task, inputs=most.task.inputs))
        yield scored, cell


def _setting_of(cell: Cell) -> Cell:
    """Return the cell without what a method chooses: what cells of one run have in common."""
    return replace(
        cell, method="", scheduler=SchedulerSpec(""), adapters=(), fused=False, steps=0, eta=None, guidance_scale=0.0
    )


def _setting_key(cell: Cell) -> tuple[str, str]:
    return cell.base.name, _setting_of(cell).key


def _places(joined: Mapping[str, ScoredRun]) -> dict[str, str]:
    """Return where each run ran: its machines where those of all runs are distinct, else the run's name."""
    machines = {
        name: ", ".join(dict.fromkeys(machine_of(scored.record) for scored in part.cells))
        for name, part in joined.items()
    }
    return machines if len(set(machines.values())) == len(machines) else {name: f"run {name}" for name in joined}


def _tell_apart(entries: Sequence[_Entry]) -> list[dict[str, str]]:
    """Return the traits of each cell, of those in which runs differ: fields of settings, machine, or else the run."""
    settings: dict[str, dict[str, Cell]] = {}
    for entry in entries:
        base, key = _setting_key(entry.whole)
        settings.setdefault(base, {})[key] = _setting_of(entry.whole)
    paths = list(dict.fromkeys(path for known in settings.values() for path in _differing([*known.values()])))
    several = len({machine_of(entry.scored.record) for entry in entries}) > 1
    found = []
    for entry in entries:
        fields = fields_in_words(entry.whole)
        traits = {_in_a_head(path): fields[path] for path in paths if path in fields}
        found.append({**traits, **({MACHINE: machine_of(entry.scored.record)} if several else {})})
    seen = [(*entry.images[-2:], *traits.items()) for entry, traits in zip(entries, found, strict=True)]
    if len(set(seen)) < len(seen):
        return [{**traits, RUN: entry.run} for entry, traits in zip(entries, found, strict=True)]
    return found


def _differing(settings: Sequence[Cell]) -> list[str]:
    """Return the fields in which settings differ; other prompts are named by a hash only where nothing else tells."""
    paths = [path for path in differing_fields(settings) if not path.endswith("source")]
    others = [path for path in paths if path != _TEXT_HASH]
    told = {tuple(fields_in_words(cell).get(path) for path in others) for cell in settings}
    return others if len(told) == len(settings) else paths


def _in_a_head(path: str) -> str:
    return head_of(path).removeprefix("versions ").capitalize()


def _settings_in_words(
    entries: Sequence[_Entry], told: Sequence[Mapping[str, str]], places: Mapping[str, str]
) -> dict[tuple[str, ...], str]:
    """Return what tells a group from the others of its base model: `Seed 1`; empty for the only one."""
    traits = {
        entry.group: {head: text for head, text in own.items() if head not in (MACHINE, RUN)}
        for entry, own in zip(entries, told, strict=True)
    }
    found = {}
    for group, own in traits.items():
        others = [other for key, other in traits.items() if key[0] == group[0]]
        said = [f"{head} {text}" for head, text in own.items() if len({other.get(head) for other in others}) > 1]
        found[group] = ", ".join([*said, *(places[name] for name in group[2:])])
    return found


def _share_scores(entries: Sequence[_Entry]) -> dict[tuple[str, ...], ScoredCell]:
    """Return, by its images, each cell with the scores that any run has for it; a finished one where there is one."""
    copies: dict[tuple[str, ...], list[ScoredCell]] = {}
    for entry in entries:
        copies.setdefault(entry.images, []).append(entry.scored)
    found = {}
    for images, own in copies.items():
        own.sort(key=lambda scored: (scored.record.status != "ok", not _keeps_images(scored.record)))
        estimates = {name: estimate for scored in reversed(own) for name, estimate in scored.estimates.items()}
        problems = {name: why for scored in own for name, why in scored.problems.items() if name not in estimates}
        sources = tuple(scored.source for scored in own if scored.source is not None)
        real = {name: images for own_source in reversed(sources) for name, images in own_source.real.items()}
        source = _SharedFeatures(sources[0].store, sources[0].run, real, sources) if sources else None
        cut = {name: count for scored in own for name, count in scored.cut_prompts.items()}
        found[images] = replace(own[0], estimates=estimates, problems=problems, cut_prompts=cut, source=source)
    return found


def _keeps_images(record: Record) -> bool:
    return bool(record.images and record.images.hashes)


def _distinct(
    entries: Sequence[_Entry],
    told: Sequence[Mapping[str, str]],
    shared: Mapping[tuple[str, ...], ScoredCell],
    words: Mapping[tuple[str, ...], str],
) -> dict[tuple[str, ...], ScoredCell]:
    """Return each cell once, by its images, with the traits in which these cells still differ.

    Of cells that differ in nothing but the number of images there is the one that has the most.
    """
    copies: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    most: dict[tuple[str, ...], int] = {}
    for entry in entries:
        most[entry.place] = max(most.get(entry.place, 0), entry.scored.record.cell.prompts.count)
    for entry, own in zip(entries, told, strict=True):
        if entry.scored.record.cell.prompts.count == most[entry.place]:
            copies.setdefault(entry.images, []).append(own)
    traits = {
        images: {head: ", ".join(dict.fromkeys(own[head] for own in copies_told)) for head in copies_told[0]}
        for images, copies_told in copies.items()
    }
    heads = dict.fromkeys(head for own in traits.values() for head in own)
    kept = [head for head in heads if len({own.get(head) for own in traits.values()}) > 1]
    return {
        images: replace(
            shared[images],
            traits={head: text for head, text in own.items() if head in kept},
            setting=words[images[:-2]],
        )
        for images, own in traits.items()
    }


def _claims(runs: Mapping[str, Run]) -> list[tuple[Claim, tuple[str, ...]]]:
    """Return all claims with the runs that make them; different claims of one name are told apart by their runs."""
    makers: list[tuple[Claim, list[str]]] = []
    for name, run in runs.items():
        for claim in run.claims:
            known = next((own for same, own in makers if same == claim), None)
            if known is None:
                makers.append((claim, [name]))
            else:
                known.append(name)
    names = [claim.name for claim, _ in makers]
    return [
        (claim if names.count(claim.name) == 1 else replace(claim, name=f"{claim.name} ({', '.join(own)})"), tuple(own))
        for claim, own in makers
    ]


def _compared(
    claim: Claim,
    makers: Sequence[str],
    entries: Sequence[_Entry],
    cells: Sequence[ScoredCell],
    distinct: Mapping[tuple[str, ...], ScoredCell],
    words: Mapping[tuple[str, ...], str],
    places: Mapping[str, str],
) -> list[ScoredCell]:
    """Return the cells of all settings of the runs that make a claim; at equal latency each run is a setting."""
    if claim.equal == "latency":
        return [
            replace(cell, setting=", ".join(filter(None, dict.fromkeys((words[entry.group], places[entry.run])))))
            for entry, cell in zip(entries, cells, strict=True)
            if entry.run in makers
        ]
    groups = {entry.group for entry in entries if entry.run in makers}
    return [cell for images, cell in distinct.items() if images[:-2] in groups]


def _joint_request(names: Sequence[str], runs: Sequence[Run], claims: tuple[Claim, ...]) -> Run:
    """Return what all runs asked for together; the looks at claims are those of the run that looked most often."""

    def union(field: str) -> dict[str, Any]:
        return {key: value for run in reversed(runs) for key, value in getattr(run, field).items()}

    settings = {**runs[0].settings}
    for name in ("models", "methods"):
        settings[name] = {key: value for run in reversed(runs) for key, value in run.settings.get(name, {}).items()}
    for name, method in settings["methods"].items():
        grids = [run.settings.get("methods", {}).get(name, {}).get("guidance_scale") or () for run in runs]
        if scales := sorted({scale for grid in grids for scale in grid}):  # the best one is that of all
            settings["methods"][name] = {**method, "guidance_scale": scales}
    if any(run.settings.get("weights") != "random" for run in runs):
        settings["weights"] = "pretrained"
    most = max(runs, key=lambda run: len(set(run.history(len(run.prompts)))))
    return replace(
        most,
        name=", ".join(names),
        settings=settings,
        cells=tuple(key for run in runs for key in run.cells),
        left_out=tuple(dict.fromkeys(entry for run in runs for entry in run.left_out)),
        labels=union("labels"),
        metrics=tuple(dict.fromkeys(score for run in runs for score in run.metrics)),
        claims=claims,
        features=union("features"),
        references=union("references"),
        protocols=union("protocols"),
    )
