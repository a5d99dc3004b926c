"""A results directory belongs to one experiment, which may grow: more images, methods, steps, scores or claims.

`experiment.json` says what the directory's numbers depend on. The first run creates it, and every later one is compared
with it before anything is sampled. What may grow is not in it, or is compared only where both have it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from bench.checkpoints.preference_models import name_preference_models
from bench.execute.feature_extraction import make_inputs
from bench.execute.job import Job, plan_job
from bench.experiment.config import Experiment
from bench.experiment.extractors import ExtractorChoice
from bench.generate.prompts import hash_texts
from bench.generate.reference_images import hash_real_images
from bench.records.cell import Cell, canonical_json, content_hash, fields_of
from bench.records.errors import BenchError, Corrupt
from bench.records.record import SCHEMA_VERSION
from bench.records.reference import reference_in_words
from bench.records.run import Run
from bench.redact import without_secrets
from bench.store.interim_looks import define, looks_of, planned_images, with_looks
from bench.store.safe_writing import quarantine_if_corrupt
from bench.store.sealed import read_sealed, seal
from bench.store.store import Store

OWNER = "experiment.json"
PICTURES = "pictures.json"
"""Hashes of the picture files that runs use, by which a later run names those that changed: a flipped bit in the
compressed part of a JPEG file decodes as before."""
_SHOWN = 3
"""The number of differences, or of pictures, named in a refusal."""
IMAGES_PER_PROMPT = "prompts.images_per_prompt"
_Facts = dict[str, Any]
"""By setting: its value as `is`; where that is a hash, a readable form as `shown`."""


def join(experiment: Experiment, weights_needed: bool = True) -> Experiment:
    """The experiment with the scores that its directory has already, which stay in every output.

    Raises BenchError where the directory belongs to another experiment, before anything is loaded. With
    `weights_needed` false nothing is compared where weights are absent.
    """
    store = Store.of_run(experiment.results)
    if store is None:
        return experiment
    job = plan_job(experiment, decode=False, weights_needed=weights_needed)
    if job.absent:
        return experiment
    _check(store, job)
    before = _last_run(store)
    if before is None:
        return experiment
    scores: list[Any] = list(dict.fromkeys([*before.metrics, *experiment.scores]))
    if added := [name for name in scores if name not in experiment.scores]:
        print(f"results={store.location} has these scores already, they stay: {', '.join(added)}", file=sys.stderr)
    known = {name: ExtractorChoice(**choice) for name, choice in before.settings["extractors"].items()}
    preference_models = {**before.settings.get("preference_models", {}), **experiment.preference_models}
    extractors = {**known, **experiment.extractors}
    return replace(experiment, scores=scores, extractors=extractors, preference_models=preference_models)


def open_store(job: Job) -> Store:
    """Return the run's store, with the requested run written into it.

    Raises BenchError where it cannot be written or belongs to another experiment.
    """
    store = Store(job.experiment.results, store_retry_s=job.experiment.executor.store_retry_s)
    _take(store, job)
    before = _last_run(store)
    run = whole_run(store, job)
    if kept := [claim.name for claim in run.claims if claim not in job.run.claims]:
        print(f"results={store.location} has these claims already, they stay: {', '.join(kept)}", file=sys.stderr)
    if before is None or len(before.prompts) <= len(job.run.prompts):  # else another run has reached a later look
        _tell_dropped(store, job, before)
        store.save_run(run)
    return store


def _tell_dropped(store: Store, job: Job, before: Run | None) -> None:
    """Print which cells of fewer images leave a run of more images, whose grid lacks them."""
    if before is None or before.prompts == job.run.prompts:
        return
    planned = {cell.place for cell in job.plan.cells}
    done = store.good_records(before.cells)
    if dropped := [record.cell for record in done if record.cell.place not in planned]:
        print(
            f"results={store.location}: {len(dropped)} cells of {len(before.prompts)} images are not in the grid of "
            f"{len(job.run.prompts)} images and leave the report ({dropped[0].label} for one); to keep them, add their "
            "methods and steps again",
            file=sys.stderr,
        )


def close_run(job: Job, store: Store, is_last: bool) -> None:
    """Save the run with all that the directory holds of the experiment by now, cells of other runs included.

    `is_last` says that no larger number of images will follow, so that nothing of a later look is left in its place.
    """
    before = _last_run(store)
    if is_last or before is None or len(before.prompts) <= len(job.run.prompts):
        run = whole_run(store, job)
        store.save_run(run)
        records = list(store.records(run.cells))
        store.write_bytes("records.jsonl", "".join(record.to_json() + "\n" for record in records).encode())


def whole_run(store: Store, job: Job) -> Run:
    """Return the job's run with what else the directory has: looks, claims that were judged, and finished cells.

    A claim that was judged once counts among the tests of the run. Cells of a run with another number of images are
    excluded.
    """
    run, before = job.run, _last_run(store)
    if before is None:
        return with_looks(store, run)
    judged = {name for look in looks_of(store) for name in look.claims or ()} - {claim.name for claim in run.claims}
    kept_claims = tuple(claim for claim in before.claims if claim.name in judged)
    settings = {**run.settings}
    if kept_claims:
        asked = {claim.name: before.settings.get("claims", {}).get(claim.name) for claim in kept_claims}
        settings["claims"] = {**settings["claims"], **{name: claim for name, claim in asked.items() if claim}}
    kept: list[str] = []
    if before.prompts == run.prompts:
        places = {cell.place for cell in job.plan.cells}
        kept = [key for key in before.cells if key not in set(run.cells) and _is_kept(store, key, run, places)]
    if kept:
        settings["models"] = {**before.settings["models"], **settings["models"]}
        settings["methods"] = _all_axes(before.settings["methods"], settings["methods"])
    run = replace(
        run,
        cells=(*run.cells, *kept),
        claims=(*run.claims, *kept_claims),
        settings=settings,
        labels={**before.labels, **run.labels} if kept else run.labels,
    )
    return with_looks(store, run)


def _is_kept(store: Store, key: str, run: Run, places: Collection[str]) -> bool:
    """Whether a cell is finished and not planned, be it with another number of images."""
    record = store.cell(key).record()
    if record is None or record.status != "ok" or record.cell.place in places:
        return False
    return not store.cell(key).missing_features(run.features.values())


def _all_axes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return methods with the values of both on each axis."""
    methods = {**before, **now}
    for name in before.keys() & now.keys():
        axes = {
            axis: list(dict.fromkeys([*now[name][axis], *before[name][axis]]))
            for axis in ("steps", "eta", "guidance_scale")
        }
        methods[name] = {**now[name], **axes}
    return methods


