"""How well the gate tells a slower UNet from the same one: repeated comparisons with and without an injected slow-down.

    .venv/bin/python scripts/benchmarks/gate.py [--slow-down 0.05] [--repeats 20] [--log FILE] [overrides …]

Both sides run the miniature's cells of experiment=gate in turn, A B B A, as `tcd-bench gate ref=…` does, at its default
sessions, rounds and limits. In one half of the comparisons the second side's UNet takes longer by the given share of
its own time, in the other half both sides are the same. Each comparison is a line of the log, with every raw sample;
the same command goes on after the last of them. Writes slow_downs.md; exits with 1 when a slow-down was missed more
than once in 20, or a false alarm was given.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

from ratios import add_to_log, name_machine, name_machines, read_log

from bench.execute.job import prepare
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.experiment.verbs import check_gate
from bench.gate.interleaved_timing import time_interleaved
from bench.gate.latency import compare_interleaved
from bench.workers.installation import Installation, this_installation

SLOWER = """
import time
from diffusers import UNet2DConditionModel

forward = UNet2DConditionModel.forward


def slow(self, *arguments, **more):
    begun = time.perf_counter()
    output = forward(self, *arguments, **more)
    until = time.perf_counter() + {share} * (time.perf_counter() - begun)
    while time.perf_counter() < until:
        pass
    return output


UNet2DConditionModel.forward = slow
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slow-down", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--log", type=Path, default=Path("results/gate_benchmark/latency.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("results/performance"))
    arguments, overrides = parser.parse_known_args()
    gate = check_gate(compose_settings(["conformance.directory=x"], "gate"))
    job = prepare(check_experiment(compose_settings([*gate.both_sides.overrides, *overrides])))
    prompts = job.prompts.texts[: job.experiment.measure.batch_size]
    question = {"slow_down": arguments.slow_down, "cells": [cell.key for cell in job.plan.cells]}
    lines = [line for line in read_log(arguments.log) if line["question"] == question]
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "sitecustomize.py").write_text(SLOWER.format(share=arguments.slow_down))
        slower = Installation("slower", sys.executable, (directory,))
        for turn in range(len(lines), 2 * arguments.repeats):
            name, side = (("same", this_installation()), ("slower", slower))[turn % 2]
            sessions, rounds = gate.both_sides.sessions, gate.both_sides.rounds
            turns = time_interleaved(this_installation(), side, job.plan.cells, prompts, sessions, rounds)
            outcomes = compare_interleaved(turns, gate.cost)
            verdicts = {outcome.subject: outcome.verdict for outcome in outcomes}
            line = {"question": question, "side": name, "machine": name_machine(), "verdicts": verdicts}
            line["turns"] = [asdict(entry) for entry in turns]
            add_to_log(arguments.log, line)
            lines.append(line)
            ratios = " ".join(f"{(o.after or 0) / (o.before or 1):.3f}" for o in outcomes)
            print(f"{turn // 2:3d} {name:>6}: {', '.join(verdicts.values())}; ratios {ratios}", flush=True)
    found = {
        name: ["regressed" in line["verdicts"].values() for line in lines if line["side"] == name]
        for name in ("slower", "same")
    }
    counts = {name: f"{sum(hits)} of {len(hits)}" for name, hits in found.items()}
    said = f"slow-down of {arguments.slow_down:.0%}: found in {counts['slower']}, false alarms in {counts['same']}"
    print(said)
    (arguments.out / "slow_downs.md").write_text("\n".join(to_markdown(said, lines)) + "\n", encoding="utf-8")
    missed = len(found["slower"]) - sum(found["slower"])
    return 1 if sum(found["same"]) or missed > len(found["slower"]) // 20 else 0


def to_markdown(said: str, lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "# How well the gate tells a slower UNet from the same one"
    yield f"\n`scripts/benchmarks/gate.py`: a {said}.\n"
    yield name_machines(lines)
    yield "| second side | all cells, after / before | all cells | cells regressed | cells improved |"
    yield "| --- | ---: | --- | ---: | ---: |"
    for line in sorted(lines, key=lambda line: str(line["side"]), reverse=True):
        verdicts = dict(line["verdicts"])
        together = verdicts.pop("all cells")
        sides = [
            [fmean(median(seconds) for seconds in turns[side]) for turns in line["turns"]]
            for side in ("before_s", "after_s")
        ]
        ratio = fmean(after / before for before, after in zip(*sides, strict=True))
        cells = [sum(found == verdict for found in verdicts.values()) for verdict in ("regressed", "improved")]
        yield f"| {line['side']} | {ratio:.3f} | {together} | {cells[0]} | {cells[1]} |"


if __name__ == "__main__":
    sys.exit(main())
