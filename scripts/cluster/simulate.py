"""The cost of a grid on a cluster that is not available: the real loop and leases of every worker, on a virtual clock.

    python scripts/cluster/simulate.py [--gpus 8 64 256 1024] [--images 30000] [--chunk 1024 128] [--out FILE.md]

Only time is simulated: seconds per image from the published SDXL curve (results/published/tcd_teaser.csv: hardware not
stated), or from `--per-call` and `--per-evaluation`; a cold load of a pipeline; a round trip to the store; nodes of 8
GPUs that die at random and come back; GPUs that are slow. Workers take turns (greenlets, of the extra `cluster`) in the
order of the clock, so that a seed gives the same table again.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import itertools
import json
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import linear_regression
from types import SimpleNamespace

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from greenlet import getcurrent, greenlet  # noqa: E402
from sleeping import make_cell  # noqa: E402

from bench.records.cell import Cell  # noqa: E402
from bench.records.record import Record  # noqa: E402
from bench.workers.leases import Leases  # noqa: E402
from bench.workers.loop import (  # noqa: E402
    Chunk,
    Ended,
    Loop,
    WorkerContext,
)

BASES, STEPS, ETAS = 5, (2, 4, 8, 16, 25, 50), (0.0, 0.2, 0.3, 0.5, 1.0)
METHODS = {  # denoiser evaluations per step, etas, and which pipeline of its base
    "tcd": (1, ETAS, "tcd"),
    "lcm": (1, (None,), "lcm"),
    "dpmpp_2s": (2, (None,), "plain"),
    "dpmpp_2m": (2, (None,), "plain"),
    "ddim": (2, ETAS, "plain"),
}
NODE = 8
"""GPUs that die together."""
BATCH = 16
"""Images that are kept at once: what a death costs at most."""


class DiedError(BaseException):
    """The node went down; nothing is caught or cleaned up."""


class Clock:
    """Virtual time. One task runs at a time: the one with the shortest sleep is next."""

    def __init__(self) -> None:
        self.now = 0.0
        self._waiting: list[tuple[float, int, greenlet]] = []
        self._order = itertools.count()
        self._hub = getcurrent()

    def spawn(self, task: Callable[[], object], at: float) -> None:
        """Run a task from a moment on."""
        heapq.heappush(self._waiting, (at, next(self._order), greenlet(task, self._hub)))

    def sleep(self, seconds: float) -> None:
        heapq.heappush(self._waiting, (self.now + seconds, next(self._order), getcurrent()))
        self._hub.switch()

    def run(self) -> None:
        while self._waiting:
            self.now, _, task = heapq.heappop(self._waiting)
            task.switch()


@dataclass
class SharedFiles:
    """The store of all workers, in memory; holders that live write into their leases as time goes by."""

    clock: Clock
    lease_s: float
    contents: dict[str, bytes] = field(default_factory=dict)
    folders: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    holders: dict[str, str] = field(default_factory=dict)
    living: set[str] = field(default_factory=set)
    operations: int = 0


@dataclass
class WorkersFiles:
    """One worker's way to the store: every call is a round trip, paid for before the next thing that others can see."""

    shared: SharedFiles
    node: Node
    trip_s: float

    def _trip(self) -> None:
        self.shared.operations += 1
        self.node.debt_s += self.trip_s

    def names(self, folder: str) -> list[str]:
        self._trip()
        return sorted(self.shared.folders[folder])

    def read(self, name: str) -> bytes:
        self._trip()
        if name not in self.shared.contents:
            raise FileNotFoundError(name)
        content = self.shared.contents[name]
        if self.shared.holders.get(name) in self.shared.living:
            beats = int(4 * self.shared.clock.now / self.shared.lease_s)
            return content[:-1] + b', "beats": %d}' % beats
        return content

    def create(self, name: str, content: bytes, durable: bool = True) -> bool:
        self._trip()
        self.node.pay()
        if name in self.shared.contents:
            return False
        self._put(name, content)
        return True

    def write(self, name: str, content: bytes, durable: bool = True) -> None:
        self._trip()
        self.node.pay()
        self._put(name, content)

    def remove(self, name: str) -> None:
        self._trip()
        self.shared.contents.pop(name, None)
        folder, _, short = name.rpartition("/")
        self.shared.folders[folder].discard(short)

    def _put(self, name: str, content: bytes) -> None:
        note = {**json.loads(content), "machine": "another"}
        self.shared.contents[name] = json.dumps(note).encode()
        self.shared.holders[name] = note.get("worker", "") if note.get("state") == "held" else ""
        folder, _, short = name.rpartition("/")
        self.shared.folders[folder].add(short)


