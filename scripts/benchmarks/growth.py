"""How costs grow with images, feature width, cells, workers and extractors: measured, fitted and drawn.

    .venv/bin/python scripts/benchmarks/growth.py [--tiny] [--only images width plan report workers extractors]

Each question is measured at sizes that double or so, the best of three, and a power law is fitted to its upper half
(cost ∝ sizeᵏ); k is set against what it may be: 1 where growth should be linear, 3 for the factor of a feature's
covariance. Moments' memory must not grow with the number of images at all. Costs are seconds of processors, which a
busy machine changes less than seconds, but for workers, whose cells sleep in place of a GPU's time. With --tiny the two
largest sizes of each question are left out. Questions that are not asked keep what growth.json has, and each has its
date. Writes growth.json and growth.png; exits with 1 where something grows faster than it may.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from executors import time_workers  # noqa: E402
from many_records import write  # noqa: E402
from ratios import peak_bytes, save_benchmark  # noqa: E402

from bench.analysis.scoring import ScoredRun  # noqa: E402
from bench.execute.job import prepare  # noqa: E402
from bench.experiment.compose import compose_settings  # noqa: E402
from bench.experiment.config import check_experiment  # noqa: E402
from bench.score.frechet import Reference, frechet_estimate, kernel_fallback  # noqa: E402
from bench.score.moments import features_to_moments  # noqa: E402
from bench.store.store import Store  # noqa: E402

TINY = "--tiny" in sys.argv
LEEWAY = 0.15
"""How far a fitted exponent may lie above the one that is allowed."""


@dataclass(frozen=True)
class Growth:
    """Costs by size, and the exponent that they may grow with."""

    question: str
    size: str
    unit: str
    allowed: float
    sizes: tuple[float, ...]
    costs: tuple[float, ...]
    measured: str = field(default_factory=lambda: date.today().isoformat())

    @property
    def exponent(self) -> float:
        """The slope of log cost over log size in the upper half, where constant costs count for little."""
        half = len(self.sizes) // 2
        slope, _ = np.polyfit(np.log(self.sizes[half:]), np.log(self.costs[half:]), 1)
        return float(slope)

    @property
    def holds(self) -> bool:
        return self.exponent <= self.allowed + LEEWAY


def best(work: Callable[[], object], times: int = 3) -> float:
    """Seconds of processors, of this process and those that it starts, the least of a few."""
    return min(processor_seconds_of(work) for _ in range(times))


def processor_seconds_of(work: Callable[[], object]) -> float:
    def used() -> float:
        found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(one.ru_utime + one.ru_stime for one in found)

    begun = used()
    work()
    return used() - begun


def sizes_of(*sizes: int) -> tuple[int, ...]:
    """The sizes of a question; fewer with --tiny."""
    return sizes[:-2] if TINY else sizes


def features(n: int, d: int) -> NDArray[np.float32]:
    return np.random.default_rng(n).standard_normal((n, d), dtype=np.float32)


def images() -> Iterator[Growth]:
    sizes, d = sizes_of(2_000, 4_000, 8_000, 16_000, 32_000), 256
    reference = Reference.of(features(4 * d, d))
    drawn = {n: features(n, d) for n in sizes}
    costs = tuple(best(lambda n=n: frechet_estimate(drawn[n], reference).interval()) for n in sizes)  # type: ignore[misc]
    yield Growth(f"Fréchet distance with interval, d = {d}", "images", "s", 1, sizes, costs)
    peaks = tuple(peak_bytes(lambda n=n: features_to_moments(drawn[n])) for n in sizes)  # type: ignore[misc]
    yield Growth("moments: memory", "images", "bytes", 0, sizes, peaks)
    d = 512
    near = Reference.of(features(4 * d, d))
    _ = near.in_parts.mean
    drawn = {n: features(n, d) for n in sizes}
    costs = tuple(best(lambda n=n: kernel_fallback(drawn[n], near).interval()) for n in sizes)  # type: ignore[misc]
    yield Growth(f"its fallback with interval, d = {d}", "images", "s", 1, sizes, costs)


def width() -> Iterator[Growth]:
    sizes, n = sizes_of(128, 256, 512, 1024, 2048), 4096
    costs = []
    for d in sizes:
        ours, real = features(n, d), features(n + 1, d)
        costs.append(best(lambda: frechet_estimate(ours, Reference.of(real)).value))  # noqa: B023
    yield Growth(f"Fréchet distance and reference, n = {n}", "feature width", "s", 3, sizes, tuple(costs))


def plan() -> Iterator[Growth]:
    sizes = sizes_of(1_000, 2_000, 4_000, 16_000, 64_000)
    yield Growth("plan", "cells", "s", 1, sizes, tuple(best(lambda n=n: plan_cells(n), 2) for n in sizes))  # type: ignore[misc]


def plan_cells(count: int) -> None:
    settings = compose_settings(["experiment=mini", "method=[tcd]", "claim=[]", "scores=[fid]"])
    axes = {"max_steps": None, "steps": list(range(1, 1001)), "eta": [i / 100 for i in range(count // 1000)]}
    settings["methods"] = {"tcd": {**settings["methods"]["tcd"], **axes}}
    settings["methods"]["tcd"]["scheduler"]["original_inference_steps"] = 1000
    found = len(prepare(check_experiment(settings)).plan.cells)
    if found != count:
        raise SystemExit(f"{found} cells were planned, not {count}")


def report() -> Iterator[Growth]:
    sizes = sizes_of(500, 1_000, 2_000, 4_000, 8_000)
    reports, scores = [], []
    for count in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), count)
            command = [sys.executable, "-m", "bench", "report", f"results='{folder}'"]
            reports.append(processor_seconds_of(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)))  # noqa: B023
            store = Store(folder, writable=False)
            scores.append(best(lambda: ScoredRun.load(store).cells, 1 if TINY else 3))  # noqa: B023
    yield Growth("report", "cells", "s", 1, sizes, tuple(reports))
    yield Growth("reading and scoring a store", "cells", "s", 1, sizes, tuple(scores))


def workers() -> Iterator[Growth]:
    """Seconds of workers, all together, for the same cells of .2 s."""
    sizes = (1, 2, 4, 8)
    costs = tuple(count * time_workers("processes", count, 160, 0.2) for count in sizes)
    yield Growth("160 cells of 0.2 s", "workers", "seconds × workers", 0, sizes, costs)


def extractors() -> Iterator[Growth]:
    """Features of a batch of 64 images by so many extractors."""
    from bench.checkpoints.sources import weights_directory
    from bench.execute.feature_extraction import make_feature_sets, make_inputs
    from bench.experiment.extractors import MINI
    from bench.features.openclip import load_open_clip
    from bench.generate.prompts import load_prompts
    from bench.mini import world
    from bench.records.cell import Task
    from bench.records.reference import WORLD

    experiment = check_experiment(compose_settings(["experiment=smoke", "results=x"]))
    task = Task(experiment.task.kind, {"kind": experiment.task.kind})
    inputs, prompts = make_inputs(experiment, task, "cpu"), load_prompts(WORLD, 64)
    pictures = np.stack([world.render(world.scene(seed)) for seed in range(64)])
    costs = []
    for count in (sizes := (1, 2, 4, 8)):
        loaded = {f"e{i}": load_open_clip(f"e{i}", weights_directory(MINI), "cpu") for i in range(count)}
        sets = make_feature_sets(experiment, prompts, loaded, inputs, {name: name for name in loaded}, "cpu")
        sets.extract(pictures, 0, list(loaded))  # warm
        costs.append(best(lambda: sets.extract(pictures, 0, list(loaded))))  # noqa: B023
    yield Growth("features of 64 images", "extractors", "s", 1, sizes, tuple(costs))


QUESTIONS = {
    **{"images": images, "width": width, "plan": plan, "report": report, "workers": workers},
    "extractors": extractors,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="without the two largest sizes")
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=list(QUESTIONS))
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "performance")
    options = parser.parse_args()
    found = []
    for name in options.only:
        for growth in QUESTIONS[name]():
            found.append(growth)
            costs = ", ".join(f"{size:,.0f}: {cost:.3g}" for size, cost in zip(growth.sizes, growth.costs, strict=True))
            mark = "" if growth.holds else "  FASTER THAN IT MAY"
            print(f"{growth.question}, {growth.unit} by {growth.size}: {costs}", flush=True)
            print(f"    exponent {growth.exponent:.2f}, allowed {growth.allowed:g}{mark}", flush=True)
    found = [*earlier(options.out / "growth.json", {growth.question for growth in found}), *found]
    lines = [{**asdict(growth), "exponent": growth.exponent} for growth in found]
    save_benchmark(options.out / "growth.json", {}, {"growth": lines})
    draw(found, options.out / "growth.png")
    return 0 if all(growth.holds for growth in found) else 1


def earlier(path: Path, but: set[str]) -> Iterator[Growth]:
    """What a file has of other questions."""
    names = {one.name for one in fields(Growth)}
    for line in json.loads(path.read_text(encoding="utf-8"))["growth"] if path.is_file() else ():
        if line["question"] not in but:
            yield Growth(**{name: value for name, value in line.items() if name in names})


def draw(found: Sequence[Growth], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    columns = 3
    figure = Figure(figsize=(11, 3.2 * math.ceil(len(found) / columns)), layout="constrained")
    panels = list(figure.subplots(math.ceil(len(found) / columns), columns, squeeze=False).flat)
    for axes, growth in zip(panels, found, strict=False):
        axes.loglog(growth.sizes, growth.costs, "o", color="#1f77b4")
        last, exponent = (growth.sizes[-1], growth.costs[-1]), growth.exponent
        fit = [last[1] * (size / last[0]) ** exponent for size in growth.sizes]
        axes.loglog(growth.sizes, fit, "-", color="#999999", linewidth=1)
        axes.set_title(f"{growth.question}\nexponent {exponent:.2f}, allowed {growth.allowed:g}", fontsize=9)
        axes.set_xticks(growth.sizes, [f"{size:,.0f}" for size in growth.sizes], fontsize=8)
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(growth.size)
        axes.set_ylabel(growth.unit)
        if min(growth.costs) > 0.5 * max(growth.costs):
            axes.set_ylim(0.3 * min(growth.costs), 3 * max(growth.costs))
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=140)


if __name__ == "__main__":
    sys.exit(main())
