"""Scores are added to an existing run, from stored features and kept images; nothing is sampled."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

from bench.execute.feature_extraction import (
    Extractor,
    describe_pictures,
    describe_protocol,
    make_evaluator,
    make_extractor,
    make_inputs,
    paired_inputs,
    prompts_of,
)
from bench.execute.job import (
    find_real_images,
    has_whole_reference,
    make_reference,
    name_extractor,
    name_reference,
    resolve_device,
)
from bench.experiment.config import Experiment, check_experiment
from bench.experiment.verbs import ScoreChoice
from bench.generate.prompts import Prompts, load_prompts
from bench.mini.world import WORLD
from bench.pictures import kept_images
from bench.records.cell import Task, content_hash
from bench.records.errors import BenchError
from bench.records.record import Record
from bench.records.run import Run
from bench.score.metrics import METRICS
from bench.store.store import Store


def add_scores(store: Store, choice: ScoreChoice) -> Run:
    """Add the features that the run lacks and save what it is scored by now.

    Raises BenchError, and leaves the run as it is scored, where neither features nor kept images have what is needed.
    """
    run = store.run()
    experiment = _as_asked(run, choice)
    read = [store.cell(key).record(must_be_whole=True) for key in run.cells]
    records = [record for record in read if record is not None and record.status == "ok"]
    scored = _rename(store, run, experiment, records)
    lacking = [record for record in records if _features(store, record, scored.extractor) is None]
    blind = [record.cell.label for record in lacking if not _has_images(store, record)]
    if blind:
        raise BenchError(
            f"{len(blind)} of {len(records)} cells have neither the features nor their images ({blind[0]} for one); "
            "run the experiment again with these scores and keep=all"
        )
    if lacking or not has_whole_reference(store, scored.reference):
        evaluator = make_evaluator(experiment, resolve_device(choice.device))
        make_reference(experiment, scored.reference, store, evaluator)
        if lacking:
            prompts = _prompts(run, experiment)
            task = lacking[0].cell.task
            inputs = make_inputs(experiment, Task(task.kind, task.settings), str(evaluator.device), prompts.rows)
            extract = make_extractor(experiment, prompts, evaluator, inputs)
            for i, record in enumerate(lacking, 1):
                found = _read(store, record, extract)
                store.cell(record.key).save_features(scored.extractor, found, record.images_hash)
                print(f"[{i}/{len(lacking)}] {record.cell.label}", file=sys.stderr, flush=True)
    if _replaces(run, scored):
        _set_outputs_aside(store, run)
    store.save_run(scored)
    return scored


def _replaces(run: Run, scored: Run) -> bool:
    """Whether a score of the run changes: by different features, or by different real images."""
    known: Mapping[str, str] = run.settings.get("preference_models", {})
    moved = any(path != scored.settings["preference_models"].get(name) for name, path in known.items())
    evaluators = run.settings.get("evaluator") != scored.settings["evaluator"]
    real = run.reference is not None and run.settings["reference"] != scored.settings["reference"]
    return evaluators or real or moved


def _set_outputs_aside(store: Store, run: Run) -> None:
    """Copy run.json, scores.csv, the tables and the page to a separate folder: scores are never replaced silently."""
    folder = f"earlier/{run.evaluator}-{content_hash([run.extractor, run.reference], 8)}"
    names = ["run.json", "scores.csv", "report.html", *store.files.tree("tables")]
    for name in names:
        content = store.read_bytes(name)
        if content is not None:
            store.write_bytes(f"{folder}/{name}", content)
    print(
        f"The scores by evaluator {run.evaluator} are no longer part of the report; they stay in "
        f"{store.location}/{folder}",
        file=sys.stderr,
    )


def _as_asked(run: Run, choice: ScoreChoice) -> Experiment:
    """Return the run's experiment with the requested settings instead of its own."""
    settings: dict[str, Any] = {**run.settings}
    settings["scores"] = list(dict.fromkeys([*run.metrics, *choice.scores]))
    settings["preference_models"] = {**settings.get("preference_models", {}), **choice.preference_models}
    for name in ("evaluator", "reference"):
        given = {key: value for key, value in asdict(getattr(choice, name)).items() if value is not None}
        settings[name] = {**settings[name], **given}
    if choice.evaluator.source is not None and choice.evaluator.name is None:
        raise BenchError("evaluator.source was given and evaluator.name was not; its scores need their own name")
    return check_experiment(settings)


def _rename(store: Store, run: Run, experiment: Experiment, records: Sequence[Record]) -> Run:
    """Return the run as it is scored now; with its own extractor where those features have all that is requested."""
    own = ("evaluator", "preference_models")
    same = all(asdict(experiment)[name] == run.settings.get(name, {}) for name in own)
    needed = {name for score in experiment.scores for name in METRICS[score].needs}
    enough = same and all(
        (features := _features(store, record, run.extractor)) is not None and needed <= features.keys()
        for record in records
    )
    unchanged = enough and asdict(experiment.reference) == run.settings["reference"]
    return replace(
        run,
        settings=asdict(experiment),
        metrics=tuple(experiment.scores),
        evaluator=experiment.evaluator.name,
        extractor=run.extractor if enough else name_extractor(experiment),
        reference=run.reference
        if unchanged and run.reference
        else name_reference(experiment, find_real_images(experiment)),
        protocol=run.protocol if unchanged else {**describe_protocol(experiment), **describe_pictures(experiment)},
    )


def _prompts(run: Run, experiment: Experiment) -> Prompts:
    """Return the run's prompts, with their ground truth where they are of the procedural world."""
    if experiment.prompts.source != WORLD and paired_inputs(experiment) is None:
        return Prompts(load_prompts(WORLD, 1).identity, run.prompts, None)
    prompts = prompts_of(experiment, len(run.prompts))
    if prompts.texts != run.prompts:
        raise BenchError(
            f"prompts.source={experiment.prompts.source} does not hold the run's prompts any more, and inputs go with "
            "them by their rows; put the file back as it was"
        )
    return prompts


def _features(store: Store, record: Record, extractor: str) -> Mapping[str, Any] | None:
    """Return a cell's features; None where there are none, or damaged ones, which are quarantined."""
    if not store.cell(record.key).has_features(extractor):
        return None
    return store.unless_damaged(partial(store.features_of, record, extractor))


def _has_images(store: Store, record: Record) -> bool:
    count = 0 if record.images is None else len(record.images.hashes)
    whole = record.images is not None and count == record.images.count and "" not in record.images.hashes
    return whole and all(store.cell(record.key).has_image(row) for row in range(count))


def _read(store: Store, record: Record, extract: Extractor) -> Mapping[str, Any]:
    """Return the features of a cell's kept images."""
    count, batch = 0 if record.images is None else record.images.count, record.cell.batch_size
    rows = []
    for start in range(0, count, batch):
        chosen = range(start, min(start + batch, count))
        images = store.unless_damaged(partial(kept_images, store, record, chosen))
        if images is None:
            raise BenchError(
                f"images of {record.cell.label} are damaged or gone; start the same tcd-bench run again, it samples "
                "them again, then add the scores"
            )
        rows.append(extract(images, start))
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
