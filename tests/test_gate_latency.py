"""Latencies of two runs on one machine: a difference that the machine's moments explain is not a change of the code."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from bench.gate.latency import compare_interleaved, compare_latencies
from bench.gate.outcome import Outcome
from bench.records.record import InterleavedLatency, Latency
from bench.records.run import CostLimits, Limit

LIMIT = Limit(0.05, 0.0)
CELLS = 6


def run(
    rng: np.random.Generator, moments: float, pace: float = 1.0, slower: float = 1.0, seen: bool = True
) -> list[Latency]:
    """Cells of a run: each moment of the machine is slower or faster by `moments`, and its samples by 1% more.

    The workload suffers the same, unless it is not `seen` there.
    """
    found = []
    for cell in range(CELLS):
        moment = pace * rng.lognormal(0, moments)
        calls, paces = (tuple(moment**seen * rng.lognormal(0, 0.01, 20)) for seen in (1, int(seen)))
        usual = 0.05 * (cell + 1) * slower
        found.append(Latency(1, 1, "clock", tuple(usual * s for s in calls), (), (), (), None, paces))
    return found


def compare(before: list[Latency], after: list[Latency]) -> list[Outcome]:
    labels: list[Any] = [SimpleNamespace(label=f"cell {i}") for i in range(len(before))]
    return compare_latencies(list(zip(labels, before, after, strict=True)), LIMIT)


def alarms(found: list[Outcome]) -> int:
    return sum(outcome.verdict in ("regressed", "improved") for outcome in found)


def test_different_moments_and_a_slower_machine_are_not_regressions() -> None:
    rng = np.random.default_rng(0)
    assert sum(alarms(compare(run(rng, 0.1), run(rng, 0.1, pace))) for pace in [1.0, 1.1, 1.3] * 50) == 0
    unseen = sum(alarms(compare(run(rng, 0.1, seen=False), run(rng, 0.1, pace, seen=False))) for pace in [1.0, 1.3] * 9)
    assert unseen > 50  # without the workload there would be many


def test_a_faster_reference_workload_alone_is_not_a_regression() -> None:
    rng = np.random.default_rng(1)
    before = [replace(entry, workload_s=tuple(0.7 * s for s in entry.workload_s)) for entry in run(rng, 0.0)]
    after = run(rng, 0.0)
    assert alarms(compare(before, after)) + alarms(compare(after, before)) == 0


@pytest.mark.parametrize(("moments", "slower", "pace"), [(0.0, 1.08, 1.0), (0.1, 1.25, 1.05), (0.03, 1.15, 0.98)])
def test_a_slowdown_beyond_the_moments_is_a_joint_regression_of_all_cells(
    moments: float, slower: float, pace: float
) -> None:
    rng = np.random.default_rng(1)
    found = [compare(run(rng, moments), run(rng, moments, pace, slower))[-1] for _ in range(20)]
    assert {outcome.subject for outcome in found} == {"all cells"}
    assert sum(outcome.verdict == "regressed" for outcome in found) >= 18
    back = [compare(run(rng, moments, pace, slower), run(rng, moments))[-1] for _ in range(20)]
    assert sum(outcome.verdict == "improved" for outcome in back) >= 18


def test_on_a_steady_machine_the_same_latency_is_unchanged() -> None:
    rng = np.random.default_rng(2)
    found = [compare(run(rng, 0.003), run(rng, 0.003)) for _ in range(20)]
    assert sum(outcome.verdict == "unchanged" for outcomes in found for outcome in outcomes) > 0.9 * 20 * (CELLS + 1)


def test_calls_between_two_runs_of_the_reference_workload_are_one_sample() -> None:
    paces = (0.01,) * 5 + (0.0101,) * 5
    before, after = (
        Latency(1, 1, "clock", tuple(usual + 1e-5 * i for i in range(10)), (), (), (), None, paces)
        for usual in (0.1, 0.2)
    )
    assert [outcome.verdict for outcome in compare([before], [after])] == ["undecided"]


def test_without_a_reference_workload_the_samples_are_compared_unscaled() -> None:
    untimed = [Latency(1, 1, "clock", (0.1,) * 10, (), (), ()) for _ in range(2)]
    slower = [Latency(1, 1, "clock", (0.11,) * 10, (), (), ()) for _ in range(2)]
    assert [outcome.verdict for outcome in compare(untimed, untimed)] == ["unchanged"] * 3
    assert [outcome.verdict for outcome in compare(untimed, slower)] == ["regressed"] * 3


def at_the_limit(rng: np.random.Generator, in_turn: bool) -> list[Outcome]:
    """Return the outcomes where every cell became slower by exactly the limit, which passes."""
    slower = 1 + LIMIT.relative
    if in_turn:
        usual = np.full((CELLS, 8, 1), 0.05)
        before, after = (usual * side * rng.lognormal(0, 0.01, usual.shape) for side in (1, slower))
        sides = ([[tuple(row) for row in cell] for cell in side.tolist()] for side in (before, after))
        return compare_interleaved(
            [
                InterleavedLatency(f"cell {i}", 1, tuple(b), tuple(a))
                for i, (b, a) in enumerate(zip(*sides, strict=True))
            ],
            CostLimits(LIMIT, LIMIT, LIMIT),
        )
    sides = tuple(
        [Latency(1, 1, "clock", tuple(0.05 * side * rng.lognormal(0, 0.01, 20)), (), (), ()) for _ in range(CELLS)]
        for side in (1, slower)
    )
    return compare(*sides)


@pytest.mark.parametrize(("in_turn", "repeats"), [(True, 250), (False, 80)])
def test_slower_by_the_limit_is_called_a_regression_in_at_most_5_percent_of_comparisons(
    in_turn: bool, repeats: int
) -> None:
    """Cells and all of them together form one family."""
    rng = np.random.default_rng(3)
    false = sum(any(outcome.verdict == "regressed" for outcome in at_the_limit(rng, in_turn)) for _ in range(repeats))
    assert false <= binom.ppf(0.99, repeats, 0.05)
    assert false >= binom.ppf(0.001, repeats, 0.03)


def test_all_cells_together_have_half_of_the_level_and_leave_it_to_the_cells() -> None:
    from bench.analysis.claims import holm

    weights = [1.0] * 4 + [4.0]
    assert holm([0.02, 0.9, 0.9, 0.9, 0.9], weights)[0] == pytest.approx(0.02 * 8)
    assert holm([0.9, 0.9, 0.9, 0.9, 0.02], weights)[-1] == pytest.approx(0.02 * 2)
    assert holm([0.01, 0.9, 0.9, 0.9, 0.001], weights)[:1] == pytest.approx([0.01 * 4]), "what was left to them"
    assert holm([0.01, 0.04, 0.03, 0.005], [3.0] * 4) == pytest.approx(holm([0.01, 0.04, 0.03, 0.005]))
