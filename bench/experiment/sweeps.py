"""Sweeps: the jobs of -m with several values, each with its own directory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from bench.experiment.overrides import Override
from bench.records.cell import content_hash
from bench.records.errors import BenchError

_DIRECTORIES = ("results", "output")
"""Settings that name a job's output."""
_LONGEST = 120


def label_jobs(jobs: Sequence[tuple[Override, ...]]) -> list[str]:
    """Return the distinguishing settings of each job, as in `seed=0,methods.tcd.steps=[2]`; empty for a single job."""
    written = [[(override.name, (override.text or "").strip()) for override in job] for job in jobs]
    varied = {pair[0] for pairs in zip(*written, strict=True) for pair in pairs if len(set(pairs)) > 1}
    return [",".join(f"{name}={text}" for name, text in job if name in varied) for job in written]


def give_directories(jobs: Sequence[dict[str, Any]], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return the settings of the jobs with distinct directories: `results/mini` becomes `results/mini-seed=0`.

    Directories that are already distinct are kept. Raises BenchError for identical jobs.
    """
    for setting in _DIRECTORIES:
        where = [str(settings[setting]).rstrip("/") for settings in jobs if settings.get(setting)]
        if len(where) < len(jobs) or len(set(where)) == len(jobs):
            continue
        own = [f"{directory}-{_as_name(label)}" for directory, label in zip(where, labels, strict=True)]
        if twice := next((directory for directory in own if own.count(directory) > 1), None):
            raise BenchError(
                f"-m was given and two of its {len(jobs)} jobs would write to {setting}={twice}; give each value once"
            )
        jobs = [{**settings, setting: directory} for settings, directory in zip(jobs, own, strict=True)]
    return [*jobs]


def _as_name(label: str) -> str:
    """Return a label as part of a file's name, without the settings that the directory's name contains already."""
    parts = re.sub(r"(?:^|,)(?:name|results|output)=[^,]*", "", label).strip(",") or label
    name = re.sub(r"[^A-Za-z0-9._=,+-]+", "", parts)
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}-{content_hash(label, 8)}"


def summarise_sweep(labels: Sequence[str], jobs: Sequence[dict[str, Any]], outcomes: Sequence[str]) -> str:
    """Return one line per job: its distinguishing settings, its directory, and its outcome."""
    lines = [
        f"  {label}: {next((settings[setting] for setting in _DIRECTORIES if settings.get(setting)), '')} ({outcome})"
        for label, settings, outcome in zip(labels, jobs, outcomes, strict=True)
    ]
    return "\n".join([f"{len(jobs)} jobs:", *lines])
