"""Kill workers, nodes and drivers at random over runs of cells, and see that nothing is lost, doubled or changed.

    python scripts/chaos.py [--place processes ray slurm] [--repeats 20] [--cells 40] [--seed 0]

Each repetition runs the cells to the end, starting the driver again whenever it was killed, and compares records and
features with those of an undisturbed run. ray: three raylets on this host, of which any but the
head's may be killed, and others join late. slurm: needs a cluster, such as scripts/test-cluster starts
(`TCD_BENCH_RUN=scripts/chaos.py scripts/test-cluster --place slurm`); jobs called tcd-bench are cancelled there.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
os.environ["PYTHONPATH"] = str(ROOT / "tests")
os.environ["RAY_AUTH_MODE"] = "token"
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

from sleeping import make_launch, make_work  # noqa: E402

from bench.execute.crew import Crew, Place  # noqa: E402
from bench.execute.launch import Launch  # noqa: E402
from bench.execute.leases import Leases  # noqa: E402
from bench.execute.local import ThisMachine  # noqa: E402
from bench.execute.loop import Loop  # noqa: E402
from bench.experiment.executors import Ray, Slurm  # noqa: E402
from bench.store import Store  # noqa: E402

WORK = "sleeping:make_work"
LEASE_S = 4.0


def drive(kind: str, location: str, name: str) -> None:
    """What a driver does: tend workers until none is needed."""
    store = Store(location)
    launch = Launch.load(store.files, name)
    place: Place
    if kind == "processes":
        place = ThisMachine(location, name, 3, "cpu", 0, WORK)
    elif kind == "ray":
        from bench.execute.ray import RayCluster

        place = RayCluster(location, name, Ray(address=os.environ["CHAOS_RAY"], cpus=1.0), "cpu", WORK)
    else:
        from bench.execute.slurm import JobArray

        place = JobArray(location, name, Slurm(workers=3, folder=str(Path(location).parent / "slurm")), WORK)
    crew = Crew(place, store, f"{name}", started=int(time.time()) % 100_000)
    while crew.tend(len(launch.cells)):
        time.sleep(0.2)
    crew.close()


class RayNodes:
    """Raylets of one host, started one after the other, killed without warning."""

    def __init__(self, count: int) -> None:
        self.port = 20_000 + random.randrange(20_000)
        os.environ["CHAOS_RAY"] = f"127.0.0.1:{self.port}"
        self._ray("start", "--head", f"--port={self.port}", "--include-dashboard=false", "--num-cpus=1")
        for _ in range(count - 1):
            self.join()

    def join(self) -> None:
        """One more raylet."""
        self._ray("start", f"--address=127.0.0.1:{self.port}", "--num-cpus=1")

    def kill_one(self) -> None:
        """The youngest raylet, and with it its workers."""
        pids = sorted(process.pid for process in psutil.process_iter(["name"]) if process.name() == "raylet")
        if len(pids) > 1:
            os.kill(pids[-1], signal.SIGKILL)

    def stop(self) -> None:
        """Everything that was started here."""
        self._ray("stop", "--force")

    def _ray(self, *arguments: str) -> None:
        command = [str(Path(sys.executable).with_name("ray")), *arguments]
        if arguments[0] == "start":
            command += ["--node-ip-address=127.0.0.1", "--disable-usage-stats"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def nodes_of(kind: str) -> Iterator[RayNodes | None]:
    """The cluster of a repetition."""
    nodes = RayNodes(3) if kind == "ray" else None
    try:
        yield nodes
    finally:
        if nodes:
            nodes.stop()


def repeat(kind: str, cells: int, dice: random.Random, calm: dict[str, object]) -> tuple[str, bool]:
    """One run with kills; what happened, and whether it ended as the calm one."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, nodes_of(kind) as nodes:
        log = Path(folder) / "log"
        store = Store(Path(folder) / "run")
        make_launch(store, log, cells, seconds=0.15, groups=3, chunks=2, common={"lease_s": LEASE_S, "tries": 50})
        events: Counter[str] = Counter()
        command = [sys.executable, __file__, "--drive", kind, store.location, "launch"]
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 600
        while (code := driver.poll()) != 0 and time.monotonic() < end:
            if code is not None:
                driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                continue
            with suppress(subprocess.TimeoutExpired):
                driver.wait(dice.uniform(0.5, 2.0))
            if driver.poll() is not None or sum(events.values()) >= 8 or not log.exists():
                continue
            event = dice.choice(["worker", "worker", "worker", "driver", *(["node", "join"] if nodes else [])])
            events[event] += 1
            if event == "worker":
                pids = {int(line.split()[2]) for line in log.read_text().splitlines()[-6:]}
                with suppress(ProcessLookupError):
                    os.kill(dice.choice(sorted(pids)), signal.SIGKILL)
            elif event == "driver":
                driver.kill()
                driver.wait()
            elif nodes:
                nodes.kill_one() if event == "node" else nodes.join()
        driver.kill()
        driver.wait()
        if kind == "slurm":  # tasks of drivers that were killed find nothing left to do, but may not have looked yet
            subprocess.run(["scancel", "--me", "--name=tcd-bench"], check=True)  # noqa: S607
        begun = len(log.read_text().splitlines())
        said = ", ".join(f"{count} {event}" for event, count in sorted(events.items()))
        found = contents(store)
        return f"killed or joined: {said}; {begun} chunks begun, {len(found)} records", found == calm


def contents(store: Store) -> dict[str, object]:
    """What a run left, without times: what must not differ."""
    return {r.key: (r.status, r.images, store.features(r.key, "e")["image"].tolist()) for r in store.records()}


def calm_run(cells: int) -> dict[str, object]:
    """The undisturbed run, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "run")
        launch = make_launch(store, Path(folder) / "log", cells, groups=3, chunks=2)
        work, todo = make_work(launch, store, lambda _: None, lambda: None)
        for _ in Loop(work, store, Leases(store.files, "calm"), launch.name).run(todo):
            pass
        return contents(store)


def main() -> int:
    """All repetitions; 1 where one ended otherwise."""
    if sys.argv[1:2] == ["--drive"]:
        drive(*sys.argv[2:5])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", nargs="+", choices=("processes", "ray", "slurm"), default=["processes", "ray"])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--cells", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    choice = parser.parse_args()
    calm = calm_run(choice.cells)
    bad = 0
    for kind in choice.place:
        for i in range(choice.repeats):
            what, equal = repeat(kind, choice.cells, random.Random(choice.seed + i), calm)
            bad += not equal
            print(f"{kind} {i + 1}/{choice.repeats}: {what}; {'equal' if equal else 'DIFFERS'}", flush=True)
    print(f"{bad} of {len(choice.place) * choice.repeats} runs differ from the undisturbed one")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