@dataclass
class Node:
    """Where a worker runs: how slow it is, and when it goes down."""

    clock: Clock
    slowness: float
    dies_at: float
    debt_s: float = 0.0

    def spend(self, seconds: float) -> float:
        """Be busy; returns the seconds that were spent, fewer where it died, which is raised by `check`."""
        spent = min(seconds, max(self.dies_at - self.clock.now, 0.0))
        self.clock.sleep(spent)
        return spent

    def pay(self) -> None:
        """Wait for all round trips so far."""
        debt, self.debt_s = self.debt_s, 0.0
        self.spend(debt)
        self.check()

    def check(self) -> None:
        """Raises DiedError when its time has come."""
        if self.clock.now >= self.dies_at:
            raise DiedError


class VirtualContext(WorkerContext):
    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node

    def now_s(self) -> float:
        return self._node.clock.now

    def sleep(self, seconds: float) -> None:
        self._node.pay()
        self._node.spend(seconds)
        self._node.check()


@dataclass
class Grid:
    """What is common to all workers: cells, costs, and how far each chunk is."""

    cells: Sequence[Cell]
    seconds: dict[str, float]
    """Of an image, by cell."""
    images: int
    chunk: int
    load_s: float
    done: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))
    open: dict[str, dict[int, range]] = field(default_factory=dict)
    """What is left of each cell."""
    busy_s: float = 0.0
    loads: int = 0
    deaths: int = 0

    def __post_init__(self) -> None:
        starts = range(0, self.images, self.chunk)
        chunks = {start: range(start, min(start + self.chunk, self.images)) for start in starts}
        self.open = {cell.key: dict(chunks) for cell in self.cells}


@dataclass
class Work:
    """Samples by letting time pass, batch by batch."""

    grid: Grid
    files: WorkersFiles
    loaded: str = ""

    def is_complete(self, cell: Cell) -> bool:
        return True  # asked where there is a record

    def open_chunks(self, cell: Cell) -> list[range]:
        self.files._trip()
        return list(self.grid.open[cell.key].values())

    def rows_done(self, cell: Cell, rows: range) -> int:
        return self.grid.done[cell.key, rows.start]

    def sample(self, chunk: Chunk) -> Ended:
        self._sample(chunk.cell, chunk.rows)
        yield chunk, None

    def sample_rest(self) -> Ended:
        yield from ()

    def release_threads(self) -> None:
        """Uses none."""

    def _sample(self, cell: Cell, chunk: range) -> None:
        node, grid = self.files.node, self.grid
        node.pay()
        if self.loaded != cell.pipeline_key:
            grid.loads += 1
            node.spend(grid.load_s)
            node.check()
            self.loaded = cell.pipeline_key
        left = len(chunk) - grid.done[cell.key, chunk.start]
        each = grid.seconds[cell.key] * node.slowness
        spent = node.spend(left * each)
        grid.busy_s += spent
        whole = left if spent >= left * each else int(spent / each / BATCH) * BATCH
        grid.done[cell.key, chunk.start] += whole
        if whole >= left:
            grid.open[cell.key].pop(chunk.start, None)
        node.check()

    def finish(self, cell: Cell) -> Record:
        self.files.create(f"cells/{cell.key}/record.json", b"{}")
        return Record(cell.key, cell, "ok", {}, 0.0)

    def fail(self, cell: Cell, error: Exception) -> Record:
        raise error

    def lost_device(self, device: str) -> None:
        """No device is simulated."""


def make_grid(images: int, chunk: int, per_call: float, per_evaluation: float, load_s: float) -> Grid:
    """Five bases × five methods × six step counts, and five etas where a method has one."""
    cells, seconds = [], {}
    for base, (method, (evaluations, etas, pipeline)) in itertools.product(range(BASES), METHODS.items()):
        group = 3 * base + ("plain", "tcd", "lcm").index(pipeline)
        for steps, eta in itertools.product(STEPS, etas):
            cell = replace(make_cell(len(cells), group), method=method, steps=steps, eta=eta)
            cells.append(cell)
            seconds[cell.key] = per_call + per_evaluation * evaluations * steps
    return Grid(cells, seconds, images, chunk, load_s)


