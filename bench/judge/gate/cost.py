"""Latency and memory before and after, on machines of the same fingerprint.

Latency by a rank test of all raw samples, shifted by the limit, so that no distribution is assumed: by Mann and Whitney
(1947) where the samples are from two runs, by Wilcoxon (1945) over the rounds where both sides took turns. Memory by
its peaks, which repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from bench.judge.claims import LEVEL, holm
from bench.judge.gate.cells import Pair
from bench.judge.gate.outcome import Outcome
from bench.records import Latency, Turns
from bench.request import CostLimits, Limit

MACHINE = ("device", "processor", "cores", "threads", "gpus", "system", "lanes", "freed_memory_kept")
Sides = tuple[list[float], list[float]]
Test = Callable[[Sequence[float], Sequence[float], float], float]
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
        timed.append(pair)
        outcomes += _compare_memory(pair, limits.memory)
    return [*_compare_latencies(timed, limits.latency), *outcomes]


def _other_machine(pair: Pair) -> str | None:
    before, after = pair.before.record.environment, pair.after.record.environment
    names = [name for name in MACHINE if before.get(name) != after.get(name)]
    if _batch_sizes(pair)[0] != _batch_sizes(pair)[1]:
        names.append("batch size")
    return f"another machine or protocol: {', '.join(names)} differ" if names else None


def _batch_sizes(pair: Pair) -> tuple[int | None, int | None]:
    old, new = pair.before.record.latency, pair.after.record.latency
    return old.batch_size if old else None, new.batch_size if new else None


def compare_turns(turns: Sequence[Turns], limit: Limit) -> list[Outcome]:
    """Latencies of two installations that took turns."""
    samples = [
        ([s / entry.batch_size for s in entry.before_s], [s / entry.batch_size for s in entry.after_s])
        for entry in turns
    ]
    return _judge([entry.cell for entry in turns], samples, limit, slower_in_turn)


def _compare_latencies(pairs: Sequence[Pair], limit: Limit) -> list[Outcome]:
    samples = [(_per_image(pair.before.record.latency), _per_image(pair.after.record.latency)) for pair in pairs]
    return _judge([pair.label for pair in pairs], samples, limit, slower)


def _judge(labels: Sequence[str], samples: Sequence[Sides], limit: Limit, slower: Test) -> list[Outcome]:
    """By Holm over all cells, as quality is judged."""
    allowed = [limit.of(median(before)) for before, _ in samples]
    worse = holm([slower(old, new, bound) for (old, new), bound in zip(samples, allowed, strict=True)])
    better = holm([slower(new, old, bound) for (old, new), bound in zip(samples, allowed, strict=True)])
    outcomes = []
    for i, (label, (before, after)) in enumerate(zip(labels, samples, strict=True)):
        verdict = "undecided"
        if worse[i] < LEVEL:
            verdict = "regressed"
        elif better[i] < LEVEL:
            verdict = "improved"
        elif max(slower(before, after, -allowed[i]), slower(after, before, -allowed[i])) < LEVEL:
            verdict = "unchanged"
        note = f"medians of {len(before)} and {len(after)} samples, seconds an image"
        numbers = (median(before), median(after), None, allowed[i])
        outcomes.append(Outcome("cost", label, "latency_s", verdict, *numbers, note))
    return outcomes


def slower(before: Sequence[float], after: Sequence[float], limit: float) -> float:
    """p-value of the hypothesis that `after` is not larger than `before` by more than the limit, by ranks."""
    from scipy.stats import mannwhitneyu

    shifted = np.asarray(after) - limit
    return float(mannwhitneyu(shifted, np.asarray(before), alternative="greater").pvalue)


def slower_in_turn(before: Sequence[float], after: Sequence[float], limit: float) -> float:
    """The same of two that took turns: the signed ranks of the rounds' differences."""
    from scipy.stats import wilcoxon

    return float(wilcoxon(np.asarray(after) - np.asarray(before) - limit, alternative="greater").pvalue)


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
