"""The one list of what only a GPU can tell, and what of it is measured. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- begin: scripts/gpu-session --list -->", "<!-- end -->"
"""Marks, in cuda.md, of the lines that a session writes."""


@dataclass(frozen=True)
class Step:
    """A step: its name, that of a function of `steps` as well, what it tells, and the seconds that it may take."""

    name: str
    tells: str
    step_timeout_s: float


STEPS = (
    Step("tests", "suspected faults of CUDA paths, each as a test (`pytest -m gpu`)", 110),
    Step("noise", "latency of TCD with its noise drawn on the host against noise of the device", 40),
    Step("by_hand", "harness against the pipeline by hand, each round's own ratio (at most 1.01)", 50),
    Step("costs", "costs of full-size pipelines, eager, one image per call: clocks, power, energy, memory", 110),
    Step("conformance", "every scheduler's steps on the device in float64 and bfloat16 against the CPU's", 30),
    Step("frechet", "Fréchet distance with its error against the value on the device (at most 1.0)", 45),
    Step("miniature", "the default experiment on a GPU: `mini_cuda`, and its distance to [mini](mini)", 120),
    Step("gate", "the baseline for GPU runners: `gate_cuda`", 45),
    Step("whole_job", "whole job at SD 1.5 size against the plain script (at most 0.55), busy share (0.95)", 280),
    Step("costs_batches", "the same costs with eight images per call, and in the other half precision", 150),
    Step("costs_compiled", "the same costs compiled", 240),
    Step("workers", "two workers on one GPU against one, in images per second", 100),
    Step("precision", "the miniature in float16 and bfloat16 (`experiment=mini_precision`)", 120),
)


def read_found(folder: Path, name: str) -> dict[str, Any] | None:
    """Return what a step left in a folder; None where it left nothing."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def missing(folder: Path) -> list[Step]:
    """Return the steps that were not measured to their end."""
    return [step for step in STEPS if (read_found(folder, step.name) or {}).get("status") != "measured"]


def describe(folder: Path) -> Iterator[str]:
    """Yield a line per step: measured, with its date, device and what was found in short, or missing, and why."""
    for step in STEPS:
        found = read_found(folder, step.name)
        if found is None:
            state = "missing"
        elif found["status"] == "measured":
            state = f"measured {found['date']} on {found['device']}: {found['summary']}"
        else:
            state = f"missing ({found['status']} {found['date']}: {found['summary']})"
        yield f"- {step.name}, {step.tells}: {state}"


def update_page(page: Path, folder: Path) -> None:
    """Write the lines of `describe` between their marks in cuda.md."""
    text = page.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    page.write_text(f"{head}{BEGIN}\n{chr(10).join(describe(folder))}\n{END}{tail}", encoding="utf-8")
