"""tcd-bench benchmarks few-step diffusion sampling. Public names are imported when they are first used.

`conform` checks a scheduler; the distances and their differences score given features; `load` reads a run.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from bench.analysis.reference_file import read_statistics as read_statistics
    from bench.analysis.reference_file import write_statistics as write_statistics
    from bench.conformance.conform import conform as conform
    from bench.conformance.report import ConformanceReport as ConformanceReport
    from bench.conformance.report import Finding as Finding
    from bench.report.data_frame import load_scores as load
    from bench.score.frechet import Reference as Reference
    from bench.score.functional import frechet_difference as frechet_difference
    from bench.score.functional import frechet_distance as frechet_distance
    from bench.score.functional import kernel_difference as kernel_difference
    from bench.score.functional import kernel_distance as kernel_distance
    from bench.score.functional import mean_difference as mean_difference
    from bench.score.functional import mean_score as mean_score

_HOMES = {
    "bench.analysis.reference_file": ("read_statistics", "write_statistics"),
    "bench.conformance.conform": ("conform",),
    "bench.conformance.report": ("ConformanceReport", "Finding"),
    "bench.report.data_frame": ("load",),
    "bench.score.frechet": ("Reference",),
    "bench.score.functional": (
        *("frechet_difference", "frechet_distance", "kernel_difference", "kernel_distance"),
        *("mean_difference", "mean_score"),
    ),
}
__all__ = [
    "ConformanceReport",
    "Finding",
    "Reference",
    "conform",
    "frechet_difference",
    "frechet_distance",
    "kernel_difference",
    "kernel_distance",
    "load",
    "mean_difference",
    "mean_score",
    "read_statistics",
    "write_statistics",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name == "__version__":
        return _version()
    for home, names in _HOMES.items():
        if name in names:
            try:
                return getattr(import_module(home), "load_scores" if name == "load" else name)
            except ModuleNotFoundError as error:
                advice = f"bench.{name} needs {error.name}, which is not installed: pip install 'tcd-bench[full]'"
                raise ModuleNotFoundError(advice, name=error.name) from error
    raise AttributeError(f"module 'bench' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, loaded or not, and those that every module has."""
    return sorted({*globals(), *__all__, "__version__"})


def _version() -> str:
    """Return the version of the checkout that contains this package, else of the installed distribution."""
    import tomllib
    from importlib import metadata

    project = Path(__file__).parents[1] / "pyproject.toml"
    if project.is_file():
        found = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
        if found.get("name") == "tcd-bench":
            return str(found["version"])
    try:
        return metadata.version("tcd-bench")
    except metadata.PackageNotFoundError:
        return "unknown"
