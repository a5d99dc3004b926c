"""Sessions of interleaved latencies on a busy machine, by two clocks: the same code again, and a UNet 5% slower.

    .venv/bin/python scripts/benchmarks/busy_latency.py [--sessions 90] [--log FILE] [overrides …]

A pool of processes, of which some have a UNet that works longer by a share of its time, makes sessions of both
kinds in turn: two processes drawn at random, A B B A with three calls each, at the rounds of conf/gate.yaml, every call
by the real clock and by the processor time of its thread. `tcd-bench gate ref=…` starts two processes for each session
instead, which takes minutes on such a machine. Each session is a line of the log; the same command goes on after the
last. scripts/benchmarks/false_alarms.py draws comparisons from them.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ratios import add_to_log, name_machine, read_log

CALLS = 3
NORMAL, SLOWER = 8, 4
LOG = Path("results/gate_benchmark/sessions.jsonl")
CELLS = ("method=[tcd,lcm]", "methods.tcd.steps=[2]")


def serve(share: float) -> None:
    """A process of the pool: prepares cells, and times calls of those."""
    answers, sys.stdout = sys.stdout, sys.stderr
    if share:
        slow_down(share)
    cells: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        name = asked["name"]
        if "cell" in asked:
            cells[name] = make_call(asked["cell"], asked["prompts"])
            answer: dict[str, Any] = {"first_s": timed(cells[name])[0]}
            for _ in range(2):
                cells[name]()
        else:
            cells[name]()
            found = [timed(cells[name]) for _ in range(CALLS)]
            answer = {"real_s": [real for real, _ in found], "cpu_s": [cpu for _, cpu in found]}
        print(json.dumps(answer), file=answers, flush=True)


def slow_down(share: float) -> None:
    """The UNet works longer by a share of its processor time."""
    from diffusers import UNet2DConditionModel

    forward = UNet2DConditionModel.forward

    def slow(self: Any, *arguments: Any, **more: Any) -> Any:
        begun = time.thread_time()
        output = forward(self, *arguments, **more)
        until = time.thread_time() + share * (time.thread_time() - begun)
        while time.thread_time() < until:
            pass
        return output

    UNet2DConditionModel.forward = slow


def make_call(cell: Mapping[str, Any], prompts: list[str]) -> Callable[[], Any]:
    import torch

    from bench.generate.pipelines import load_pipeline
    from bench.generate.sampling import Sampler
    from bench.records.cell import Cell

    torch.set_num_threads(1)
    wanted = Cell.from_dict(cell)
    sampler = Sampler(load_pipeline(wanted), wanted, prompts)
    return lambda: sampler.call(range(len(prompts)))


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    begun = time.perf_counter(), time.thread_time()
    call()
    return time.perf_counter() - begun[0], time.thread_time() - begun[1]


class Worker:
    """A process of the pool."""

    def __init__(self, number: int, share: float) -> None:
        self.number, self.share = number, share
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(share)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first_s: dict[str, float] = {}

    def ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("a process of the pool cannot be talked to")
        print(json.dumps(request), file=stdin, flush=True)
        answer: Mapping[str, Any] = json.loads(stdout.readline())
        return answer


def run_session(first: Worker, second: Worker, names: list[str], rounds: int) -> dict[str, Any]:
    """Calls of two processes in turn, by cell."""
    cells = {}
    for name in names:
        found: dict[str, tuple[list[float], list[float]]] = {"real_s": ([], []), "cpu_s": ([], [])}
        for number in range(rounds):  # A B B A
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                answer = (first, second)[which].ask({"name": name})
                for clock in found:
                    found[clock][which].extend(answer[clock])
        cells[name] = {**found, "first_s": [first.first_s[name], second.first_s[name]]}
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=90, help="of either kind")
    parser.add_argument("--slow-down", type=float, default=0.05)
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    arguments, overrides = parser.parse_known_args()
    if arguments.serve is not None:
        serve(arguments.serve)
        return
    from bench.execute.job import prepare
    from bench.experiment.compose import compose_settings
    from bench.experiment.config import check_experiment
    from bench.experiment.verbs import check_gate
    from bench.records.cell import plain

    gate = check_gate(compose_settings(["conformance.directory=x"], "gate"))
    job = prepare(check_experiment(compose_settings([*gate.both_sides.overrides, *(overrides or CELLS)])))
    prompts = list(job.prompts.texts[: job.experiment.measure.batch_size])
    done = len(read_log(arguments.log))
    pool = [Worker(number, 0.0 if number < NORMAL else arguments.slow_down) for number in range(NORMAL + SLOWER)]
    for worker in pool:
        for cell in job.plan.cells:
            answer = worker.ask({"name": cell.label, "cell": plain(cell), "prompts": prompts})
            worker.first_s[cell.label] = answer["first_s"]
    names = [cell.label for cell in job.plan.cells]
    rng, machine = np.random.default_rng(done), name_machine()
    for number in range(done, 2 * arguments.sessions):
        same = number % 2 == 0
        before, after = rng.choice(NORMAL, 2, replace=False)
        other = pool[after] if same else pool[NORMAL + rng.integers(SLOWER)]
        first = number // 2 % 2 == 0  # the side before is first in every second session of each kind
        order = (pool[before], other) if first else (other, pool[before])
        cells = run_session(*order, names, gate.both_sides.rounds)
        if not first:
            cells = {
                name: {what: list(reversed(sides)) for what, sides in found.items()} for name, found in cells.items()
            }
        line = {"kind": "same" if same else "slower", "first": "before" if first else "after", "machine": machine}
        line |= {"processes": [pool[before].number, other.number], "load": os.getloadavg()[0], "cells": cells}
        add_to_log(arguments.log, {**line, "slow_down": arguments.slow_down})
        print(f"{number:4d} {line['kind']:>6}, load {line['load']:.1f}", flush=True)


if __name__ == "__main__":
    main()
