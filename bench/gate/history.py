"""The outcomes of many gates: one JSON line each, and a page of their trends, with steps and drifts marked.

The page also has the pictures that moved most, before and after.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.gate.change_points import CHANGE_LEVEL, FEWEST_GATES, SeriesChange, find_changes
from bench.gate.history_pictures import MovedPicture, keep_pictures, load_picture, pictures_of
from bench.gate.outcome import FAILS, GateReport
from bench.gate.report import BeforeAfter
from bench.records.errors import BenchError
from bench.report.page import as_json, render_template

HISTORY_FORMAT = 1
"""Version of the lines; written and checked."""
_WIDTH, _HEIGHT, _EDGE = 400.0, 120.0, 10.0
_SHOWN_GATES = 12
"""Gates whose pictures are shown, the latest ones."""


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
    """One quantity over time, of so many gates."""

    level: str
    subject: str
    quantity: str
    points: tuple[TrendPoint, ...]
    changes: tuple[SeriesChange, ...]
    gates: int

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
        """Each point on the plot: x, y, whether it failed, and what it is in words; all plots have the same x."""
        low, high = self.reach
        across = (_WIDTH - 2 * _EDGE) / max(1, self.gates - 1)
        return [
            (
                _EDGE + point.place * across,
                _HEIGHT / 2
                if low == high
                else _HEIGHT - _EDGE - (point.value - low) / (high - low) * (_HEIGHT - 2 * _EDGE),
                point.verdict in FAILS,
                f"{point.date} {point.candidate}: {point.value:.5g}, {point.verdict}",
            )
            for point in self.points
        ]

    @property
    def reach(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        values = [point.value for point in self.points]
        return min(values), max(values)

    @property
    def fails(self) -> int:
        """The number of gates that failed by it."""
        return sum(point.verdict in FAILS for point in self.points)

    @property
    def marks(self) -> list[float]:
        """Where steps begin on the plot."""
        dots = self.dots
        return [(dots[change.at - 1][0] + dots[change.at][0]) / 2 for change in self.changes if change.kind == "step"]


class History(NamedTuple):
    """Every quantity over time, those with changes first, and the pictures of each gate."""

    series: list[Trend]
    pictures: list[MovedPicture]


def append_history(report: GateReport, path: Path, images: Sequence[BeforeAfter] = ()) -> None:
    """Add a gate's outcomes as one line, with the pictures that moved most; raises BenchError where it cannot."""
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
        if images:
            line["images"] = keep_pictures(path, images)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise BenchError(f"history={path} cannot be written ({error.strerror}); choose another file") from error


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def read_history(path: Path) -> History:
    """Return what the lines of a file say; raises BenchError for a line that is none of ours."""
    found: dict[tuple[str, str, str], list[TrendPoint]] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BenchError(f"history={path} cannot be read ({reason}); give a file that tcd-bench gate wrote") from error
    entries = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not entries:
        raise BenchError(f"history={path} is empty; let tcd-bench gate history={path} … write to it first")
    pictures: list[MovedPicture] = []
    for place, (number, line) in enumerate(entries):
        try:
            data = json.loads(line)
            check_format(data)
            points = [*_points_of(data, place)]
            pictures += pictures_of(data, place)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BenchError(
                f"history={path}, line {number} is not an entry of tcd-bench gate ({error}); remove the line"
            ) from error
        for key, point in points:
            found.setdefault(key, []).append(point)
    series = [
        Trend(*key, tuple(points), tuple(find_changes([point.value for point in points])), len(entries))
        for key, points in found.items()
    ]
    return History(sorted(series, key=lambda one: (not one.changes, not one.fails)), pictures)


def check_format(line: Mapping[str, Any]) -> None:
    """Raise ValueError for a line of another version."""
    if line["format"] != HISTORY_FORMAT:
        raise ValueError(f"format {line['format']} instead of {HISTORY_FORMAT}")


def _points_of(line: Mapping[str, Any], place: int) -> Iterator[tuple[tuple[str, str, str], TrendPoint]]:
    date, candidate = str(line["date"]), str(line["candidate"])
    for level, subject, quantity, verdict, given in line["outcomes"]:
        value = None if given is None else float(given)
        if value is not None and math.isfinite(value):
            key = str(level), str(subject), str(quantity)
            yield key, TrendPoint(place, date, candidate, str(verdict), value)


def to_trend_page(history: History, path: Path) -> str:
    """One self-contained HTML file, every text escaped; `path` is the history's file, beside which its pictures are."""
    drawn = [one for one in history.series if len(one.points) > 1]
    loud = [one for one in drawn if one.changes or one.fails]
    traits = [{"Level": one.level, "Quantity": one.quantity} for one in drawn]
    filters = [
        {"head": head, "values": list(dict.fromkeys(own[head] for own in traits))} for head in ("Level", "Quantity")
    ]
    gates = list(dict.fromkeys(picture.place for picture in reversed(history.pictures)))
    moved = _to_show(history, path, gates[:_SHOWN_GATES])
    return render_template(
        "history.html.j2",
        ("base.js", "viewer.js", "history.js"),
        Path(__file__).parent,
        name=path.name,
        series=drawn,
        loud=loud,
        quiet=drawn[len(loud) :],
        moved=moved,
        more=len(gates) - len(moved),
        gates=max((one.gates for one in history.series), default=0),
        level=CHANGE_LEVEL,
        fewest=FEWEST_GATES,
        width=_WIDTH,
        height=_HEIGHT,
        contents=[
            *([("changes", "Changes and failures")] if loud else []),
            *([("pictures", "Pictures")] if moved else []),
            *([("series", "Other quantities")] if len(loud) < len(drawn) else []),
        ],
        data=as_json(
            {
                "cells": [{"traits": own} for own in traits],
                "filters": [one for one in filters if len(one["values"]) > 1],
                "scores": [],
            }
        ),
    )


def _to_show(history: History, path: Path, gates: Sequence[int]) -> list[list[dict[str, Any]]]:
    """Return the pictures of these gates; those of one image have one number, by which a viewer walks through time."""
    images = list(dict.fromkeys((picture.label, picture.prompt) for picture in history.pictures))
    return [
        [
            {
                "picture": picture,
                "number": images.index((picture.label, picture.prompt)),
                "sides": [(side, load_picture(path, getattr(picture, side))) for side in ("before", "after")],
            }
            for picture in history.pictures
            if picture.place == place
        ]
        for place in gates
    ]


def changes_in_words(series: Iterable[Trend]) -> list[str]:
    """A line for each step and drift."""
    return [f"{one.subject}: {one.quantity}: {line}" for one in series for line in one.lines]
