"""Latencies of two runs on one machine: what the machine's own moments explain is no change of the code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.judge.gate.latency import Unsteadiness, compare_latencies
from bench.judge.gate.outcome import Outcome
from bench.records import Latency
from bench.request import Limit

LIMIT = Limit(0.05, 0.0)
CELLS = 6


def run(rng: np.random.Generator, moments: float, pace: float = 1.0, slower: float = 1.0) -> list[Latency]:
    """Cells of a run: each moment of the machine is slower or faster by `moments`, and its samples by 1% more."""

    def samples(usual: float, count: int) -> tuple[float, ...]:
        moment = pace * rng.lognormal(0, moments)
        return tuple(usual * moment * rng.lognormal(0, 0.01, count))

    return [
        Latency(
            *(1, 1, "clock", samples(0.05 * (cell + 1) * slower, 10), (), (), (), None),
            samples(0.004, 5) + samples(0.004, 5),
        )
        for cell in range(CELLS)
    ]


def compare(before: list[Latency], after: list[Latency]) -> list[Outcome]:
    labels: list[Any] = [SimpleNamespace(label=f"cell {i}") for i in range(len(before))]
    return compare_latencies(list(zip(labels, before, after, strict=True)), LIMIT)


def test_moments_that_differ_and_a_machine_that_got_slower_are_no_regression() -> None:
    rng = np.random.default_rng(0)
    alarms = 0
    for pace in [1.0, 1.1, 1.2] * 50:
        found = compare(run(rng, 0.06), run(rng, 0.06, pace))
        alarms += any(outcome.verdict in ("regressed", "improved") for outcome in found)
    assert alarms <= 3


@pytest.mark.parametrize(("moments", "slower"), [(0.005, 1.08), (0.05, 1.35)])
def test_what_lies_beyond_the_moments_is_a_regression_of_all_cells_together(moments: float, slower: float) -> None:
    rng = np.random.default_rng(1)
    found = [compare(run(rng, moments), run(rng, moments, slower=slower))[-1] for _ in range(20)]
    assert {outcome.subject for outcome in found} == {"all cells"}
    assert sum(outcome.verdict == "regressed" for outcome in found) >= 18
    back = [compare(run(rng, moments, slower=slower), run(rng, moments))[-1] for _ in range(20)]
    assert sum(outcome.verdict == "improved" for outcome in back) >= 18


def test_on_a_steady_machine_the_same_latency_is_unchanged() -> None:
    rng = np.random.default_rng(2)
    found = [compare(run(rng, 0.003), run(rng, 0.003)) for _ in range(20)]
    assert sum(outcome.verdict == "unchanged" for outcomes in found for outcome in outcomes) > 0.9 * 20 * (CELLS + 1)


def test_how_unsteady_a_machine_is_comes_out_as_it_was_drawn() -> None:
    rng = np.random.default_rng(3)
    found = [Unsteadiness.of([run(rng, 0.06), run(rng, 0.06, pace=1.3)]) for _ in range(50)]
    assert {entry.freedom for entry in found if entry} == {2 * (2 * CELLS - 1)}
    assert np.mean([entry.deviation for entry in found if entry]) == pytest.approx(0.06, rel=0.05)
    untimed = [Latency(1, 1, "clock", (0.1,) * 10, (), (), ()) for _ in range(2)]
    assert Unsteadiness.of([untimed, untimed]) is None
    assert [outcome.verdict for outcome in compare(untimed, untimed)] == ["unchanged"] * 2
