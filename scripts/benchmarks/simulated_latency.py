"""How often the gate finds a slower UNet, and how often it raises a false alarm, with a simulated clock.

    .venv/bin/python scripts/benchmarks/simulated_latency.py [--slow-down 0.05] [--repeats 400]

The six cells of experiment=gate with the sessions, rounds and limits of conf/gate.yaml. A session is slower or faster
than others by a factor of 10%, as on a busy machine; each process of each side differs by 1% from others at each
cell; calls differ by 3%, and one in 20 takes half as long again. The UNet is 84% of a call. Unlike
scripts/benchmarks/gate.py, which lets a real UNet wait, this needs no idle machine and can be repeated often. Writes
simulated_latency.md; exits with 1 where a slow-down is missed more than once in 20, or more than 2% of comparisons
raise a false alarm.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.experiment.compose import compose_settings
from bench.experiment.verbs import GateChoice, check_gate
from bench.gate.interleaved_timing import CALLS
from bench.gate.latency import compare_interleaved
from bench.records.record import InterleavedLatency

CELLS_S = (0.02, 0.04, 0.04, 0.14, 0.08, 0.08)
"""Seconds of a call of each cell, of about the miniature's."""
UNET = 0.84


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slow-down", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("results/performance"))
    arguments = parser.parse_args()
    gate = check_gate(compose_settings(["conformance.directory=x"], "gate"))
    rng = np.random.default_rng(0)
    lines = [
        "# How well the gate tells a slower UNet, with a simulated clock",
        "",
        f"`scripts/benchmarks/simulated_latency.py`, {arguments.repeats} comparisons each: the machine differs by 10%",
        "between sessions, processes by 1%, calls by 3% with 5% of outliers.",
        "",
        "| second side | comparisons that report a regression | an improvement | verdicts of all cells together |",
        "| --- | ---: | ---: | --- |",
    ]
    share = {}
    for name, slow_down in (("the same", 0.0), (f"UNet slower by {arguments.slow_down:.0%}", arguments.slow_down)):
        found = [verdicts(rng, gate, 1 + UNET * slow_down) for _ in range(arguments.repeats)]
        worse, better = (sum(verdict in one.values() for one in found) for verdict in ("regressed", "improved"))
        together = Counter(one["all cells"] for one in found)
        counts = ", ".join(f"{count} {verdict}" for verdict, count in together.most_common())
        lines.append(f"| {name} | {worse} of {len(found)} | {better} of {len(found)} | {counts} |")
        share[slow_down] = (worse / len(found), (worse + better) / len(found))
        print(lines[-1], flush=True)
    (arguments.out / "simulated_latency.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if share[0.0][1] > 0.02 or share[arguments.slow_down][0] < 0.95 else 0


def verdicts(rng: np.random.Generator, gate: GateChoice, slower: float) -> dict[str, str]:
    """The verdict of each cell, and of all together, of one comparison."""
    sessions, calls = gate.both_sides.sessions, CALLS * gate.both_sides.rounds
    machine = rng.lognormal(0, 0.1, sessions)
    turns = [
        InterleavedLatency(
            f"cell {i}", 1, sampled(rng, usual * machine, calls), sampled(rng, usual * slower * machine, calls)
        )
        for i, usual in enumerate(CELLS_S)
    ]
    return {outcome.subject: outcome.verdict for outcome in compare_interleaved(turns, gate.cost)}


def sampled(rng: np.random.Generator, usual: NDArray[np.float64], calls: int) -> tuple[tuple[float, ...], ...]:
    """Calls of each session of one side."""
    process = rng.lognormal(0, 0.01, len(usual))
    noise = rng.lognormal(0, 0.03, (len(usual), calls)) * np.where(rng.random((len(usual), calls)) < 0.05, 1.5, 1.0)
    return tuple(map(tuple, ((usual * process)[:, None] * noise).tolist()))


if __name__ == "__main__":
    sys.exit(main())
