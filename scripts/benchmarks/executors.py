"""What executors cost and how they scale, with cells of known cost: sleep in place of a GPU's time.

    python scripts/benchmarks/executors.py [--cells 320] [--seconds 0.2] [--only scaling overhead plan report]

Prints one line a question, and the target beside it. Start-up of workers is apart: time runs from the first cell begun
to the last one committed.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
os.environ["PYTHONPATH"] = str(ROOT / "tests")

from sleeping import make_launch, make_runner_for  # noqa: E402

from bench.experiment.executors import Ray  # noqa: E402
from bench.store.store import Store  # noqa: E402
from bench.workers.context import WorkerContext  # noqa: E402
from bench.workers.launch import Launch  # noqa: E402
from bench.workers.leases import Leases  # noqa: E402
from bench.workers.local import ThisMachine  # noqa: E402
from bench.workers.loop import Loop  # noqa: E402
from bench.workers.pool import Executor, WorkerPool  # noqa: E402

WORK = "sleeping:make_runner_for"
PARTS = ("scaling", "overhead", "plan", "report")


def check(found: int, wanted: int) -> None:
    """A fast run that lost cells is not a result."""
    if found != wanted:
        raise SystemExit(f"{found} of {wanted} cells were done")


def executor_of(kind: str, store: Store, launch: Launch, workers: int) -> Executor:
    """Room for so many workers."""
    if kind == "processes":
        return ThisMachine(store.location, launch.name, workers, (), WORK)
    from bench.workers.ray import RayCluster

    return RayCluster(store.location, launch.name, Ray(workers=workers, cpus=0.0), "cpu", WORK)


def time_crew(kind: str, workers: int, cells: int, seconds: float) -> float:
    """Seconds from the first cell begun to the last one committed."""
    with tempfile.TemporaryDirectory() as folder:
        store, log = Store(Path(folder) / "run"), Path(folder) / "log"
        launch = make_launch(store, log, cells, seconds=seconds, wait_for=workers)
        executor = executor_of(kind, store, launch, workers)
        pool = WorkerPool(executor, store, launch.name)
        while pool.reconcile(cells):
            time.sleep(0.2)
        pool.close()
        begun = min(float(line.split()[3]) for line in log.read_text().splitlines())
        ended = max(path.stat().st_mtime for path in (Path(folder) / "run" / "cells").glob("*/record.json"))
        check(sum(record.status == "ok" for record in store.records()), cells)
        return ended - begun


def measure_scaling(cells: int, seconds: float) -> None:
    """Eight workers against one."""
    for kind in ("processes", "ray"):
        one, eight = (time_crew(kind, workers, cells, seconds) for workers in (1, 8))
        print(f"scaling, {kind}: {cells} cells of {seconds} s: one worker {one:.1f} s, eight {eight:.1f} s, "
              f"ratio {one / eight:.2f} (at least 7.6)", flush=True)  # fmt: skip


def measure_overhead(cells: int = 1000) -> None:
    """Cells that cost nothing, in this process and in a Ray actor."""
    with tempfile.TemporaryDirectory() as folder:
        store, log = Store(Path(folder) / "run"), Path(folder) / "log"
        launch = make_launch(store, log, cells)
        context = WorkerContext()
        work, todo = make_runner_for(launch, store, context)
        begin = time.perf_counter()
        done = sum(1 for _ in Loop(work, store, Leases(store.files, "here"), launch.name, context).run(todo))
        spent = time.perf_counter() - begin
        check(done, cells)
    print(f"overhead, local: {1000 * spent / cells:.2f} ms a cell (at most 5)", flush=True)
    print(f"overhead, ray: {1000 * time_crew('ray', 1, cells, 0) / cells:.2f} ms a cell (at most 15)", flush=True)


def measure_plan() -> None:
    """A hundred thousand cells."""
    code = (
        "import time; from bench.experiment.compose import compose_settings\n"
        "from bench.execute.job import prepare; from bench.experiment.config import check_experiment\n"
        "s = compose_settings(['experiment=mini', 'method=[tcd]', 'claim=[]', 'scores=[fid]'])\n"
        "axes = {'max_steps': None, 'steps': list(range(1, 1001)), 'eta': [i / 100 for i in range(101)]}\n"
        "s['methods'] = {'tcd': {**s['methods']['tcd'], **axes}}\n"
        "s['methods']['tcd']['scheduler']['original_inference_steps'] = 1000\n"
        "begin = time.perf_counter(); job = prepare(check_experiment(s))\n"
        "print(len(job.plan.cells), time.perf_counter() - begin)"
    )
    count, seconds = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()[-2:]
    print(f"plan: {int(count):,} cells in {float(seconds):.1f} s (100,000 in at most 10 s)", flush=True)


def measure_report(count: int = 10_000) -> None:
    """Ten thousand records."""
    code = "import sys; from bench.__main__ import main; sys.exit(main(['report', 'results=' + sys.argv[1]]))"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, str(ROOT / "tests" / "many_records.py"), folder, str(count)], check=True)
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, folder], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"report: {count:,} records in {seconds:.1f} s, peak {peak / 2**30:.2f} GiB (at most 20 s and 1 GiB)")


def main() -> None:
    """All parts, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=320)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    choice = parser.parse_args()
    if "scaling" in choice.only:
        measure_scaling(choice.cells, choice.seconds)
    if "overhead" in choice.only:
        measure_overhead()
    if "plan" in choice.only:
        measure_plan()
    if "report" in choice.only:
        measure_report()


if __name__ == "__main__":
    main()
