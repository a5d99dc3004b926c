"""What executors cost and how they scale, with cells of known cost: sleep in place of a GPU's time.

    python scripts/benchmarks/executors.py [--cells 320] [--seconds 0.2] [--only scaling overhead]

Prints one line per question, with its target. The start of workers does not count: time runs from the first cell begun
to the last one committed. What planning and reports cost is measured by growth.py.
"""

from __future__ import annotations

import argparse
import os
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
from bench.workers.leases import Leases  # noqa: E402
from bench.workers.local import ThisMachine  # noqa: E402
from bench.workers.loop import Loop, WorkerContext  # noqa: E402
from bench.workers.pool import Executor, WorkerPool  # noqa: E402

WORK = "sleeping:make_runner_for"
PARTS = ("scaling", "overhead")


def check(found: int, wanted: int) -> None:
    """A fast run that lost cells is not a result."""
    if found != wanted:
        raise SystemExit(f"{found} of {wanted} cells were done")


def time_workers(kind: str, workers: int, cells: int, seconds: float) -> float:
    """Seconds from the first cell begun to the last one committed."""
    with tempfile.TemporaryDirectory() as folder:
        store, log = Store(Path(folder) / "run"), Path(folder) / "log"
        launch = make_launch(store, log, cells, seconds=seconds, wait_for=workers)
        executor: Executor = ThisMachine(store.location, launch.name, workers, (), WORK)
        if kind == "ray":
            from bench.workers.ray import RayCluster

            executor = RayCluster(store.location, launch.name, Ray(workers=workers, cpus=0.0), "cpu", WORK)
        pool = WorkerPool(executor, store, launch.name)
        while pool.reconcile(cells):
            time.sleep(0.2)
        pool.close()
        begun = min(float(line.split()[3]) for line in log.read_text().splitlines())
        ended = max(path.stat().st_mtime for path in (Path(folder) / "run" / "cells").glob("*/record.json"))
        check(sum(record.status == "ok" for record in store.records()), cells)
        return ended - begun


def measure_scaling(cells: int, seconds: float) -> None:
    for kind in ("processes", "ray"):
        one, eight = (time_workers(kind, workers, cells, seconds) for workers in (1, 8))
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
    print(f"overhead, ray: {1000 * time_workers('ray', 1, cells, 0) / cells:.2f} ms a cell (at most 15)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=320)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    choice = parser.parse_args()
    if "scaling" in choice.only:
        measure_scaling(choice.cells, choice.seconds)
    if "overhead" in choice.only:
        measure_overhead()


if __name__ == "__main__":
    main()
