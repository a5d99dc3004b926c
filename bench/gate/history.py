"""The outcomes of many gates: one JSON line each, and a page of their trends, with steps and drifts marked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gate.change_points import CHANGE_LEVEL, FEWEST_GATES, SeriesChange, find_changes
from bench.gate.outcome import FAILS, GateReport
from bench.records.errors import BenchError
from bench.report.page import render_template

HISTORY_FORMAT = 1
"""Version of the lines; written and checked."""
_WIDTH, _HEIGHT, _EDGE = 640.0, 90.0, 8.0


@dataclass(frozen=True, slots=True)
class TrendPoint:
    """One number of one gate; `place` is the index of its line."""

    place: int
    date: str
    candidate: str
    verdict: str
    value: float


@dataclass(frozen=True, slots=True)
class Trend:
    """One quantity over time."""

    level: str
    subject: str
    quantity: str
    points: tuple[TrendPoint, ...]
    changes: tuple[SeriesChange, ...]

    @property
    def lines(self) -> list[str]:
        """Each change in words."""
        return [self._in_words(change) for change in self.changes]

    def _in_words(self, change: SeriesChange) -> str:
        first, last = self.points[change.at], self.points[change.until]
        size = f"{change.before:.4g} → {change.after:.4g} (p = {change.p_value:.2g})"
        if change.kind == "step":
            return f"step at {first.date} ({first.candidate}): {size}"
        return f"drift from {first.date} to {last.date}: {size}"

    @property
    def dots(self) -> list[tuple[float, float, bool, str]]:
        """Each point on the plot: x, y, whether it failed, and what it is in words."""
        values = [point.value for point in self.points]
        low, high = min(values), max(values)
        span = (high - low) or 1.0
        across = (_WIDTH - 2 * _EDGE) / max(1, len(values) - 1)
        return [
            (
                _EDGE + i * across,
                _HEIGHT - _EDGE - (point.value - low) / span * (_HEIGHT - 2 * _EDGE),
                point.verdict in FAILS,
                f"{point.date} {point.candidate}: {point.value:.5g}, {point.verdict}",
            )
            for i, point in enumerate(self.points)
        ]

    @property
    def marks(self) -> list[float]:
        """Where steps begin on the plot."""
        dots = self.dots
        return [(dots[change.at - 1][0] + dots[change.at][0]) / 2 for change in self.changes if change.kind == "step"]


def append_history(report: GateReport, path: Path) -> None:
    """Add a gate's outcomes as one line; raises BenchError where the file cannot be written."""
    line: dict[str, Any] = {
        "format": HISTORY_FORMAT,
        "date": report.about.get("date", ""),
        "candidate": report.candidate,
        "about": dict(report.about),
        "exit_code": report.exit_code,
        "outcomes": [
            [o.level, o.subject, o.quantity, o.verdict, _finite(o.after if o.after is not None else o.before)]
            for o in report.outcomes
        ],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise BenchError(f"history={path} cannot be written ({error.strerror}); choose another file") from error


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def read_history(path: Path) -> list[Trend]:
    """Return every quantity over time, those with changes first; raises BenchError for a line that is none of ours."""
    found: dict[tuple[str, str, str], list[TrendPoint]] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BenchError(f"history={path} cannot be read ({reason}); give a file that tcd-bench gate wrote") from error
    entries = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not entries:
        raise BenchError(f"history={path} is empty; let tcd-bench gate history={path} … write to it first")
    for place, (number, line) in enumerate(entries):
        for key, point in _points_of(path, number, line, place):
            found.setdefault(key, []).append(point)
    series = [
        Trend(*key, tuple(points), tuple(find_changes([point.value for point in points])))
        for key, points in found.items()
    ]
    return sorted(series, key=lambda one: not one.changes)


def check_format(line: Mapping[str, Any]) -> None:
    """Raise ValueError for a line of another version."""
    if line["format"] != HISTORY_FORMAT:
        raise ValueError(f"format {line['format']} instead of {HISTORY_FORMAT}")


def _points_of(path: Path, number: int, line: str, place: int) -> Iterator[tuple[tuple[str, str, str], TrendPoint]]:
    try:
        data = json.loads(line)
        check_format(data)
        rows = [
            (str(level), str(subject), str(quantity), str(verdict), None if value is None else float(value))
            for level, subject, quantity, verdict, value in data["outcomes"]
        ]
        date, candidate = str(data["date"]), str(data["candidate"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BenchError(
            f"history={path}, line {number} is not an entry of tcd-bench gate ({error}); remove the line"
        ) from error
    for level, subject, quantity, verdict, value in rows:
        if value is not None and math.isfinite(value):
            yield (level, subject, quantity), TrendPoint(place, date, candidate, verdict, value)


def to_trend_page(series: Sequence[Trend], name: str) -> str:
    """One self-contained HTML file, every text escaped."""
    drawn = [one for one in series if len(one.points) > 1]
    return render_template(
        "history.html.j2",
        ("base.js",),
        Path(__file__).parent,
        name=name,
        series=drawn,
        changed=[one for one in drawn if one.changes],
        gates=max((point.place for one in series for point in one.points), default=-1) + 1,
        level=CHANGE_LEVEL,
        fewest=FEWEST_GATES,
        width=_WIDTH,
        height=_HEIGHT,
        contents=[("changes", "Changes"), ("series", "Every quantity")][not any(one.changes for one in drawn) :],
    )


def changes_in_words(series: Iterable[Trend]) -> list[str]:
    """A line for each step and drift."""
    return [f"{one.subject}: {one.quantity}: {line}" for one in series for line in one.lines]
