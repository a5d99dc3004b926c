"""What error bars cost: a value with its error, a paired difference and a fallback, beside the bare value, in one run.

    .venv/bin/python scripts/benchmarks/frechet.py                          # d = 2048, n = 10,000: minutes
    .venv/bin/python scripts/benchmarks/frechet.py --dimension 600 --images 3000 --repeats 3

Features are given and the same for all; what is kept beside a reference is kept. The bare value is that of plain numpy:
two covariances, a Cholesky factor, eigenvalues of a symmetric matrix. Error and difference are of images far enough
from the reference for an interval; the fallback is the kernel distance that is computed where they are not, on top of
the value. The sides take turns. With them torchmetrics' value (general eigenvalues), ours where nothing is kept, and
ours on one thread: seconds of processors are recorded beside seconds, and threads that wait by spinning show as more
of them than one thread takes. Then the memory of moments at n and at four times as many images. Writes
frechet.json; exits 1 where a value with its error takes more than 1.25 of the bare value, a paired difference more
than 2.3, or a fallback more than the value itself. With --cpu the ratios are of seconds of processors, which a busy
machine changes less.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from ratios import peak_bytes, save_benchmark
from threadpoolctl import threadpool_limits
from torchmetrics.image.fid import FrechetInceptionDistance

from bench.score.estimate import Estimate, paired_difference
from bench.score.frechet import Reference, frechet_estimate, kernel_fallback
from bench.score.moments import features_to_moments

Floats = NDArray[np.float32]
MOST = {
    "value with its error / bare value": 1.25,
    "paired difference / bare value": 2.3,
    "fallback / bare value": 1.0,
}


def draw(seed: int, n: int, d: int, scale: float = 1.0) -> Floats:
    """Correlated features with a decaying spectrum, float32."""
    spectrum = np.exp(-3 * np.linspace(0, 1, d)).astype(np.float32)
    rows = np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)
    return scale * np.abs(rows) * spectrum


def value_with_error(first: Floats, reference: Reference) -> float:
    """One method's value with its standard error and interval."""
    estimate = with_interval(first, reference)
    estimate.interval()
    return estimate.value


def with_interval(features: Floats, reference: Reference) -> Estimate:
    """The estimate; raises SystemExit where it has no interval, which is not what is timed."""
    estimate = frechet_estimate(features, reference)
    if estimate.caveat:
        raise SystemExit(f"there is no error to time: {estimate.caveat}")
    return estimate


def difference(first: Floats, second: Floats, reference: Reference) -> float:
    """Two values, their errors and intervals, and those of the paired difference."""
    a, b = (with_interval(features, reference) for features in (first, second))
    of_both = paired_difference(a, b)
    for estimate in (a, b, of_both):
        estimate.interval()
    return a.value


def fallback(near: Floats, reference: Reference) -> float:
    """The kernel distance in place of a distance without an interval."""
    estimate = kernel_fallback(near, reference)
    estimate.interval()
    return estimate.value


def on_one_thread(first: Floats, reference: Reference) -> float:
    """The value with its error, on one thread."""
    with threadpool_limits(1):
        return value_with_error(first, reference)


def bare_value(first: Floats, real: Floats) -> float:
    """As plain numpy has it: nothing is kept, and there is no error."""
    a, b = (np.cov(rows.astype(np.float64), rowvar=False) for rows in (first, real))
    factor = np.linalg.cholesky(b)
    roots = np.sqrt(np.clip(np.linalg.eigvalsh(factor.T @ a @ factor), 0, None))
    shift = first.mean(axis=0, dtype=np.float64) - real.mean(axis=0, dtype=np.float64)
    return float(shift @ shift + np.trace(a) + np.trace(b) - 2 * roots.sum())


def torchmetrics_value(first: Floats, real: Floats, device: str = "cpu") -> float:
    """As torchmetrics does, in double precision."""
    extractor = torch.nn.Identity()  # features are given
    extractor.num_features = first.shape[1]
    metric = FrechetInceptionDistance(feature=extractor).set_dtype(torch.float64).to(device)
    metric.update(torch.from_numpy(real).to(device).double(), real=True)
    metric.update(torch.from_numpy(first).to(device).double(), real=False)
    return float(metric.compute())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu", action="store_true", help="ratios of seconds of processors")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "results" / "performance")
    options = parser.parse_args()
    n, d = options.images, options.dimension
    first, near, real = draw(1, n, d, 1.5), draw(4, n, d, 1.1), draw(2, n, d)
    second = first + 0.1 * draw(3, n, d)
    parts = Reference.of(real).to_parts()
    kept = Reference.of(real, parts)
    _ = kept.kernel.keys, kept.is_triangular, kept.in_parts.mean  # what a run computes once
    sides: dict[str, Callable[[], float]] = {
        "value with its error": lambda: value_with_error(first, kept),
        "bare value": lambda: bare_value(first, real),
        "paired difference": lambda: difference(first, second, kept),
        "fallback": lambda: fallback(near, kept),
        "value with its error, on one thread": lambda: on_one_thread(first, kept),
        "torchmetrics' value": lambda: torchmetrics_value(first, real),
        "value with its error, the reference new": lambda: value_with_error(first, Reference.of(real)),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    of_processors: dict[str, list[float]] = {name: [] for name in sides}
    values = {}
    for _ in range(options.repeats):
        for name, work in sides.items():
            begun, used = time.perf_counter(), time.process_time()
            values[name] = work()
            times[name].append(time.perf_counter() - begun)
            of_processors[name].append(time.process_time() - used)
    for name, seconds in times.items():
        print(
            f"{name:<40} {median(seconds):9.3f} s, processors {median(of_processors[name]):9.3f} s  "
            f"({', '.join(f'{s:.3f}' for s in seconds)})  value {values[name]:.12g}"
        )
    chosen = of_processors if options.cpu else times
    ratios = {
        f"{name} / bare value": [a / b for a, b in zip(chosen[name], chosen["bare value"], strict=True)]
        for name in ("value with its error", "paired difference", "fallback")
    }
    for name, rounds in ratios.items():
        print(
            f"{name}: {median(rounds):.3f} (allowed: {MOST[name]:g}; by round {', '.join(f'{r:.3f}' for r in rounds)})"
        )
    once, fourfold = (
        peak_bytes(lambda rows=rows: features_to_moments(rows))  # type: ignore[misc]
        for rows in (first, np.concatenate([first] * 4))
    )
    found = {
        "seconds": times,
        "processor_seconds": of_processors,
        "ratios_of": "seconds of processors" if options.cpu else "seconds",
        "threads": torch.get_num_threads(),
        "processor_seconds_of_all_threads_over_one": median(of_processors["value with its error"])
        / median(of_processors["value with its error, on one thread"]),
        "values": values,
        "moments_peak_bytes": {str(n): once, str(4 * n): fourfold},
    }
    save_benchmark(options.out / "frechet.json", ratios, found)
    print(f"moments' peak memory: {once / 2**20:.1f} MiB of {n} images, {fourfold / 2**20:.1f} MiB of {4 * n}")
    return 0 if all(median(rounds) <= MOST[name] for name, rounds in ratios.items()) and fourfold < 1.05 * once else 1


if __name__ == "__main__":
    sys.exit(main())
