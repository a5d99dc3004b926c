"""Pairs of settings: a covering array in which every two values that a class accepts together occur in some row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from typing import Any

from bench.conformance.settings import AXES, OTHERS, single_values
from bench.conformance.subject import OTHER_SIGMAS, Subject

STEPS = (5, *(n for n in range(1, 21) if n != 5), 64, 199, 201, 999, 1000)
PRECISIONS = ("float64", "float32", "bfloat16", "float16")
ETAS = (0.3, 0.0, 1.0)
LAST = ("steps", "dtype", "eta")
"""Axes beside the settings of the class."""
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
        if name not in OTHER_SIGMAS and (name in AXES or name in OTHERS):
            shown = {_short(value): {name: value} for value in values}
            axes[name] = Axis(name, {_short(subject.config.get(name)): {}, **shown})
    spacings = [name for name in OTHER_SIGMAS if name in subject.parameters]
    if spacings:
        off = dict.fromkeys(spacings, False)
        chosen = {name: {**off, name: True} for name in spacings if not subject.config.get(name)}
        configured = next((name for name in spacings if subject.config.get(name)), "none")
        axes["sigmas"] = Axis("sigmas", {configured: {}, **({} if configured == "none" else {"none": off}), **chosen})
    family = subject.family
    bare = family is not None and family.timesteps is None and family.calls_per_step > 1  # nothing defines its schedule
    axes["steps"] = Axis("steps", values=tuple(n for n in STEPS if n <= LARGE or not bare))
    axes["dtype"] = Axis("dtype", values=PRECISIONS)
    if subject.has_eta:
        axes["eta"] = Axis("eta", values=ETAS)
    return axes


def _short(value: Any) -> str:
    return "[…]" if isinstance(value, list) and len(value) > 3 else str(value)


def overrides_of(axes: Mapping[str, Axis], row: Row) -> dict[str, Any]:
    """Return the settings of a row that differ from the configuration."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        found |= axes[name].overrides.get(value, {})
    return found


def rows(axes: Mapping[str, Axis]) -> Iterator[dict[str, Any]]:
    """Yield rows in which every two values of two axes occur together, always in the same order.

    They are the rows of one array for all settings that are known here, as far as the class has them. An axis of more
    values than the class has repeats some, so that no pair is lost.
    """
    seen = set()
    for row in _array():
        chosen = {name: axis.all[row[name] % len(axis.all)] for name, axis in axes.items()}
        if (key := tuple(chosen.items())) not in seen:
            seen.add(key)
            yield chosen


@cache
def _array() -> list[dict[str, int]]:
    """Return the array of all known settings, by the places of their values."""
    try:
        from covertable import criteria, make
    except ImportError as error:
        raise ImportError("pairs of settings need covertable: pip install tcd-bench[conform]") from error

    counts = {name: len(values) + 1 for name, values in AXES.items() if name not in OTHER_SIGMAS}
    counts |= dict.fromkeys(OTHERS, 2) | {"sigmas": len(OTHER_SIGMAS) + 1}
    counts |= {"steps": len(STEPS), "dtype": len(PRECISIONS), "eta": len(ETAS)}
    factors = {name: list(range(count)) for name, count in counts.items()}
    return list(make(factors, strength=2, criterion=criteria.simple))


def holds(row: Row, part: Values) -> bool:
    """Whether a row has all values of a part."""
    for name, value in part:  # noqa: SIM110, a third of the time: it is called hundreds of thousands of times
        if row[name] != value:
            return False
    return True


def without(
    axes: Mapping[str, Axis], row: Row, parts: Collection[Values], fixed: Collection[str] = ()
) -> dict[str, Any] | None:
    """Return a row with as few values changed as leave none of the parts, first of all the number of steps.

    Values of `fixed` axes stay. None where that cannot be done.
    """
    changed = dict(row)
    for _ in range(len(axes)):
        part = next((part for part in parts if holds(changed, part)), None)
        if part is None:
            return changed
        names = [name for name, _ in part if name not in fixed]
        for name in sorted(names, key=lambda name: (name not in LAST, -names.index(name))):
            tried = ({**changed, name: value} for value in axes[name].all)
            free = next((one for one in tried if not any(holds(one, part) for part in parts)), None)
            if free is not None:
                return free
        others = [name for name in names if changed[name] != axes[name].all[0]]
        if not others:
            return None
        changed[others[-1]] = axes[others[-1]].all[0]
    return None


def missing(
    axes: Mapping[str, Axis], judged: Iterable[Row], parts: Collection[Values], scheduled: Iterable[Row] = ()
) -> list[dict[str, Any]]:
    """Return rows that hold the pairs which no judged row has, as far as the parts leave them possible.

    Of `scheduled` rows the schedule alone was judged, which counts for the pairs of a value with the number of steps.
    """
    names = list(axes)
    done: set[Values] = {pair for row in judged for pair in combinations([(name, row[name]) for name in names], 2)}
    for row in scheduled:
        steps = ("steps", row["steps"])
        done |= {tuple(sorted([(name, row[name]), steps], key=lambda one: names.index(one[0]))) for name in names}
    packed: list[tuple[dict[str, Any], list[Values]]] = []
    for one, other in combinations(names, 2):
        for pair in ((a, b) for a in [(one, v) for v in axes[one].all] for b in [(other, v) for v in axes[other].all]):
            if pair in done or any(set(part) <= set(pair) for part in parts):
                continue
            for row, pairs in packed:
                if all(row.get(name, value) == value for name, value in pair) and not _whole(row | dict(pair), parts):
                    row.update(pair)
                    pairs.append(pair)
                    break
            else:
                packed.append((dict(pair), [pair]))
    first = {name: axis.all[0] for name, axis in axes.items()}
    found: list[dict[str, Any]] = []
    for row, pairs in packed:
        full = without(axes, {**first, **row}, parts, row.keys())
        alone = pairs if full is None else []  # together they leave no value for another axis
        one_by_one = (without(axes, {**first, **dict(pair)}, parts, dict(pair)) for pair in alone)
        found += [one for one in (full, *one_by_one) if one is not None]
    return found


def _whole(row: Row, parts: Collection[Values]) -> bool:
    return any(all(name in row and row[name] == value for name, value in part) for part in parts)
