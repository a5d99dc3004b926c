"""Pairs of settings: a covering array in which every two values that a class accepts together occur in some row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.conformance.settings import single_values
from bench.conformance.subject import OTHER_SIGMAS, Subject

STEPS = (5, *(n for n in range(1, 21) if n != 5), 64, 199, 201, 999, 1000)
PRECISIONS = ("float64", "float32", "bfloat16", "float16")
LARGE = 64
"""Rows of more steps than this are judged in float64, whatever their dtype."""

Row = Mapping[str, Any]
Values = tuple[tuple[str, Any], ...]
"""Some values of a row, by axis; hashable."""


@dataclass(frozen=True)
class Axis:
    """The values of a setting, the configured one first. A value stands for settings that differ from it."""

    name: str
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    values: tuple[Any, ...] = ()

    @property
    def all(self) -> tuple[Any, ...]:
        """The values, by which a row names them."""
        return self.values or tuple(self.overrides)


def axes_of(subject: Subject) -> dict[str, Axis]:
    """Return the axes of a class: its settings with the values that mean something, steps, dtype, and eta."""
    axes: dict[str, Axis] = {}
    for name, values in single_values(subject).items():
        if name not in OTHER_SIGMAS:
            shown = {_short(value): {name: value} for value in values}
            axes[name] = Axis(name, {_short(subject.config.get(name)): {}, **shown})
    spacings = [name for name in OTHER_SIGMAS if name in subject.parameters]
    if spacings:
        off = dict.fromkeys(spacings, False)
        chosen = {name: {**off, name: True} for name in spacings if not subject.config.get(name)}
        configured = next((name for name in spacings if subject.config.get(name)), "none")
        axes["sigmas"] = Axis("sigmas", {configured: {}, **({} if configured == "none" else {"none": off}), **chosen})
    axes["steps"] = Axis("steps", values=STEPS)
    axes["dtype"] = Axis("dtype", values=PRECISIONS)
    if subject.has_eta:
        axes["eta"] = Axis("eta", values=(0.3, 0.0, 1.0))
    return axes


def _short(value: Any) -> str:
    return "[…]" if isinstance(value, list) and len(value) > 3 else str(value)


def overrides_of(axes: Mapping[str, Axis], row: Row) -> dict[str, Any]:
    """Return the settings of a row that differ from the configuration."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        found |= axes[name].overrides.get(value, {})
    return found


def rows(axes: Mapping[str, Axis], forbidden: Sequence[Values]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the array; no row holds all values of a forbidden part. Always in the same order."""
    try:
        from covertable import make
    except ImportError as error:
        raise ImportError("pairs of settings need covertable: pip install tcd-bench[conform]") from error

    constraints = [
        {"operator": "not", "condition": {"operator": "and", "conditions": [_equal(*one) for one in part]}}
        for part in forbidden
    ]
    factors = {name: list(axis.all) for name, axis in axes.items() if len(axis.all) > 1}
    first = {name: axis.all[0] for name, axis in axes.items()}
    for row in make(factors, strength=2, constraints=constraints):
        yield {**first, **row}


def _equal(name: str, value: Any) -> dict[str, Any]:
    return {"operator": "eq", "left": name, "value": value}


def holds(row: Row, part: Values) -> bool:
    """Whether a row has all values of a part."""
    return all(row[name] == value for name, value in part)
