"""Sweeps: the jobs that -m makes of several values, each with a directory of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from bench.experiment.overrides import Override
from bench.records.cell import content_hash
from bench.records.errors import BenchError

_PLACES = ("results", "output")
"""Settings that say where a job writes."""
_LONGEST = 120


def label_jobs(jobs: Sequence[tuple[Override, ...]]) -> list[str]:
    """What is particular to each job, as in `seed=0,methods.tcd.steps=[2]`; empty where there is only one."""
    written = [[(override.name, (override.text or "").strip()) for override in job] for job in jobs]
    varied = {pair[0] for pairs in zip(*written, strict=True) for pair in pairs if len(set(pairs)) > 1}
    return [",".join(f"{name}={text}" for name, text in job if name in varied) for job in written]


def give_directories(jobs: Sequence[dict[str, Any]], labels: Sequence[str]) -> list[dict[str, Any]]:
    """The settings of the jobs, no two of them in one directory: `results/mini` becomes `results/mini-seed=0`.

    Directories that differ by themselves stay. Raises BenchError for jobs that are the same.
    """
    for place in _PLACES:
        where = [str(settings[place]).rstrip("/") for settings in jobs if settings.get(place)]
        if len(where) < len(jobs) or len(set(where)) == len(jobs):
            continue
        own = [f"{directory}-{_as_name(label)}" for directory, label in zip(where, labels, strict=True)]
        if twice := next((directory for directory in own if own.count(directory) > 1), None):
            raise BenchError(
                f"-m was given and two of its {len(jobs)} jobs would write to {place}={twice}; give each value once"
            )
        jobs = [{**settings, place: directory} for settings, directory in zip(jobs, own, strict=True)]
    return [*jobs]


def _as_name(label: str) -> str:
    """A label as part of a file's name; what decides the directory's first part already is left out."""
    parts = re.sub(r"(?:^|,)(?:name|results|output)=[^,]*", "", label).strip(",") or label
    name = re.sub(r"[^A-Za-z0-9._=,+-]+", "", parts)
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}-{content_hash(label, 8)}"


def summarise_sweep(labels: Sequence[str], jobs: Sequence[dict[str, Any]], outcomes: Sequence[str]) -> str:
    """One line for each job: what is particular to it, where it lies, and how it ended."""
    lines = [
        f"  {label}: {next((settings[place] for place in _PLACES if settings.get(place)), '')} ({outcome})"
        for label, settings, outcome in zip(labels, jobs, outcomes, strict=True)
    ]
    return "\n".join([f"{len(jobs)} jobs:", *lines])
