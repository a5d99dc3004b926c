"""What a reader has to know to repeat a comparison: versions, commits, machines, and who accepted the baseline."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from bench.gate.completeness import NOTE
from bench.records.record import Record
from bench.store.store import Store
from bench.workers.installation import Installation

_SHOWN = ("diffusers", "torch", "transformers", "peft", "numpy")


def about_run(store: Store, records: Iterable[Record]) -> str:
    """Return the versions, machines and precisions of a run, and of a baseline who accepted it, when and why."""
    records = list(records)
    parts = list(dict.fromkeys(_versions(record) for record in records))
    parts += dict.fromkeys(f"{hardware(record)}, {record.cell.base.dtype}" for record in records)
    try:
        note = json.loads((Path(store.location) / NOTE).read_text(encoding="utf-8"))
        parts.append(f"accepted {note['accepted']} by {note['author']}: {note['reason']}")
    except (OSError, ValueError, KeyError, TypeError):
        pass  # a run that nobody accepted
    return "; ".join(parts)


def _versions(record: Record) -> str:
    known = record.environment.get("versions") or record.cell.versions
    return ", ".join(f"{name} {known[name]}" for name in _SHOWN if name in known)


def hardware(record: Record) -> str:
    """Return the GPU's name, or `cpu`."""
    gpus = record.environment.get("gpus") or []
    return str(gpus[0]["name"]) if gpus else "cpu"


def commit_of(directory: Path) -> str:
    """Return the commit of a git checkout; empty where there is none, or no git."""
    command = ["git", "-C", str(directory), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def about_installation(installation: Installation, versions: str) -> str:
    """Return the versions of an installation, and the commit of the checkout that it takes them from."""
    commits = [commit for path in installation.paths if (commit := commit_of(Path(path)))]
    return "; ".join([versions, *(f"commit {commit}" for commit in commits)])
