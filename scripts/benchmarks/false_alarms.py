"""False alarms of the gate: the same code again, with different seeds and numbers of threads and concurrent_batches.

    .venv/bin/python scripts/benchmarks/false_alarms.py [--repeats 100] [--log FILE] [overrides …]

Every repetition samples experiment=gate again and is compared with a baseline at the gate's default limits. Seeds
are 0, 0, 1, 2, 3, 0, 0, 4, …: two of five repetitions share the baseline's noise, so that images are compared one by
one, the others have other noise. Latencies and memory are comparable with equal threads and concurrent_batches only,
compared with the first repetition that had the same. Each repetition is a line of the log; the same command
goes on after the last. Writes a table; exits with 1 when anything regressed, changed or failed.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ratios import add_to_log, name_machine, name_machines, read_log

from bench.experiment.compose import compose_settings
from bench.experiment.verbs import check_gate
from bench.gate.compare import compare_stores
from bench.gate.outcome import GateReport, Outcome
from bench.store.store import Store

BAD = ("regressed", "changed", "failed", "missing")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--log", type=Path, default=Path("results/gate_benchmark/false_alarms.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("results/performance/false_alarms.md"))
    arguments, overrides = parser.parse_known_args()
    kept = arguments.log.parent / "false_alarms_baselines"
    baseline = kept / "all"
    lines = read_log(arguments.log)
    if len(lines) < arguments.repeats:
        sample(baseline, overrides, seed=0, threads=os.cpu_count() or 1, concurrent_batches=2)
    for repeat in range(len(lines), arguments.repeats):
        begun = time.perf_counter()
        seed = (0, 0, 1, 2, 3)[repeat % 5] + (3 * (repeat // 5) if repeat % 5 > 1 else 0)
        threads, concurrent_batches = (1, 2, 4)[repeat % 3], 1 + repeat % 2
        scratch = Path(tempfile.mkdtemp(prefix="tcd-bench-again-")) / "run"
        sample(scratch, overrides, seed, threads, concurrent_batches)
        same = kept / f"threads-{threads}-concurrent_batches-{concurrent_batches}"
        line = {"repeat": repeat, "seed": seed, "threads": threads, "concurrent_batches": concurrent_batches}
        line |= {**judge(baseline, same, scratch), "machine": name_machine()}
        if same.is_dir():
            shutil.rmtree(scratch.parent)
        else:
            shutil.move(scratch, same)
        add_to_log(arguments.log, line)
        lines.append(line)
        where = f"seed {seed}, {threads} threads, {concurrent_batches} concurrent_batches"
        print(f"{repeat:3d} {where}: {line['counts']}, {time.perf_counter() - begun:.0f} s", flush=True)
    alarms = [line for line in lines if line["alarms"]]
    for line in alarms:
        print(f"false alarm in repetition {line['repeat']}: {'; '.join(line['alarms'])}")
    said = f"{len(alarms)} of {len(lines)} repetitions gave a false alarm"
    print(said)
    arguments.out.write_text("\n".join(to_markdown(said, lines)) + "\n", encoding="utf-8")
    return 1 if alarms else 0


def to_markdown(said: str, lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What came out, and how many outcomes of each verdict, by what the repetitions shared with the baseline."""
    yield "# False alarms of the gate"
    yield f"\n`{shlex.join(['scripts/benchmarks/false_alarms.py', *sys.argv[1:]])}`: {said}.\n"
    yield name_machines(lines)
    yield "| repetitions | | outcomes |"
    yield "| ---: | --- | --- |"
    same = [line for line in lines if line["seed"] == 0]
    timed = [line for line in lines if line.get("latencies")]
    for what, found, counts in (
        ("with the baseline's seed", same, "counts"),
        ("with other seeds", [line for line in lines if line["seed"] != 0], "counts"),
        ("of them, latencies beside a run of as many threads and concurrent_batches", timed, "latencies"),
    ):
        total = sum((Counter(line[counts]) for line in found), Counter[str]())
        if found:
            yield f"| {len(found)} | {what} | {', '.join(f'{n} {verdict}' for verdict, n in total.most_common())} |"


def sample(results: Path, overrides: list[str], seed: int, threads: int, concurrent_batches: int) -> None:
    """Run the gate's experiment; a run that is there already is not repeated."""
    command = [
        *(sys.executable, "-m", "bench", "run", "experiment=gate", f"results='{results.absolute()}'"),
        *(f"seed={seed}", f"concurrent_batches={concurrent_batches}", *overrides),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def judge(baseline: Path, same: Path, candidate: Path) -> dict[str, Any]:
    """Counts of the gate's verdicts, and its alarms in words; costs are compared with the run in `same`."""
    outcomes = [outcome for outcome in compare(baseline, candidate) if outcome.level != "cost"]
    costs = [outcome for outcome in compare(same, candidate) if outcome.level == "cost"] if same.is_dir() else []
    report = GateReport("baseline", "again", [*outcomes, *costs])
    alarms = [f"{o.verdict}: {o.subject}: {o.quantity} {o.note}" for o in report.outcomes if o.verdict in BAD]
    return {
        **{"exit_code": report.exit_code, "counts": dict(report.counts), "alarms": alarms},
        "latencies": dict(Counter(outcome.verdict for outcome in costs if outcome.quantity == "latency_s")),
    }


def compare(before: Path, after: Path) -> list[Outcome]:
    limits = check_gate(compose_settings([f"baseline='{before}'", f"candidate='{after}'"], "gate"))
    stores = (Store(path, writable=False) for path in (before, after))
    return compare_stores(*stores, limits.images, limits.quality, limits.cost, limits.latents).outcomes


if __name__ == "__main__":
    sys.exit(main())