def simulate(gpus: int, grid: Grid, options: argparse.Namespace) -> dict[str, str]:
    """One run: a row of the table."""
    clock, dice = Clock(), random.Random(options.seed)
    shared = SharedFiles(clock, options.lease_s)
    nominal = sum(grid.seconds.values()) * grid.images
    slow = {gpu: options.slowness if dice.random() < options.slow_share else 1.0 for gpu in range(gpus)}
    deaths = {node: _deaths(random.Random(f"{options.seed}-{node}"), options) for node in range(-(-gpus // NODE))}

    def live(gpu: int, life: int) -> None:
        name = f"gpu{gpu:04d}-{life:03d}"
        node = Node(clock, slow[gpu], deaths[gpu // NODE][life])
        files = WorkersFiles(shared, node, options.store_ms / 1000)
        leases = Leases(files, name, options.lease_s, lambda: clock.now)  # type: ignore[arg-type]
        work = Work(grid, files)

        loop = Loop(work, SimpleNamespace(files=files), leases, "simulated", VirtualContext(node))  # type: ignore[arg-type]
        shared.living.add(name)
        try:
            for _ in loop.run(grid.cells, gpu):
                pass
        except DiedError:
            grid.deaths += 1
            clock.spawn(lambda: live(gpu, life + 1), clock.now + options.repair_s)
        finally:
            shared.living.discard(name)

    for gpu in range(gpus):
        clock.spawn(lambda gpu=gpu: live(gpu, 0), options.start_s * dice.random())  # type: ignore[misc]
    clock.run()
    if sum(name.endswith("record.json") for name in shared.contents) != len(grid.cells):
        raise SystemExit("cells were lost")
    return {
        "GPUs": str(gpus),
        "chunk": str(grid.chunk),
        "days": f"{clock.now / 86400:.2f}",
        "GPU hours": f"{gpus * clock.now / 3600:,.0f}",
        "of them sampling": f"{nominal / (gpus * clock.now):.1%}",
        "sampled twice": f"{max(grid.busy_s - nominal * _mean_slowness(slow), 0) / nominal:.2%}",
        "deaths": str(grid.deaths),
        "loads": str(grid.loads),
        "store calls per second": f"{shared.operations / clock.now:.1f}",
    }


def _mean_slowness(slow: dict[int, float]) -> float:
    """Of the work, which is shared out by speed."""
    return len(slow) / sum(1 / slowness for slowness in slow.values())


def _deaths(dice: random.Random, options: argparse.Namespace) -> list[float]:
    """When a node goes down, time after time."""
    gaps = (dice.expovariate(1 / (options.node_hours * 3600)) + options.repair_s for _ in range(1000))
    return list(itertools.accumulate(gaps))


def published_costs() -> tuple[float, float]:
    """Seconds of a call and of a denoiser evaluation: least squares over TCD's and LCM's published SDXL curve."""
    with (ROOT / "results/published/tcd_teaser.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "seconds_per_image"]
    points = [(float(row["steps"]), float(row["value"])) for row in rows if row["method"] in ("tcd", "lcm")]
    per_evaluation, per_call = linear_regression(*zip(*points, strict=True))
    return per_call, per_evaluation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 256, 1024])
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--chunk", type=int, nargs="+", default=[1024, 128])
    parser.add_argument("--per-call", type=float, help="seconds of text encoder and VAE")
    parser.add_argument("--per-evaluation", type=float, help="seconds of a denoiser evaluation")
    parser.add_argument("--load-s", type=float, default=60.0, help="cold load of a pipeline")
    parser.add_argument("--store-ms", type=float, default=20.0, help="a round trip to the store")
    parser.add_argument("--lease-s", type=float, default=30.0)
    parser.add_argument("--node-hours", type=float, default=200.0, help="mean time between failures of 8 GPUs")
    parser.add_argument("--repair-s", type=float, default=1800.0)
    parser.add_argument("--slow-share", type=float, default=0.05)
    parser.add_argument("--slowness", type=float, default=1.5)
    parser.add_argument("--start-s", type=float, default=120.0, help="over how long workers start")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    per_call, per_evaluation = published_costs()
    per_call, per_evaluation = options.per_call or per_call, options.per_evaluation or per_evaluation
    lines: list[str] = []
    for chunk, gpus in itertools.product(options.chunk, options.gpus):
        grid = make_grid(options.images, chunk, per_call, per_evaluation, options.load_s)
        row = simulate(gpus, grid, options)
        if not lines:
            total = sum(grid.seconds.values()) * grid.images
            lines = [
                f"{len(grid.cells)} cells × {grid.images:,} images, {total / 3600:,.0f} hours of sampling on one GPU; "
                f"{per_call:.3f} s a call and {per_evaluation:.3f} s a denoiser evaluation.",
                *("", "| " + " | ".join(row) + " |", "|" + "---|" * len(row)),
            ]
            print("\n".join(lines), flush=True)
        lines.append("| " + " | ".join(row.values()) + " |")
        print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
