"""Detection of disturbed latencies: other work on the machine while a cell was timed makes its calls longer.

Beside every call a reference workload is timed (`Latency.workload_s`), a fixed piece of work that takes as long at
every cell of a run unless the machine is slower at the moment. Cells are compared within a machine and a kind of
latency: `usual` is the lower quartile of what the workload took beside each of its cells, so that up to three quarters
of the cells may be disturbed. A latency does not count

- where the workload took `SLOWER` times the usual or more beside at least half of its calls, since the median, which is
  what is reported, is then one of a slower machine; or
- where its own calls part: the upper quartile is `APART` times the lower one or more (4 calls or more; the largest and
  the smallest of fewer), so that the median says little.

Idle machines stay clear of both: over the reference runs the workload differs by up to 8% between cells, and the
quartiles of calls by up to 45% on a GPU whose host has other guests. A machine that is busy from the first cell to the
last cannot be distinguished from a slower machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median, quantiles

from bench.records.record import Latency, Record
from bench.store.store import Store

SLOWER = 1.25
APART = 1.5
_MACHINE = ("device", "processor", "cores", "threads", "gpus", "system")


def disturbed(records: Sequence[Record]) -> dict[str, str]:
    """Why latencies of a run do not count, by the cell's key, in words that end a sentence about it."""
    paces: dict[str, list[float]] = {}
    for record in records:
        if record.latency and record.latency.workload_s:
            paces.setdefault(_machine(record), []).append(median(record.latency.workload_s))
    usual = {
        machine: quantiles(found, n=4, method="inclusive")[0] if len(found) > 1 else found[0]
        for machine, found in paces.items()
    }
    return {
        record.key: reason
        for record in records
        if record.latency and (reason := _why(record.latency, usual.get(_machine(record))))
    }


def _why(latency: Latency, usual: float | None) -> str | None:
    if usual and latency.workload_s and (pace := median(latency.workload_s) / usual) >= SLOWER:
        return f"the machine took {pace:.1f} times as long as usual for a fixed piece of work beside it"
    if len(latency.call_s) < 2:
        return None
    low, high = min(latency.call_s), max(latency.call_s)
    if len(latency.call_s) >= 4:
        low, _, high = quantiles(latency.call_s, n=4, method="inclusive")
    if high >= APART * low:
        return f"equal calls took from {1000 * low:.0f} to {1000 * high:.0f} ms"
    return None


def _machine(record: Record) -> str:
    """Return an identity of the machine, without batch sizes, which do not affect the workload."""
    return str([record.cell.device, *(record.environment.get(name) for name in _MACHINE)])


def forget_disturbed(store: Store) -> list[str]:
    """Remove disturbed latencies from a run's records, so that the run measures them again; returns the cells' names.

    Those of smaller cells are removed as well, since larger ones take over their latencies.
    """
    records = [record for record in store.records() if record.status == "ok"]
    reasons = disturbed(records)
    for record in records:
        if record.key in reasons:
            store.cell(record.key).replace(replace(record, latency=None))
    return [record.cell.label for record in records if record.key in reasons]
