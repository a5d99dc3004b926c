"""What error bars cost: value, standard error and paired difference beside other tools' bare value, in one run.

    .venv/bin/python scripts/benchmarks/frechet.py                          # d = 2048, n = 10,000: minutes
    .venv/bin/python scripts/benchmarks/frechet.py --dimension 256 --images 1000 --repeats 3

Features are given and the same for all. Ours: two methods' estimates with standard errors and their paired
difference, once with what is kept beside a reference, once with nothing kept. Theirs: one value of one method, as
torchmetrics computes it (general eigenvalues), and as the common scipy form does (`sqrtm` of the product). The sides
take turns. Then what any exact way to two values takes at least, their covariances and eigenvalues, and the memory of
moments at n and at four times as many images. Writes frechet.json; exits 1 where ours, with a kept reference, takes
more than a fifth of the faster of the others.
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
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance

from bench.score.estimate import paired_difference
from bench.score.frechet import Reference, frechet_estimate
from bench.score.moments import features_to_moments

Floats = NDArray[np.float32]
SHARE = 1 / 5


def draw(seed: int, n: int, d: int, scale: float = 1.0) -> Floats:
    """Correlated features with a decaying spectrum, float32."""
    spectrum = np.exp(-3 * np.linspace(0, 1, d)).astype(np.float32)
    rows = np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)
    return scale * np.abs(rows) * spectrum


def ours(first: Floats, second: Floats, reference: Reference) -> float:
    a, b = (frechet_estimate(features, reference) for features in (first, second))
    difference = paired_difference(a, b)
    for estimate in (a, b, difference):
        estimate.interval()
    return a.value


def torchmetrics_value(first: Floats, real: Floats, device: str = "cpu") -> float:
    """As torchmetrics does, in double precision."""
    extractor = torch.nn.Identity()  # features are given
    extractor.num_features = first.shape[1]
    metric = FrechetInceptionDistance(feature=extractor).set_dtype(torch.float64).to(device)
    metric.update(torch.from_numpy(real).to(device).double(), real=True)
    metric.update(torch.from_numpy(first).to(device).double(), real=False)
    return float(metric.compute())


def scipy_value(first: Floats, real: Floats) -> float:
    """The form of Heusel et al.'s own code: a general matrix square root."""
    shift = first.mean(axis=0, dtype=np.float64) - real.mean(axis=0, dtype=np.float64)
    a, b = (np.cov(rows.astype(np.float64), rowvar=False) for rows in (first, real))
    return float(shift @ shift + np.trace(a) + np.trace(b) - 2 * np.trace(sqrtm(a @ b)).real)


def least(first: Floats, second: Floats) -> float:
    """Covariances and eigenvalues alone of two sets, as fast as numpy has them; no difference to any reference."""
    for rows in (first, second):
        whole = rows.astype(np.float64)
        np.linalg.eigvalsh(whole.T @ whole)
    return float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "results" / "performance")
    options = parser.parse_args()
    n, d = options.images, options.dimension
    first, real = draw(1, n, d, 1.1), draw(2, n, d)
    second = first + 0.1 * draw(3, n, d)
    parts = Reference.of(real).to_parts()
    sides: dict[str, Callable[[], float]] = {
        "ours: two values, errors, difference": lambda: ours(first, second, Reference.of(real, parts)),
        "torchmetrics: one value": lambda: torchmetrics_value(first, real),
        "scipy: one value": lambda: scipy_value(first, real),
        "ours, the reference new": lambda: ours(first, second, Reference.of(real)),
        "two covariances, their eigenvalues": lambda: least(first, second),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    values = {}
    for _ in range(options.repeats):
        for name, work in sides.items():
            begun = time.perf_counter()
            values[name] = work()
            times[name].append(time.perf_counter() - begun)
    middle = {name: median(seconds) for name, seconds in times.items()}
    for name, seconds in times.items():
        print(f"{name:<40} {middle[name]:9.3f} s  ({', '.join(f'{s:.3f}' for s in seconds)})  value {values[name]:.9g}")
    own, *others = list(middle.values())[:3]
    print(f"ours / faster of the others: {own / min(others):.3f} (allowed: {SHARE:g})")
    once, fourfold = (
        peak_bytes(lambda rows=rows: features_to_moments(rows))  # type: ignore[misc]
        for rows in (first, np.concatenate([first] * 4))
    )
    theirs = [min(pair) for pair in zip(*list(times.values())[1:3], strict=True)]
    ratios = {"ours / one bare value": [a / b for a, b in zip(next(iter(times.values())), theirs, strict=True)]}
    found = {"seconds": times, "moments_peak_bytes": {str(n): once, str(4 * n): fourfold}}
    save_benchmark(options.out / "frechet.json", ratios, found)
    print(f"moments' peak memory: {once / 2**20:.1f} MiB of {n} images, {fourfold / 2**20:.1f} MiB of {4 * n}")
    return 0 if own <= SHARE * min(others) and fourfold < 1.05 * once else 1


if __name__ == "__main__":
    sys.exit(main())