def _last_run(store: Store) -> Run | None:
    """Return the last run; None where that is unknown. Raises BenchError for the directory of a different version."""
    try:
        return store.run()
    except BenchError as error:
        if "schema version" in str(error):
            raise BenchError(
                f"results={store.location} holds the run of another version of tcd-bench (this one writes schema "
                f"version {SCHEMA_VERSION}); {_WAYS_OUT}"
            ) from error
        return None


def _take(store: Store, job: Job) -> None:
    """Make the directory the experiment's own, or add to what is known of it; raises BenchError as `join`."""
    _check(store, job)
    facts, lengths = _facts(job), _prompt_hashes(job.run.prompts)
    quarantine_if_corrupt(store.files, OWNER)
    if not store.files.create(OWNER, _seal(facts, lengths)):
        _check(store, job)  # a different experiment may have been first
        known = _read(store) or ({}, {})
        store.files.write(OWNER, _seal({**known[0], **facts}, {**known[1], **lengths}))
    _note_pictures(store, job)


def _check(store: Store, job: Job) -> None:
    """Raise BenchError where a directory belongs to another experiment, or has more images than are planned now."""
    known = _read(store) or _from_records(store)
    where = f"results={store.location}"
    if known is not None:
        differences = list(_differences(known[0], store, job))
        asked = job.experiment.prompts
        alike = not any(said.startswith(IMAGES_PER_PROMPT) for said in differences)
        if alike and (row := _other_prompts(known[1], job.run.prompts)) is not None:
            first = -(-row // asked.images_per_prompt)
            differences.append(f"the first {first} prompts of prompts.source={asked.source} are not those that it has")
        if differences:
            more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
            raise BenchError(
                f"{where} belongs to another experiment: {'; '.join(differences[:_SHOWN])}{more}; {_WAYS_OUT}"
            )
    own = {claim.name: define(claim) for claim in job.run.claims}
    for look in looks_of(store):
        changed = [name for name, known_as in (look.claims or {}).items() if own.get(name, known_as) != known_as]
        if changed:
            raise BenchError(
                f"{where}: claims.{changed[0]} was judged there with another definition; give the changed claim "
                f"another name, or {_WAYS_OUT}"
            )
    before, planned = _last_run(store), planned_images(job.run)
    if before is not None and len(before.prompts) > planned and store.good_records(before.cells):
        raise BenchError(
            f"prompts.count={planned // job.run.images_per_prompt} was given, but {where} has {before.sample} per cell "
            "already; give "
            "at least as many, or another directory with results=…"
        )


_WAYS_OUT = "choose another directory with results=…, or remove or archive that one"


def _seal(facts: _Facts, prompts: Mapping[str, str]) -> bytes:
    data = {"facts": facts, "prompts": dict(prompts)}
    return seal(OWNER, json.dumps(data, indent=1, ensure_ascii=False).encode())


def _read(store: Store) -> tuple[_Facts, Mapping[str, str]] | None:
    """Return the content of `experiment.json`; None where it is missing or damaged."""
    data = _read_json(store, OWNER)
    return (data["facts"], data["prompts"]) if data else None


def _read_json(store: Store, name: str) -> dict[str, Any]:
    with suppress(FileNotFoundError, Corrupt, ValueError):
        found: dict[str, Any] = json.loads(read_sealed(store.files, name))
        return found
    return {}


def _from_records(store: Store) -> tuple[_Facts, Mapping[str, str]] | None:
    """Return the same from run.json and the records, where `experiment.json` was lost."""
    run = _last_run(store)
    if run is None:
        return None
    cells = [record.cell for record in store.records(run.cells)]
    facts = _plain({"name": run.name, **_facts_of_cells(cells), **_facts_of_prompts(run), **_facts_of_extractors(run)})
    return facts, _prompt_hashes(run.prompts)


def _facts(job: Job) -> _Facts:
    """Return what the numbers of a job depend on."""
    experiment, run = job.experiment, job.run
    facts: dict[str, Any] = {"name": experiment.name, **_facts_of_cells(job.plan.cells), **_facts_of_prompts(run)}
    facts |= {f"task.{name}": value for name, value in asdict(experiment.task).items()}
    if experiment.measure.latency or experiment.measure.memory:
        facts["measure.batch_size"] = experiment.measure.batch_size
    facts |= _facts_of_extractors(run)
    for name, weights in name_preference_models(experiment).items():
        facts[f"preference_models.{name}"] = weights
    if run.real_images is not None:
        facts["reference"] = _Named(run.real_images, reference_in_words(asdict(experiment.reference)))
    return _plain(facts)


def _facts_of_prompts(run: Run) -> dict[str, Any]:
    """Return what must stay as more prompts come."""
    return {IMAGES_PER_PROMPT: run.images_per_prompt}


def _facts_of_extractors(run: Run) -> dict[str, Any]:
    """Return the identity of the features of each extractor."""
    sources = {name: choice.get("own") or choice["source"] for name, choice in run.settings["extractors"].items()}
    return {
        f"extractors.{name}.source": _Named(identity, sources[name])
        for name, identity in run.features.items()
        if name in sources
    }


def _facts_of_cells(cells: Sequence[Cell]) -> dict[str, Any]:
    """Return what cells have in common by now, and must keep."""
    facts: dict[str, Any] = {}
    for cell in cells:
        base = cell.base
        facts |= {"seed": cell.seed, "batch_size": cell.batch_size, "device": cell.device, "task": cell.task.kind}
        facts |= {f"task.{name}": value for name, value in cell.task.settings.items()}
        if cell.task.inputs is not None:  # their name contains how many are used
            facts[f"task.inputs of {cell.prompts.count} images"] = _Named(cell.task.inputs, "the folder")
        facts |= {f"the version of {name}": version for name, version in cell.versions.items()}
        facts[f"models.{base.name}.source"] = _Named(base.weights, base.source)
        for name, value in fields_of(base, but=("name", "source", "weights", "parts", "revision")).items():
            facts[f"models.{base.name}.{name}"] = value
        for part in base.parts:
            identity = fields_of(part, but=("source",))
            facts[f"models.{base.name}.parts.{part.role}"] = _Named(identity, part.source)
        for adapter in cell.adapters:
            identity = fields_of(adapter, but=("name", "source", "scale"))
            facts[f"models.{base.name}.adapters.{adapter.name}"] = _Named(identity, adapter.source)
            facts[f"models.{base.name}.adapters.{adapter.name}.scale"] = adapter.scale
        schedule = base.noise_schedule
        own = {name: value for name, value in cell.scheduler.settings.items() if schedule.get(name, ...) != value}
        facts[f"methods.{cell.method}.scheduler"] = {"_target_": cell.scheduler.target, **own}
        names = [adapter.name for adapter in cell.adapters]
        facts[f"methods.{cell.method}.adapter"] = names
        facts[f"methods.{cell.method}.fused"] = cell.fused
    return facts


class _Named(NamedTuple):
    """A value that is compared by its hash, and its readable form."""

    value: object
    shown: str


def _plain(facts: Mapping[str, Any]) -> _Facts:
    """Return the facts as JSON would."""
    return {
        name: {"is": content_hash(value.value), "shown": without_secrets(value.shown)}
        if isinstance(value, _Named)
        else {"is": json.loads(canonical_json(value))}
        for name, value in facts.items()
    }


def _differences(there: _Facts, store: Store, job: Job) -> Iterator[str]:
    """Describe each fact of the directory that differs from the job's, with the names of pictures that changed."""
    for name, mine in _facts(job).items():
        theirs = there.get(name)
        if theirs is None or theirs["is"] == mine["is"]:
            continue
        old, new = theirs["is"], mine["is"]
        if isinstance(old, dict) and isinstance(new, dict):
            for key in sorted(old.keys() | new.keys()):
                if old.get(key) != new.get(key):
                    yield f"{name}.{key} is {_show(old.get(key))} there and {_show(new.get(key))} here"
        elif "shown" not in mine:
            yield f"{name} is {_show(old)} there and {_show(new)} here"
        elif theirs["shown"] == mine["shown"]:
            which = _changed_pictures(store, job, name.partition(" ")[0])
            yield f"{name} ({mine['shown']}) has other content than it had{which}"
        else:
            yield f"{name} is {theirs['shown']} there and {mine['shown']} here"


def _note_pictures(store: Store, job: Job) -> None:
    """Store the hashes of the job's pictures unless they are known already."""
    known, inputs = _read_json(store, PICTURES), job.plan.cells[0].task.inputs
    names = {"reference": job.run.real_images, "task.inputs": inputs}
    new = {subject: name for subject, name in names.items() if name not in (None, known.get(subject, {}).get("is"))}
    if new:
        noted = {
            **known,
            **{subject: {"is": name, "files": _hash_files(job, subject)} for subject, name in new.items()},
        }
        store.write_bytes(PICTURES, seal(PICTURES, json.dumps(noted, ensure_ascii=False).encode()))


def _changed_pictures(store: Store, job: Job, subject: str) -> str:
    """`: 3.jpg is another picture, 7.jpg is gone`, of "reference" or "task.inputs"; empty where that is not known."""
    before: Mapping[str, str] = _read_json(store, PICTURES).get(subject, {}).get("files", {})
    now = _hash_files(job, subject) if before else {}
    said = [f"{name} is another picture" for name in before if now.get(name, before[name]) != before[name]]
    said += [f"{name} is gone" for name in before if name not in now]
    said += [f"{name} is new" for name in now if name not in before]
    more = f" and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
    return f": {', '.join(said[:_SHOWN])}{more}" if said else ""


def _hash_files(job: Job, subject: str) -> dict[str, str]:
    """SHA-256 of each file's bytes by its path below the folder."""
    experiment = job.experiment
    if subject == "reference":
        found = hash_real_images(experiment.reference.source, experiment.reference.count)
    else:
        found = make_inputs(experiment, job.plan.cells[0].task, "cpu", job.prompts.rows).hash_files()
    return {name: digest.hex() for name, digest in found.items()}


def _show(value: object) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _prompt_hashes(texts: Sequence[str]) -> dict[str, str]:
    """Return hashes of the first 1, 2, 4, … prompts and of all; a larger set that begins the same has them too."""
    lengths = {len(texts)} | {2**i for i in range(len(texts).bit_length())}
    return {str(length): hash_texts(texts[:length]) for length in sorted(lengths)}


def _other_prompts(known: Mapping[str, str], texts: Sequence[str]) -> int | None:
    """Return the smallest number of first prompts that differ from the known ones; None where none do."""
    lengths = sorted(length for length in map(int, known) if length <= len(texts))
    return next((length for length in lengths if hash_texts(texts[:length]) != known[str(length)]), None)
