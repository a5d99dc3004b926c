"""The settings of `tcd-bench conform` as typed, checked data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from bench.experiment.config import check_settings
from bench.experiment.value_types import STRICT, Source
from bench.records.errors import BenchError


@dataclass(config=STRICT)
class ConformChoice:
    """The settings of `tcd-bench conform`: a scheduler's class and its settings, the method that it claims to
    implement, the baseline for comparison, and the file for a new baseline.
    """

    scheduler: dict[str, Any]
    """The scheduler's class as `_target_`, and the arguments of its constructor; `scheduler=…` chooses a file of
    conf/scheduler."""
    family: str | None = None
    """The diffusers class whose method the scheduler claims to implement; by default its own class or a base of it."""
    baseline: Source | None = None
    """JSON file of known deviations, which do not fail."""
    write: Source | None = None
    """Where to write a new baseline; the exit code is 0 then."""


def check_conform(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with which a scheduler can be examined; raises BenchError naming the fault."""
    choice = check_settings(ConformChoice, settings)
    if choice.baseline and not Path(choice.baseline).is_file():
        what = "is a directory" if Path(choice.baseline).is_dir() else "does not exist"
        raise BenchError(
            f"baseline={choice.baseline} {what}; give a JSON file, as results/conformance/tcd.json, or make one with "
            "write="
        )
    if choice.write and Path(choice.write).is_dir():
        raise BenchError(f"write={choice.write} is a directory; give the name of a file in it, such as tcd.json")
    if choice.write and (files := [str(above) for above in Path(choice.write).parents if above.is_file()]):
        raise BenchError(f"write={choice.write} cannot be written since {files[0]} is a file; choose another directory")
    return {"scheduler": choice.scheduler, "family": choice.family, "baseline": choice.baseline, "write": choice.write}
