"""The whole job, start to report, against the script that a user would write: time, and whether the images are equal.

    .venv/bin/python scripts/benchmarks/whole_job.py [--rounds 3] [--images 512] [--out results/performance]
    .venv/bin/python scripts/benchmarks/whole_job.py --sd15 --device cuda --images 128 --batch-size 16

`plain` is plain_script.py beside this file. `ours` is the default experiment as it comes, which also measures latency
and memory, takes three more scores, and writes verdicts and a report. `fast` are the settings for whom latency does not
matter and images need not be kept. The sides take turns, each round in new processes and empty directories. Compared
are every pixel of plain and ours, the scores of both, and how far the fast scores lie from ours in standard errors.
Writes whole_job.json; exits with 1 where images differ.

With --sd15 both sides sample a checkpoint of that architecture at 512 pixels in float16, with random weights and LoRAs,
a few cells of it; ours measures no latency, as the other side has none, which leaves `fast` nothing to save. Writes
whole_job_sd15.json. With --breakdown ours runs under scripts/benchmarks/breakdown.py, whose clocks it then carries, and
its files are written as well.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from plain_script import cell_name
from ratios import save_benchmark
from stand_in import CELLS, save_stand_in, stand_in_overrides

from bench.pictures import read_images
from bench.records.record import Record
from bench.store.store import Store

ROOT = Path(__file__).parents[2]
FAST = ("measure.latency=false", "measure.memory=false", "keep=grid")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sd15", action="store_true", help="the architecture of Stable Diffusion 1.5")
    parser.add_argument("--size", type=int, default=512, help="pixels, with --sd15")
    parser.add_argument("--weights", type=Path, help="with --sd15: where they are kept; used again where they are")
    parser.add_argument("--breakdown", action="store_true", help="where the time of ours goes, of the last round")
    parser.add_argument("--fast", nargs="*", default=FAST, help="the overrides of the fast side")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "performance")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="tcd-bench-whole-job-"))
    run = [f"device={options.device}", f"prompts.count={options.images}", f"batch_size={options.batch_size}"]
    plain = [sys.executable, str(ROOT / "scripts" / "benchmarks" / "plain_script.py"), f"--device={options.device}"]
    plain += [f"--images={options.images}", f"--batch-size={options.batch_size}"]
    if options.sd15:
        weights = (options.weights or scratch / "weights").absolute()
        dtype = "float32" if options.device == "cpu" else "float16"
        save_stand_in(weights, options.device, dtype)
        run += stand_in_overrides(weights, options.size, dtype)
        plain += [f"--weights={weights}", "--prediction=epsilon", f"--dtype={dtype}", f"--size={options.size}"]
        plain += ["--cells", *(cell_name(*cell) for cell in CELLS)]
    bench = [sys.executable, "-m", "bench", "run"]
    under_clocks = [sys.executable, str(ROOT / "scripts" / "benchmarks" / "breakdown.py"), "--least=0"]
    under_clocks.append(f"--out={options.out / ('breakdown_sd15' if options.sd15 else 'breakdown')}")
    sides = {
        "ours": lambda folder: (
            [*under_clocks, f"--results={folder}", *run] if options.breakdown else [*bench, *run, f"results='{folder}'"]
        ),
        "plain": lambda folder: [*plain[:2], str(folder), *plain[2:]],
    }
    if not options.sd15:
        sides["fast"] = lambda folder: [*bench, *run, *options.fast, f"results='{folder}'"]
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(options.rounds):
        for name in list(sides) if turn % 2 == 0 else reversed(sides):
            shutil.rmtree(scratch / name, ignore_errors=True)
            seconds[name].append(timed(sides[name](scratch / name)))
            print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
    unequal = compare_images(Store(scratch / "ours", writable=False), scratch / "plain")
    found = {
        "versions": {name: version(name) for name in ("torch", "diffusers", "torchmetrics", "tcd-bench")},
        "seconds": seconds,
        "images_that_differ": unequal,
        "scores_apart": compare_scores(scratch / "ours", scratch / "plain" / "scores.csv"),
    }
    if "fast" in sides:
        found["fast"] = list(options.fast)
        found["fast_scores_apart_in_standard_errors"] = compare_fast(scratch / "ours", scratch / "fast")
    shutil.rmtree(scratch)
    ratios = {
        f"{name} / plain": [a / b for a, b in zip(seconds[name], seconds["plain"], strict=True)]
        for name in sides
        if name != "plain"
    }
    name = "whole_job_sd15.json" if options.sd15 else "whole_job.json"
    save_benchmark(options.out / name, ratios, found, options.device)
    print(json.dumps(found, indent=1))
    for name, rounds in ratios.items():
        print(f"{name}: {median(rounds):.3f} (by round {', '.join(f'{one:.3f}' for one in rounds)})")
    return 1 if unequal else 0


def timed(command: Sequence[str]) -> float:
    """Seconds until a command is done; one that fails is the end, in its own words."""
    begun = time.perf_counter()
    ran = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"{' '.join(command)}\n{ran.stderr[-2000:]}")
    return time.perf_counter() - begun


def compare_images(store: Store, plain: Path) -> int:
    """How many images differ in any pixel."""

    def in_cell(record: Record) -> int:
        folder = plain / cell_name(record.cell.method, record.cell.steps, record.cell.eta)
        count = record.cell.prompts.count
        ours = read_images(store.cell(record.key), range(count))
        theirs = np.stack([np.asarray(Image.open(folder / f"{row:05d}.png")) for row in range(count)])
        return count if ours is None else int((ours != theirs).any(axis=(1, 2, 3)).sum())

    with ThreadPoolExecutor() as pool:
        return sum(pool.map(in_cell, store.records()))


def compare_scores(ours: Path, plain: Path) -> Mapping[str, float]:
    """The largest relative difference of either score over the cells."""
    with plain.open(encoding="utf-8", newline="") as file:
        theirs = {row["cell"]: row for row in csv.DictReader(file)}
    apart: dict[str, float] = {}
    for row in scores_of(ours):
        name = row["score"].partition("_mini")[0]
        if name in ("fid", "clip_score"):
            eta = float(row["eta"]) if row["eta"] else None
            expected = float(theirs[cell_name(row["method"], int(row["steps"]), eta)][name])
            apart[name] = max(apart.get(name, 0.0), abs(float(row["value"]) / expected - 1))
    return apart


def compare_fast(ours: Path, fast: Path) -> Mapping[str, float]:
    """The largest distance of a score, in its standard errors, over the cells, and the mean."""
    usual = {(row["method"], row["steps"], row["eta"], row["score"]): row for row in scores_of(ours)}
    apart: dict[str, list[float]] = {}
    for row in scores_of(fast):
        if not row["standard_error"]:
            continue
        before = usual[row["method"], row["steps"], row["eta"], row["score"]]
        far = abs(float(row["value"]) - float(before["value"])) / float(before["standard_error"])
        apart.setdefault(row["score"], []).append(far)
    return {name: max(found) for name, found in apart.items()}


def scores_of(results: Path) -> list[dict[str, str]]:
    with (results / "scores.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(main())
