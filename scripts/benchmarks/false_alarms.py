"""A/A: how often a gate raises an alarm where both sides are the same code, on a busy machine; and a slower UNet.

    .venv/bin/python scripts/benchmarks/false_alarms.py [--runs 8] [--examinations 3] [--sessions 90] [--work DIRECTORY]
        [--repeats 100] [--only-draw] [overrides …]

A whole gate takes many minutes on a busy machine. What it is made of is therefore collected once, and gates are drawn
from it; each has every level: schedulers (an examination of all of them against their baselines), latents, pictures,
scores, latency and memory of two runs of experiment=gate (a pair of runs), and the family of interleaved latencies (as
many sessions as `gate ref=…` has, of scripts/benchmarks/busy_latency.py, whose sides are exchanged at random). Runs
have the seeds and numbers of threads of RUNS; examinations have other hash seeds and threads. What was collected stays
in the directory, and the same command goes on. A slower UNet is drawn as often as `--found`, by the real clock and by
processor time. Writes false_alarms.md; exits with 1 when more than 2 in 100 gates alarm, or a slow-down is found in
fewer than 19 of 20 by both clocks.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from busy_latency import CELLS
from ratios import name_machine, read_log

from bench.experiment.compose import compose_settings
from bench.experiment.verbs import GateChoice, check_gate
from bench.gate.compare import compare_stores
from bench.gate.latency import compare_interleaved
from bench.gate.outcome import GateReport, Outcome
from bench.records.record import InterleavedLatency
from bench.store.store import Store

ROOT = Path(__file__).parents[2]
BAD = ("regressed", "changed", "failed", "missing")
RUNS = ((0, 1), (1, 1), (0, 1), (2, 1), (0, 2), (3, 1), (0, 1), (4, 1), (0, 1), (0, 2), (5, 1), (0, 1), (6, 1), (0, 1))
"""Seed and threads of each run."""
RUN_CELLS = ("method=[tcd,lcm]", "methods.tcd.steps=[2]", "methods.lcm.steps=[1]")
CLOCKS = {"real_s": "real clock", "cpu_s": "processor time"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--examinations", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=90)
    parser.add_argument("--work", type=Path, default=Path("results/gate_benchmark"))
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--found", type=int, default=20)
    parser.add_argument("--only-draw", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "performance" / "false_alarms.md")
    arguments, overrides = parser.parse_known_args()
    work = arguments.work.absolute()
    if not arguments.only_draw:
        collect(work, arguments, overrides)
    gate = check_gate(compose_settings(["conformance.directory=x"], "gate"))
    pairs = list(compare_pairs(work, gate))
    examined = [outcomes_of(path) for path in sorted(work.glob("exam*/gate.json"))]
    sessions = read_log(work / "sessions.jsonl")
    rng = np.random.default_rng(0)
    gates = [draw_gate(rng, gate, pairs, examined, sessions) for _ in range(arguments.repeats)]
    alarms = [[said(outcome) for outcome in drawn if outcome.verdict in BAD] for drawn in gates]
    usual = gate.both_sides.sessions
    most = min(sum(session["kind"] == kind for session in sessions) for kind in ("same", "slower"))
    ways = [(clock, count) for clock in CLOCKS for count in (usual, 2 * usual, 4 * usual) if count <= most]
    slower, again = (
        {way: [draw_latency(rng, gate, sessions, kind, *way) for _ in range(repeats)] for way in ways}
        for kind, repeats in (("slower", arguments.found), ("same", arguments.repeats))
    )
    count = sum(map(bool, alarms))
    found = {way: sum(map(regressed, drawn)) for way, drawn in slower.items() if way[1] == usual}
    lines = page(arguments, work, pairs, examined, sessions, gates, alarms, slower, again)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    missed = max(found.values()) < 0.95 * arguments.found
    return int(count > 0.02 * arguments.repeats or missed)


def collect(work: Path, arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Sample, examine and time what is not there yet."""
    latency = ["--sessions", str(arguments.sessions), "--log", str(work / "sessions.jsonl")]
    run([str(ROOT / "scripts" / "benchmarks" / "busy_latency.py"), *latency], 1)
    for number, (seed, threads) in enumerate(RUNS[: arguments.runs]):
        results = work / "runs" / f"{number:02d}-seed{seed}-threads{threads}"
        if not (results / "run.json").is_file():
            chosen = [f"results='{results}'", f"seed={seed}", *(overrides or RUN_CELLS)]
            run(["-m", "bench", "run", "experiment=gate", "rows=[]", *chosen], threads)
    for number in range(1, arguments.examinations + 1):
        output = work / f"exam{number}"
        if not (output / "gate.json").is_file():
            directory = ROOT / "results" / "conformance"
            command = ["-m", "bench", "gate", f"conformance.directory='{directory}'", f"output='{output}'"]
            run(command, 1 if number == 1 else 2, PYTHONHASHSEED=str(number))


