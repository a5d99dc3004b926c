"""Hashes of the picture files that a run uses, by which a later run in its directory names those that changed.

A picture can change without becoming unreadable: a flipped bit in the compressed part of a JPEG file decodes as before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from bench.execute.feature_extraction import make_inputs
from bench.execute.job import Job
from bench.generate.reference_images import hash_real_images
from bench.records.errors import Corrupt
from bench.store.sealed import read_sealed, seal
from bench.store.store import Store

PICTURES = "pictures.json"
_SHOWN = 3
"""The number of pictures named in a message."""


def note_pictures(store: Store, job: Job) -> None:
    """Store the hashes of the job's pictures unless they are known already."""
    known, identities = _read(store), _identities(job)
    new = {subject: name for subject, name in identities.items() if known.get(subject, {}).get("is") != name}
    if new:
        noted = {
            **known,
            **{subject: {"is": name, "files": _hash_files(job, subject)} for subject, name in new.items()},
        }
        store.write_bytes(PICTURES, seal(PICTURES, json.dumps(noted, ensure_ascii=False).encode()))


def changed_pictures(store: Store, job: Job, subject: str) -> str:
    """`: 3.jpg is another picture, 7.jpg is gone`, of "reference" or "task.inputs"; empty where that is not known."""
    before: Mapping[str, str] = _read(store).get(subject, {}).get("files", {})
    now = _hash_files(job, subject) if before else {}
    said = [f"{name} is another picture" for name in before if now.get(name, before[name]) != before[name]]
    said += [f"{name} is gone" for name in before if name not in now]
    said += [f"{name} is new" for name in now if name not in before]
    more = f" and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
    return f": {', '.join(said[:_SHOWN])}{more}" if said else ""


def _identities(job: Job) -> dict[str, str]:
    """Return the names of the job's sets of pictures; those of the procedural world are not files."""
    inputs = job.plan.cells[0].task.inputs
    found = {"reference": job.run.reference, "task.inputs": inputs}
    return {subject: name for subject, name in found.items() if name is not None}


def _hash_files(job: Job, subject: str) -> dict[str, str]:
    """SHA-256 of each file's bytes by its path below the folder."""
    experiment = job.experiment
    if subject == "reference":
        found = hash_real_images(experiment.reference.source, experiment.reference.count)
    else:
        found = make_inputs(experiment, job.plan.cells[0].task, "cpu", job.prompts.rows).hash_files()
    return {name: digest.hex() for name, digest in found.items()}


def _read(store: Store) -> dict[str, Any]:
    with suppress(FileNotFoundError, Corrupt, ValueError):
        known: dict[str, Any] = json.loads(read_sealed(store.files, PICTURES))
        return known
    return {}
