"""Scores are added to an existing run, from stored features and kept images; nothing is sampled."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

from bench.execute.feature_extraction import (
    FeatureSets,
    load_extractors,
    make_feature_sets,
    make_inputs,
    name_features,
    paired_inputs,
    prompts_of,
)
from bench.execute.job import (
    describe_protocols,
    find_real_images,
    has_whole_reference,
    make_references,
    name_references,
    resolve_device,
)
from bench.experiment.config import Experiment, check_experiment
from bench.experiment.extractors import name_score
from bench.experiment.verbs import ScoreChoice
from bench.generate.prompts import Prompts, load_prompts
from bench.pictures import kept_images
from bench.records.cell import Task, content_hash
from bench.records.errors import BenchError
from bench.records.record import Record
from bench.records.reference import WORLD
from bench.records.run import Run
from bench.store.sealed import Arrays
from bench.store.store import Store


def add_scores(store: Store, choice: ScoreChoice) -> Run:
    """Add the features that the run lacks and save what it is scored by now.

    Raises BenchError, and leaves the run as it is scored, where neither features nor kept images have what is needed.
    """
    run = store.run()
    experiment = _as_asked(run, choice)
    read = [store.cell(key).record(must_be_whole=True) for key in run.cells]
    records = [record for record in read if record is not None and record.status == "ok"]
    scored = _scored(run, experiment)
    lacking = {record.key: missing for record in records if (missing := _missing(store, record, scored.features))}
    blind = [record.cell.label for record in records if record.key in lacking and not _has_images(store, record)]
    if blind:
        raise BenchError(
            f"{len(blind)} of {len(records)} cells have neither the features nor their images ({blind[0]} for one); "
            "run the experiment again with these scores and keep=all"
        )
    if lacking or not all(has_whole_reference(store, identity) for identity in scored.references.values()):
        _add_features(store, run, scored, experiment, resolve_device(choice.device), lacking)
    if _replaces(run, scored):
        _set_outputs_aside(store, run)
    store.save_run(scored)
    return scored


def _add_features(
    store: Store,
    run: Run,
    scored: Run,
    experiment: Experiment,
    device: str,
    lacking: Mapping[str, Sequence[str]],
) -> None:
    """Compute the features that are missing, by the key of the cell, and those of the reference images."""
    extractors = load_extractors(experiment, device)
    make_references(experiment, scored, store, extractors)
    if not lacking:
        return
    prompts, records = _prompts(run, experiment), list(store.records(list(lacking)))
    task = records[0].cell.task
    inputs = make_inputs(experiment, Task(task.kind, task.settings), device, prompts.rows)
    features = make_feature_sets(experiment, prompts, extractors, inputs, scored.features, device)
    for i, record in enumerate(records, 1):
        for identity, found in _read(store, record, features, lacking[record.key]).items():
            store.cell(record.key).save_features(identity, found, record.images_hash)
        print(f"[{i}/{len(records)}] {record.cell.label}", file=sys.stderr, flush=True)


def _replaces(run: Run, scored: Run) -> bool:
    """Whether a score of the run changes: by different features, or by different real images."""
    return any(
        now.get(name, known) != known
        for before, now in ((run.features, scored.features), (run.references, scored.references))
        for name, known in before.items()
    )


def _set_outputs_aside(store: Store, run: Run) -> None:
    """Copy run.json, scores.csv, the tables and the page to a separate folder: scores are never replaced silently."""
    folder = f"earlier/{content_hash([run.features, run.references], 8)}"
    names = ["run.json", "scores.csv", "report.html", *store.files.tree("tables")]
    for name in names:
        content = store.read_bytes(name)
        if content is not None:
            store.write_bytes(f"{folder}/{name}", content)
    print(
        f"The scores as they were are no longer part of the report; they stay in {store.location}/{folder}",
        file=sys.stderr,
    )


def _as_asked(run: Run, choice: ScoreChoice) -> Experiment:
    """Return the run's experiment with the requested scores, extractors and settings besides its own."""
    settings: dict[str, Any] = {**run.settings}
    settings["scores"] = [*run.metrics]
    settings["extractors"] = {**settings["extractors"]}
    for name, extractor in choice.extractors.items():
        known = settings["extractors"].setdefault(name, asdict(extractor))
        if (known["source"], known.get("own")) != (extractor.source, extractor.own):
            raise BenchError(
                f"extractors.{name}.source={extractor.named} was given, but {name} is "
                f"{known.get('own') or known['source']} in this run; "
                "give the other extractor another name"
            )
    settings["preference_models"] = {**settings.get("preference_models", {}), **choice.preference_models}
    given = {key: value for key, value in asdict(choice.reference).items() if value is not None}
    settings["reference"] = {**settings["reference"], **given}
    experiment = check_experiment(settings)
    added = [name_score(score, experiment.extractors) for score in choice.scores]
    return check_experiment({**settings, "scores": list(dict.fromkeys([*run.metrics, *added]))})


def _scored(run: Run, experiment: Experiment) -> Run:
    """Return the run as it is scored now."""
    features, before, now = name_features(experiment), run.settings["reference"], asdict(experiment.reference)
    real_images = run.real_images if run.real_images and before == now else find_real_images(experiment)
    return replace(
        run,
        settings=asdict(experiment),
        metrics=tuple(experiment.scores),
        features=features,
        real_images=real_images,
        references=name_references(experiment, features, real_images),
        protocols=describe_protocols(experiment),
    )


def _missing(store: Store, record: Record, features: Mapping[str, str]) -> list[str]:
    """Return the sets of features that a cell lacks; damaged ones are quarantined."""
    for identity in features.values():
        if store.cell(record.key).has_features(identity):
            store.unless_damaged(partial(store.features_of, record, identity))
    return store.cell(record.key).missing_features(features.values())


def _prompts(run: Run, experiment: Experiment) -> Prompts:
    """Return the run's prompts, with their ground truth where they are of the procedural world."""
    if experiment.prompts.source != WORLD and paired_inputs(experiment) is None:
        return Prompts(load_prompts(WORLD, 1).identity, run.prompts, None)
    prompts = prompts_of(experiment, len(run.prompts) // run.images_per_prompt)
    if prompts.texts != run.prompts:
        raise BenchError(
            f"prompts.source={experiment.prompts.source} does not hold the run's prompts any more, and inputs go with "
            "them by their rows; put the file back as it was"
        )
    return prompts


def _has_images(store: Store, record: Record) -> bool:
    count = 0 if record.images is None else len(record.images.hashes)
    whole = record.images is not None and count == record.images.count and "" not in record.images.hashes
    return whole and all(store.cell(record.key).has_image(row) for row in range(count))


def _read(store: Store, record: Record, features: FeatureSets, wanted: Sequence[str]) -> Mapping[str, Arrays]:
    """Return the wanted features of a cell's kept images, by identity."""
    count, batch = 0 if record.images is None else record.images.count, record.cell.batch_size
    found = []
    for start in range(0, count, batch):
        chosen = range(start, min(start + batch, count))
        images = store.unless_damaged(partial(kept_images, store, record, chosen))
        if images is None:
            raise BenchError(
                f"images of {record.cell.label} are damaged or gone; start the same tcd-bench run again, it samples "
                "them again, then add the scores"
            )
        found.append(features.extract(images, start, wanted))
    return {
        identity: {name: np.concatenate([batch[identity][name] for batch in found]) for name in found[0][identity]}
        for identity in wanted
    }
