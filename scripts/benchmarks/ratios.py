"""How a benchmark leaves what it found: its ratios by round, with the machine, versions and command they are of."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    data = {
        "command": shlex.join(["scripts/benchmarks/" + Path(sys.argv[0]).name, *_settings(sys.argv[1:])]),
        "machine": machine_fingerprint(device, 0),
        "ratios": [
            {"name": name, "samples": list(rounds), "exact": exact} for name, rounds in ratios.items() if rounds
        ],
        **found,
    }
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def seconds_of(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def peak_bytes(work: Callable[[], object]) -> int:
    """What the work allocates at most, on top of what is there."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines so far; one that was cut off is left out."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def add_to_log(path: Path, line: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps(line, ensure_ascii=False) + "\n")


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