def run(command: Sequence[str], threads: int, **more: str) -> None:
    environment = {**os.environ, **more, "OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    subprocess.run([sys.executable, *command], env=environment, stdout=subprocess.DEVNULL, cwd=ROOT, check=False)


def compare_pairs(work: Path, gate: GateChoice) -> Iterator[tuple[str, list[Outcome]]]:
    """Every two runs, the earlier one as the baseline."""
    runs = [path for path in sorted((work / "runs").iterdir()) if (path / "report.html").is_file()]
    for before, after in combinations(runs, 2):
        stores = (Store(path, writable=False) for path in (before, after))
        compared = compare_stores(*stores, gate.images, gate.limits(), gate.cost, gate.latents)
        yield f"{before.name}, {after.name}", list(compared.outcomes)


def outcomes_of(path: Path) -> list[Outcome]:
    """The outcomes of a report's JSON."""
    return [Outcome(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))["outcomes"]]


def draw_gate(
    rng: np.random.Generator,
    gate: GateChoice,
    pairs: Sequence[tuple[str, list[Outcome]]],
    examined: Sequence[list[Outcome]],
    sessions: Sequence[Mapping[str, Any]],
) -> tuple[Outcome, ...]:
    """All outcomes of one gate, of every level."""
    schedulers = examined[rng.integers(len(examined))]
    _, runs = pairs[rng.integers(len(pairs))]
    latencies = draw_latency(rng, gate, sessions, "same", "real_s", gate.both_sides.sessions)
    return GateReport("baseline", "again", (*schedulers, *runs, *latencies)).outcomes


