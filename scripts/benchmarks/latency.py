"""Cost of our own path: the latency of a cell's call against the same diffusers pipeline called by hand.

    .venv/bin/python scripts/benchmarks/latency.py [--rounds 20] [overrides …]

Both sides take turns in one process on one loaded pipeline of full size with random weights, the order drawn again each
round. By hand means: the prompt, a generator and the same settings given to the pipeline, images as tensors. The ratio
is the median of the rounds' own ratios, since a machine's pace wanders between rounds more than within one; its 95%
interval is over resampled rounds. Writes latency.json.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ratios import save_benchmark

from bench.execute.job import prepare
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.generate.pipelines import load_pipeline
from bench.generate.sampling import Sampler
from bench.measure.stopwatch import Stopwatch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "results" / "performance")
    arguments, overrides = parser.parse_known_args()
    job = prepare(check_experiment(compose_settings(["experiment=cost", *overrides])))
    print(f"{'cell':<44} {'harness s':>9} {'by hand s':>9} {'ratio':>6}  95% interval, {arguments.rounds} rounds")
    loaded: tuple[str, Any] | None = None
    ratios: dict[str, list[float]] = {}
    for cell in job.plan.cells:
        if loaded is None or loaded[0] != cell.pipeline_key:
            loaded = None
            loaded = cell.pipeline_key, load_pipeline(cell)
        sampler = Sampler(loaded[1], cell, job.prompts.texts)
        ours = lambda sampler=sampler: sampler.call(range(1))  # noqa: E731
        theirs = lambda sampler=sampler: call_by_hand(sampler)  # noqa: E731
        seconds = time_interleaved(ours, theirs, arguments.rounds, cell.device)
        report(cell.label, *seconds)
        ratios[f"{cell.label}, harness / by hand"] = (seconds[0] / seconds[1]).tolist()
    save_benchmark(arguments.out / "latency.json", ratios, {}, job.plan.cells[0].device)


def call_by_hand(sampler: Sampler) -> Any:
    """What a user would write."""
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        return sampler.pipeline(
            prompt=sampler.prompts[0], generator=generator, output_type="pt", **sampler.arguments()
        ).images


def time_interleaved(
    ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of either side by round, after one call of each that does not count."""
    order = np.random.default_rng(0).random(rounds + 1) < 0.5
    seconds = np.empty((2, rounds + 1))
    stopwatch = Stopwatch.of(torch.device(device))
    for round_, first in enumerate(order):
        for side in (0, 1) if first else (1, 0):
            stopwatch.synchronise()
            start = stopwatch.now_s()
            (ours, theirs)[side]()
            stopwatch.synchronise()
            seconds[side, round_] = stopwatch.now_s() - start
    return seconds[0, 1:], seconds[1, 1:]


def report(label: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(len(ours), size=(10_000, len(ours)))
    ratios = ours / theirs
    low, high = np.quantile(np.median(ratios[rows], axis=1), [0.025, 0.975])
    a, b, ratio = (np.median(values) for values in (ours, theirs, ratios))
    print(f"{label:<44} {a:>9.3f} {b:>9.3f} {ratio:>6.4f}  [{low:.4f}, {high:.4f}]", flush=True)


if __name__ == "__main__":
    main()
