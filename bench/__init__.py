"""Few-step diffusion sampling, measured. The functions here load what they need when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.report.frame import load_scores as load
    from bench.score.frechet import Reference
    from bench.score.scores import (
        frechet_difference,
        frechet_distance,
        kernel_difference,
        kernel_distance,
        mean_difference,
        mean_score,
    )

__all__ = [
    "Reference",
    "frechet_difference",
    "frechet_distance",
    "kernel_difference",
    "kernel_distance",
    "load",
    "mean_difference",
    "mean_score",
]

_ELSEWHERE = {"Reference": ("bench.score.frechet", "Reference"), "load": ("bench.report.frame", "load_scores")}


def __getattr__(name: str) -> Any:
    """Import a public name from where it is defined."""
    if name not in __all__:
        raise AttributeError(f"module 'bench' has no attribute {name!r}")
    module, attribute = _ELSEWHERE.get(name, ("bench.score.scores", name))
    return getattr(import_module(module), attribute)