def draw_latency(
    rng: np.random.Generator,
    gate: GateChoice,
    sessions: Sequence[Mapping[str, Any]],
    kind: str,
    clock: str,
    count: int,
) -> list[Outcome]:
    """The outcomes of one interleaved comparison; `before` is first in even sessions, as the analysis needs it."""
    of_kind = [session for session in sessions if session["kind"] == kind]
    if kind == "same":  # which side is which does not matter: the one that was first is made the right one
        drawn = [of_kind[i] for i in rng.choice(len(of_kind), count, replace=False)]
        swap = [(session["first"] == "before") != (place % 2 == 0) for place, session in enumerate(drawn)]
    else:
        orders = [[one for one in of_kind if one["first"] == first] for first in ("before", "after")]
        picked = [[order[i] for i in rng.choice(len(order), count // 2, replace=False)] for order in orders]
        drawn = [session for both in zip(*picked, strict=True) for session in both]
        swap = [False] * count
    turns = []
    for cell in drawn[0]["cells"]:
        found = [one["cells"][cell] for one in drawn]
        sides = [
            [entry[what][side != swapped] for entry, swapped in zip(found, swap, strict=True)]
            for what in (clock, "first_s")
            for side in (0, 1)
        ]
        turns.append(
            InterleavedLatency(cell, 1, *(tuple(map(tuple, side)) for side in sides[:2]), *map(tuple, sides[2:]))
        )
    return compare_interleaved(turns, gate.cost)


def regressed(outcomes: Sequence[Outcome]) -> bool:
    return any(outcome.verdict == "regressed" for outcome in outcomes)


def said(outcome: Outcome) -> str:
    return f"{outcome.level}: {outcome.subject}: {outcome.quantity}: {outcome.verdict}; {outcome.note}"


def page(
    arguments: argparse.Namespace,
    work: Path,
    pairs: Sequence[tuple[str, list[Outcome]]],
    examined: Sequence[list[Outcome]],
    sessions: Sequence[Mapping[str, Any]],
    gates: Sequence[tuple[Outcome, ...]],
    alarms: Sequence[Sequence[str]],
    slower: Mapping[tuple[str, int], Sequence[list[Outcome]]],
    again: Mapping[tuple[str, int], Sequence[list[Outcome]]],
) -> list[str]:
    """What came out, and what exactly was varied."""
    kinds = Counter(session["kind"] for session in sessions)
    loads = [session["load"] for session in sessions]
    runs = sorted({name for both, _ in pairs for name in both.split(", ")})
    command = shlex.join(["scripts/benchmarks/false_alarms.py", f"--repeats={arguments.repeats}"])
    lines = [
        "# False alarms of the gate on a busy machine, and a slower UNet",
        "",
        f"`{command}`: {sum(map(bool, alarms))} of {len(gates)} gates of the same code gave an alarm.",
        "",
        f"On {name_machine()}; load {min(loads):.0f} to {max(loads):.0f} (median {median(loads):.0f}).",
        "",
        f"Collected: {len(runs)} runs of experiment=gate ({', '.join(runs)};",
        f"{shlex.join(RUN_CELLS)}; all 256 prompts and 40 timed calls), {len(examined)} examinations of all schedulers",
        f"against their baselines with other hash seeds and threads, and {kinds['same']} sessions of latencies",
        f"({shlex.join(CELLS)}; rounds of conf/gate.yaml, the processes of a pool in place of two fresh",
        f"ones). Each gate is drawn from them: one of {len(pairs)} pairs of runs, one examination, 6 sessions, without",
        "repetition with sides at random. Cells are fewer than in the default gate; prompts, calls, sessions, tests",
        "and limits are its own. Gates share material, so they are not independent.",
        "",
        "| level and quantity | outcomes |",
        "| --- | --- |",
    ]
    counts: dict[str, Counter[str]] = {}
    for drawn in gates:
        for outcome in drawn:
            what = outcome.quantity if outcome.level not in ("conformance",) else "all"
            counts.setdefault(f"{outcome.level}: {what}", Counter())[outcome.verdict] += 1
    lines += [
        f"| {what} | {', '.join(f'{n} {verdict}' for verdict, n in found.most_common())} |"
        for what, found in sorted(counts.items())
    ]
    lines += ["", *(f"- {words}" for one in alarms for words in one)]
    lines += [
        "",
        f"## A UNet slower by {sessions[0]['slow_down']:.0%}",
        "",
        f"{kinds['slower']} sessions of the same pool, in turn with the others. The spread is the standard deviation",
        "of log(after / before) of a session, over all cells together; the limit is 1.5%. Comparisons of more sessions",
        "(`both_sides.sessions`) are drawn from the same ones.",
        "",
        "| clock | sessions | found | alarms, same code | spread, same code | slower: after / before | all cells |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for (clock, count), drawn_all in slower.items():
        same, slow = (ratios(sessions, kind, clock) for kind in ("same", "slower"))
        together = Counter(o.verdict for drawn in drawn_all for o in drawn if o.subject == "all cells")
        words = ", ".join(f"{n} {verdict}" for verdict, n in together.most_common())
        hits = sum(map(regressed, drawn_all))
        false = f"{sum(map(regressed, again[clock, count]))} of {len(again[clock, count])}"
        cells = f"{hits} of {len(drawn_all)} | {false} | {np.std(same):.1%} | {np.exp(np.mean(slow)):.3f} | {words}"
        lines.append(f"| {CLOCKS[clock]} | {count} | {cells} |")
    return lines


def ratios(sessions: Sequence[Mapping[str, Any]], kind: str, clock: str) -> np.ndarray:
    """log(after / before) of each session, mean over cells of medians over calls."""
    return np.array(
        [
            np.mean([np.log(median(cell[clock][1]) / median(cell[clock][0])) for cell in session["cells"].values()])
            for session in sessions
            if session["kind"] == kind
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
