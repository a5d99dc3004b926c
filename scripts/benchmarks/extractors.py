"""What several extractors cost: a run with one against an earlier checkout, and a second one beyond its forward passes.

    .venv/bin/python scripts/benchmarks/extractors.py [--before CHECKOUT] [--rounds 5] [--out results/performance]

Sides run in turn, in alternating order, on one thread. What counts is their processor time, since another process that
keeps the machine busy lengthens the time on the wall of one side alone. Writes extractors.json.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).parents[2]
RUN = (
    *("method=[tcd]", "methods.tcd.steps=[2,4]", "methods.tcd.eta=[0.3]", "claim=[]", "prompts.count=256"),
    *("reference.count=256", "measure.latency=false", "measure.memory=false", "device=cpu"),
)
ALLOWED = {"a run, to the earlier checkout": 1.02, "a second extractor, to its forward passes": 1.05}


def run_seconds(checkout: Path) -> float:
    """Processor time of a run of a checkout in another process."""
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "bench", "run", *RUN, f"results={folder}/run"]
        subprocess.run(
            command, check=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(checkout)}, capture_output=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def in_turn(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side by round; every second round begins with the last side."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(rounds):
        for name in sides if i % 2 == 0 else reversed(list(sides)):
            found[name].append(sides[name]())
    return found


def second_extractor(rounds: int, images: int = 64) -> dict[str, list[float]]:
    """Processor time of the features of a batch by one extractor, by two, and of the second one's forward pass."""
    import numpy as np
    import torch

    from bench.checkpoints.sources import weights_directory
    from bench.execute.feature_extraction import make_feature_sets, make_inputs
    from bench.experiment.compose import compose_settings
    from bench.experiment.config import check_experiment
    from bench.experiment.extractors import MINI
    from bench.features.openclip import load_open_clip
    from bench.generate.prompts import load_prompts
    from bench.mini import world
    from bench.records.cell import Task
    from bench.records.reference import WORLD

    experiment = check_experiment(compose_settings(["experiment=smoke", "results=x"]))
    prompts = load_prompts(WORLD, images)
    task = Task(experiment.task.kind, {"kind": experiment.task.kind})
    extractors = {name: load_open_clip(name, weights_directory(MINI), "cpu") for name in ("mini", "second")}
    names = {name: name for name in extractors}
    sets = make_feature_sets(experiment, prompts, extractors, make_inputs(experiment, task, "cpu"), names, "cpu")
    pictures = np.stack([world.render(world.scene(seed)) for seed in range(images)])
    prepared = extractors["second"].preprocess(pictures)

    def forward() -> None:
        with torch.inference_mode():
            extractors["second"].encode(prepared)

    def seconds(work: Callable[[], object]) -> float:
        begun = time.process_time()
        work()
        return time.process_time() - begun

    sides = {
        "one": lambda: seconds(lambda: sets.extract(pictures, 0, ["mini"])),
        "two": lambda: seconds(lambda: sets.extract(pictures, 0, ["mini", "second"])),
        "forward": lambda: seconds(forward),
    }
    in_turn(sides, 2)  # warm
    return in_turn(sides, rounds)


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    from ratios import save_benchmark

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "performance")
    asked = parser.parse_args()
    found = second_extractor(20 * asked.rounds)
    more = [two - one for one, two in zip(found["one"], found["two"], strict=True)]
    ratios = {"a second extractor, to its forward passes": [m / f for m, f in zip(more, found["forward"], strict=True)]}
    if asked.before is not None:
        now, before = lambda: run_seconds(ROOT), lambda: run_seconds(asked.before)
        runs = in_turn({"now": now, "before": before}, asked.rounds)
        ratios["a run, to the earlier checkout"] = [a / b for a, b in zip(runs["now"], runs["before"], strict=True)]
        found |= runs
    for name, rounds in ratios.items():
        low, *_, high = sorted(rounds)
        print(f"{name}: median {median(rounds):.3f} of {len(rounds)}, {low:.3f} to {high:.3f}; at most {ALLOWED[name]}")
    save_benchmark(asked.out / "extractors.json", ratios, {"allowed": ALLOWED, "seconds": found})


if __name__ == "__main__":
    main()
