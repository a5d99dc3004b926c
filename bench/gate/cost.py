"""Latency and memory before and after, on machines of the same fingerprint.

Latencies as bench.gate.latency has it. Memory by its peaks, and how often a scheduler waits for the GPU, which
repeat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.gate.latency import compare_latencies, pace_of
from bench.gate.outcome import Outcome
from bench.gate.pairing import Pair
from bench.records.record import Latency
from bench.records.run import CostLimits, Limit

_MACHINE = ("device", "processor", "cores", "threads", "gpus", "system", "concurrent_batches", "freed_memory_kept")
FARTHEST_PACE = 1.5
"""Largest ratio of a machine's speeds, by its reference workload, at which latencies are compared."""
_PEAKS = ("allocated_bytes", "reserved_bytes", "device_bytes")


def compare_costs(pairs: Sequence[Pair], limits: CostLimits) -> list[Outcome]:
    """Outcomes for what was measured in both runs."""
    outcomes, timed = list[Outcome](), []
    for pair in pairs:
        before, after = pair.before.record.latency, pair.after.record.latency
        if before is None or after is None:
            continue
        if reason := _other_machine(pair, before, after):
            outcomes.append(Outcome("cost", pair.label, "latency and memory", "not comparable", note=reason))
            continue
        outcomes += [*_compare_memory(pair, limits.memory), *_compare_waits(pair.label, before, after)]
        pace = pace_of(before, after)
        if abs(math.log(pace)) > math.log(FARTHEST_PACE):
            note = f"the machine itself took {pace:.2f} times as long for the same piece of work"
            outcomes.append(Outcome("cost", pair.label, "latency_s", "not comparable", note=note))
        else:
            timed.append((pair, before, after))
    return [*compare_latencies(timed, limits.latency), *outcomes]


def _other_machine(pair: Pair, old: Latency, new: Latency) -> str | None:
    before, after = pair.before.record.environment, pair.after.record.environment
    names = [name for name in _MACHINE if before.get(name) != after.get(name)]
    if old.batch_size != new.batch_size:
        names.append("batch size")
    return f"another machine or protocol: {', '.join(names)} differ" if names else None


def _compare_waits(label: str, before: Latency, after: Latency) -> list[Outcome]:
    old, new = before.scheduler_syncs, after.scheduler_syncs
    if old is None or new is None:
        return []
    verdict = "regressed" if new > old else "improved" if new < old else "unchanged"
    return [Outcome("cost", label, "scheduler_syncs", verdict, old, new, None, 0.0)]


def _compare_memory(pair: Pair, limit: Limit) -> list[Outcome]:
    outcomes = []
    for name in _PEAKS:
        old, new = (getattr(cell.record.memory, name, None) for cell in (pair.before, pair.after))
        if old is not None and new is not None:
            allowed, growth = limit.of(old), new - old
            verdict = "regressed" if growth > allowed else "improved" if growth < -allowed else "unchanged"
            outcomes.append(Outcome("cost", pair.label, name, verdict, old, new, None, allowed))
    return outcomes
