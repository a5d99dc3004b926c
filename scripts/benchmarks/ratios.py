"""How a benchmark leaves what it found: its ratios by round, with the machine, versions and command they are of."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDERS = "--out", "--results", "--weights"


def save_benchmark(
    path: Path,
    ratios: Mapping[str, Sequence[float]],
    found: Mapping[str, Any],
    device: str = "cpu",
    exact: bool = False,
) -> None:
    """Write a benchmark's JSON, which scripts/benchmarks/compare.py compares with an earlier one.

    Ratios are of two sides that took turns, one a round, lower is better; `exact` ones come out the same each time.
    """
    from bench.measure.environment import machine_fingerprint  # not before what is to be timed

    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(
        {
            "command": shlex.join(["scripts/benchmarks/" + Path(sys.argv[0]).name, *_settings(sys.argv[1:])]),
            "machine": machine_fingerprint(device, 0),
            "ratios": [
                {"name": name, "samples": list(samples), "exact": exact} for name, samples in ratios.items() if samples
            ],
            **found,
        },
        indent=1,
        ensure_ascii=False,
    )
    path.write_text(text + "\n", encoding="utf-8")


def name_machine() -> str:
    """The machine and the versions in one line, for tables."""
    from bench.measure.environment import machine_fingerprint

    found = machine_fingerprint("cpu", 0)
    versions = {"Python": found["python"], **found["versions"]}
    return f"{found['processor']}, {found['cores']} cores; {', '.join(' '.join(pair) for pair in versions.items())}"


def name_machines(lines: Iterable[Mapping[str, Any]]) -> str:
    """Where the lines of a log were made, as a sentence of a table; nothing where none says."""
    found = sorted({line["machine"] for line in lines if "machine" in line})
    return f"On {'; and on '.join(found)}.\n" if found else ""


def _settings(arguments: Sequence[str]) -> list[str]:
    """What of a command decides what is measured: all but folders that are read and written; of paths the names."""
    where = {i + step for i, argument in enumerate(arguments) if argument in FOLDERS for step in (0, 1)}
    left = [text for i, text in enumerate(arguments) if i not in where and text.partition("=")[0] not in FOLDERS]
    return [re.sub(r"(?<![\w./:-])/(?:[\w.-]+/)*", "", text) for text in left]
