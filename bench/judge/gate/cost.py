"""Latency and memory before and after, on machines of the same fingerprint.

Latency of two runs by a rank test of all raw samples (Mann and Whitney 1947), shifted by the limit, so that no
distribution is assumed; a difference counts where it is not the machine's own, which a yardstick tells. Where both
sides took turns, by Student's t over the sittings: what one pair of processes has in common, calls cannot average out.
Memory by its peaks, and how often a scheduler waits for the GPU, which repeat.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, median
from typing import Any

import numpy as np

from bench.judge.claims import LEVEL, holm
from bench.judge.gate.cells import Pair
from bench.judge.gate.outcome import Outcome
from bench.records import Latency, Turns
from bench.request import CostLimits, Limit

MACHINE = ("device", "processor", "cores", "threads", "gpus", "system", "lanes", "freed_memory_kept")
Sides = tuple[list[float], list[float]]
Views = Sequence[Sides]
"""The samples of a cell as they were measured, and in whatever other way a difference must show as well."""
Test = Callable[[Sequence[float], Sequence[float], float], float]
Centre = Callable[[Sequence[float]], float]
FARTHEST_PACE = 1.25
"""How much slower or faster a machine may have been, by its yardstick, for its latencies to be compared."""
PEAKS = ("allocated_bytes", "reserved_bytes", "device_bytes", "host_rss_bytes")


def compare_costs(pairs: Sequence[Pair], limits: CostLimits) -> list[Outcome]:
    """Outcomes for what was measured on both sides."""
    outcomes = []
    timed = []
    for pair in pairs:
        if pair.before.record.latency is None or pair.after.record.latency is None:
            continue
        if reason := _other_machine(pair):
            outcomes.append(Outcome("cost", pair.label, "latency and memory", "not comparable", note=reason))
            continue
        outcomes += [*_compare_memory(pair, limits.memory), *_compare_waits(pair)]
        pace = _pace(pair)
        if abs(math.log(pace)) > math.log(FARTHEST_PACE):
            note = f"the machine itself took {pace:.2f} times as long for the same piece of work"
            outcomes.append(Outcome("cost", pair.label, "latency_s", "not comparable", note=note))
        else:
            timed.append(pair)
    return [*_compare_latencies(timed, limits.latency), *outcomes]


def _other_machine(pair: Pair) -> str | None:
    before, after = pair.before.record.environment, pair.after.record.environment
    names = [name for name in MACHINE if before.get(name) != after.get(name)]
    if _batch_sizes(pair)[0] != _batch_sizes(pair)[1]:
        names.append("batch size")
    return f"another machine or protocol: {', '.join(names)} differ" if names else None


def _pace(pair: Pair) -> float:
    """How much longer the machine took for its yardstick on the later side; 1 where that was not measured."""
    before, after = (side.record.latency for side in (pair.before, pair.after))
    if before is None or after is None or not before.yardstick_s or not after.yardstick_s:
        return 1.0
    return median(after.yardstick_s) / median(before.yardstick_s)


def _batch_sizes(pair: Pair) -> tuple[int | None, int | None]:
    old, new = pair.before.record.latency, pair.after.record.latency
    return old.batch_size if old else None, new.batch_size if new else None


def compare_turns(turns: Sequence[Turns], limit: Limit) -> list[Outcome]:
    """Latencies of two installations that took turns: each cell (by Holm), and all of them together.

    What slows every cell a little is seen in all of them together first: their mean, each cell weighing as much as any
    other.
    """
    sides = [(_medians(entry.before_s, entry.batch_size), _medians(entry.after_s, entry.batch_size)) for entry in turns]
    count = f"{len(sides[0][0])} sittings" if sides else ""
    cells, one_by_one = [entry.cell for entry in turns], [[pair] for pair in sides]
    outcomes = _judge(cells, one_by_one, limit, slower_in_turn, fmean, f"means of {count}")
    if len(turns) > 1:
        usual = np.array([fmean(before) for before, _ in sides])
        before, after = (
            usual.mean() * (np.array(side) / usual[:, None]).mean(axis=0) for side in zip(*sides, strict=True)
        )
        pooled = [[(before.tolist(), after.tolist())]]
        outcomes += _judge(["all cells"], pooled, limit, slower_in_turn, fmean, f"means over cells and {count}")
    return outcomes


def _medians(sittings: Sequence[Sequence[float]], batch_size: int) -> list[float]:
    return [median(seconds) / batch_size for seconds in sittings]


def _compare_latencies(pairs: Sequence[Pair], limit: Limit) -> list[Outcome]:
    samples = []
    for pair in pairs:
        before, after = (_per_image(side.record.latency) for side in (pair.before, pair.after))
        samples.append([(before, after), (before, [seconds / _pace(pair) for seconds in after])])
    fewest = min((len(side) for views in samples for side in views[0]), default=0)
    note = f"medians of {fewest} or more samples a side"
    return _judge([pair.label for pair in pairs], samples, limit, slower, median, note)


def _judge(
    labels: Sequence[str], samples: Sequence[Views], limit: Limit, slower: Test, centre: Centre, note: str
) -> list[Outcome]:
    """By Holm over all cells, as quality is judged."""
    allowed = [limit.of(centre(views[0][0])) for views in samples]
    judged = list(zip(samples, allowed, strict=True))
    worse = holm([max(slower(old, new, bound) for old, new in views) for views, bound in judged])
    better = holm([max(slower(new, old, bound) for old, new in views) for views, bound in judged])
    outcomes = []
    for i, (label, views) in enumerate(zip(labels, samples, strict=True)):
        before, after = views[0]
        verdict = "undecided"
        if worse[i] < LEVEL:
            verdict = "regressed"
        elif better[i] < LEVEL:
            verdict = "improved"
        elif max(slower(*sides, -allowed[i]) for view in views for sides in (view, view[::-1])) < LEVEL:
            verdict = "unchanged"
        numbers = (centre(before), centre(after), None, allowed[i])
        outcomes.append(Outcome("cost", label, "latency_s", verdict, *numbers, f"{note}, seconds an image"))
    return outcomes


def slower(before: Sequence[float], after: Sequence[float], limit: float) -> float:
    """p-value of the hypothesis that `after` is not larger than `before` by more than the limit, by ranks."""
    from scipy.stats import mannwhitneyu

    shifted = np.asarray(after) - limit
    return float(mannwhitneyu(shifted, np.asarray(before), alternative="greater").pvalue)


def slower_in_turn(before: Sequence[float], after: Sequence[float], limit: float) -> float:
    """The same of sittings that are pairs: Student's t of their ratios, which a machine that gets slower leaves alone.

    `before` was first in even sittings and `after` in odd ones, and whoever is first may be slower by some per cent; so
    each order has a mean of its own, and what is tested is the middle of both (the analysis of a crossover trial).
    """
    from scipy.stats import ttest_ind

    beyond = np.asarray(after) / np.asarray(before) - 1 - limit / fmean(before)
    return float(ttest_ind(beyond[::2], -beyond[1::2], alternative="greater").pvalue)


def _per_image(latency: Latency | None) -> list[float]:
    return [] if latency is None else [seconds / latency.batch_size for seconds in latency.call_s]


def _compare_memory(pair: Pair, limit: Limit) -> list[Outcome]:
    if pair.before.record.memory is None or pair.after.record.memory is None:
        return []
    old: Mapping[str, Any] = asdict(pair.before.record.memory)
    new: Mapping[str, Any] = asdict(pair.after.record.memory)
    outcomes = []
    for name in PEAKS:
        if old[name] is not None and new[name] is not None:
            allowed, growth = limit.of(old[name]), new[name] - old[name]
            verdict = "regressed" if growth > allowed else "improved" if growth < -allowed else "unchanged"
            outcomes.append(Outcome("cost", pair.label, name, verdict, old[name], new[name], None, allowed))
    return outcomes


def _compare_waits(pair: Pair) -> list[Outcome]:
    latencies = (pair.before.record.latency, pair.after.record.latency)
    old, new = (latency.scheduler_waits if latency else None for latency in latencies)
    if old is None or new is None:
        return []
    verdict = "regressed" if new > old else "improved" if new < old else "unchanged"
    return [Outcome("cost", pair.label, "scheduler_waits", verdict, old, new, None, 0.0)]
