"""How often the gate cries wolf: the same code again, with other seeds and numbers of threads and lanes.

    .venv/bin/python scripts/benchmark_false_alarms.py [--repeats 100] [--log FILE] [overrides …]

Every repetition samples experiment=gate anew and is held against one baseline at the gate's default limits, images,
quality and memory (latencies are for scripts/benchmark_gate.py). The seeds are 0, 0, 1, 2, 3, 0, 0, 4, …: two of five
repetitions share the baseline's noise, so that images are compared one by one, the others meet other noise. Each is a
line of the log; the same command goes on after the last. Exits with 1 when anything regressed, changed or failed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.experiment.compose import compose_settings
from bench.experiment.gate import check_gate
from bench.judge.gate.cells import Side
from bench.judge.gate.compare import compare_runs
from bench.judge.gate.outcome import GateReport
from bench.store import Store

BAD = ("regressed", "changed", "failed", "missing")


def main() -> int:
    """Repeat until the log is full, then count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--log", type=Path, default=Path("results/gate_benchmark/false_alarms.jsonl"))
    arguments, overrides = parser.parse_known_args()
    arguments.log.parent.mkdir(parents=True, exist_ok=True)
    baseline = arguments.log.parent / "false_alarms_baseline"
    sample(baseline, overrides, seed=0, threads=os.cpu_count() or 1, lanes=2)
    text = arguments.log.read_text(encoding="utf-8") if arguments.log.is_file() else ""
    lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    for repeat in range(len(lines), arguments.repeats):
        begun = time.perf_counter()
        seed = (0, 0, 1, 2, 3)[repeat % 5] + (3 * (repeat // 5) if repeat % 5 > 1 else 0)
        threads, lanes = (1, 2, 4)[repeat % 3], 1 + repeat % 2
        scratch = Path(tempfile.mkdtemp(prefix="tcd-bench-again-"))
        sample(scratch / "run", overrides, seed, threads, lanes)
        line = {"repeat": repeat, "seed": seed, "threads": threads, "lanes": lanes, **judge(baseline, scratch / "run")}
        shutil.rmtree(scratch)
        with arguments.log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line, ensure_ascii=False) + "\n")
        lines.append(line)
        where = f"seed {seed}, {threads} threads, {lanes} lanes"
        print(f"{repeat:3d} {where}: {line['counts']}, {time.perf_counter() - begun:.0f} s", flush=True)
    alarms = [line for line in lines if line["alarms"]]
    for line in alarms:
        print(f"false alarm in repetition {line['repeat']}: {'; '.join(line['alarms'])}")
    print(f"{len(alarms)} of {len(lines)} repetitions gave a false alarm")
    return 1 if alarms else 0


def sample(results: Path, overrides: list[str], seed: int, threads: int, lanes: int) -> None:
    """Run the gate's experiment; a run that is there already is not repeated."""
    command = [
        *(sys.executable, "-m", "bench", "run", "experiment=gate", f"results='{results.absolute()}'"),
        *(f"seed={seed}", f"lanes={lanes}", "measure.latency=false", *overrides),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def judge(baseline: Path, candidate: Path) -> dict[str, Any]:
    """What the gate says, in counts, and its alarms in words."""
    limits = check_gate(compose_settings([f"baseline='{baseline}'", f"candidate='{candidate}'"], "gate"))
    before, after = (Side.of(Store(path, writable=False)) for path in (baseline, candidate))
    outcomes = compare_runs(before, after, limits.images, limits.quality, limits.cost)[1]
    report = GateReport("baseline", "again", outcomes)
    alarms = [f"{o.verdict}: {o.subject}: {o.quantity} {o.note}" for o in outcomes if o.verdict in BAD]
    return {"exit_code": report.exit_code, "counts": dict(report.counts), "alarms": alarms}


if __name__ == "__main__":
    sys.exit(main())
