"""tcd-bench: benchmarks few-step diffusion sampling. `bench.conform` checks a scheduler; see its docstring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.judge.conformance.conform import conform as conform
    from bench.judge.conformance.report import ConformanceReport as ConformanceReport
    from bench.judge.conformance.report import Finding as Finding

__all__ = ["ConformanceReport", "Finding", "conform"]


def __getattr__(name: str) -> Any:
    """Load what is asked for when it is asked for: `import bench` brings no torch."""
    if name == "conform":
        from bench.judge.conformance.conform import conform

        return conform
    if name in ("ConformanceReport", "Finding"):
        from bench.judge.conformance import report

        return getattr(report, name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
