"""What each step of scripts/gpu-session does. At `tiny` sizes all of it runs on a CPU, or is planned where it is long.

python -m gpu_session.steps NAME DEVICE RESULTS FILE
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from bench.__main__ import main as tcd_bench
from bench.execute.job import prepare
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.generate.loaded_pipeline import CurrentPipeline
from bench.measure.environment import machine_fingerprint
from bench.records.cell import Cell
from bench.store.store import Store
from gpu_session import costs as tables
from gpu_session.plan import STEPS

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Work:
    """The work on a step: where it runs, and what it has found so far, saved whenever it says so."""

    device: str
    results: Path
    file: Path
    tiny: bool = False
    found: dict[str, Any] = field(default_factory=dict)

    def save(self) -> None:
        """Write what was found so far; a step that is ended keeps it."""
        fresh = self.file.with_suffix(".fresh")
        fresh.write_text(json.dumps(self.found, ensure_ascii=False), encoding="utf-8")
        fresh.replace(self.file)

    def run(self, *overrides: str) -> int:
        """Run tcd-bench run with overrides; only plan it where sizes are tiny. Returns the number of cells."""
        job = prepare(check_experiment(compose_settings([*overrides, f"device={self.device}"])))
        if not self.tiny and tcd_bench(["run", *overrides, f"device={self.device}"]) not in (0, 1):
            raise SystemExit("the run was refused")
        return len(job.plan.cells)


def run_step(name: str, device: str, results: Path, file: Path, tiny: bool = False) -> None:
    """Do a step; continues with what `file` holds of an earlier session."""
    work = Work(device, results, file, tiny)
    if file.is_file():
        work.found = json.loads(file.read_text(encoding="utf-8"))
    machine = machine_fingerprint(device, torch.get_num_threads())
    work.found |= {"machine": machine, "device": machine["gpus"][0]["name"] if machine["gpus"] else device}
    work.save()
    work.found["summary"] = globals()[name](work)
    work.save()


def tests(work: Work) -> str:
    """Run the tests that need a GPU."""
    files = [str(path) for path in sorted((ROOT / "tests").glob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    work.found["files"] = [Path(file).name for file in files]
    if work.tiny:
        return f"{len(files)} files with tests"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "-rs",
        "--no-header",
        "-p",
        "no:cacheprovider",
        *files,
    ]
    ran = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    lines = ran.stdout.splitlines()
    work.found["outcome"] = [line for line in lines if line.startswith(("FAILED", "ERROR", "SKIPPED", "E  "))]
    print(ran.stdout[-8000:], ran.stderr[-2000:])
    if ran.returncode not in (0, 1):
        raise SystemExit("pytest did not run")
    return lines[-1].strip("= ")


def _cells(work: Work, models: str, *more: str) -> tuple[list[Cell], tuple[str, ...]]:
    """Return the cells of an experiment on costs, and its prompts; those of the miniature where sizes are tiny."""
    return tables.cells_of(work.device, work.tiny, f"model=[{models}]", *more)


def _timed(ours: Any, theirs: Any, rounds: int, device: str) -> np.ndarray:
    from latency import time_interleaved  # of scripts/benchmarks

    first, second = time_interleaved(ours, theirs, rounds, device)
    return np.stack([first, second])


def _ratio(seconds: np.ndarray) -> dict[str, Any]:
    """Return the median of the rounds' own ratios, and its 95% interval over resampled rounds."""
    ratios = seconds[0] / seconds[1]
    rows = np.random.default_rng(0).integers(len(ratios), size=(2000, len(ratios)))
    low, high = np.quantile(np.median(ratios[rows], axis=1), [0.025, 0.975])
    middle = np.median(seconds, axis=1).tolist()
    return {
        "seconds": seconds.tolist(),
        "medians_s": middle,
        "ratio": float(np.median(ratios)),
        "interval": [low, high],
    }


def _models(work: Work) -> tuple[str, ...]:
    return ("mini",) if work.tiny else ("sd15", "sdxl")


def noise(work: Work) -> str:
    """Time TCD with noise of the host and of the device, in turn."""
    words = []
    for model in _models(work):
        cells, prompts = _cells(work, model, "method=[tcd]")
        loaded = CurrentPipeline(prompts, tables.no_inputs(cells[0]))
        for cell in cells:
            host, device = (loaded.sampler(replace(cell, noise=where)) for where in ("host", "device"))
            sides = (lambda host=host: host.call(range(1))), (lambda device=device: device.call(range(1)))
            work.found[cell.label] = found = _ratio(_timed(*sides, 2 if work.tiny else 12, work.device))
            work.save()
            words.append(f"{cell.label} {found['ratio']:.3f}")
    return "host / device " + ", ".join(words)


def by_hand(work: Work) -> str:
    """Time the harness and the pipeline by hand, in turn."""
    from latency import call_by_hand

    words = []
    for model in _models(work):
        cells, prompts = _cells(work, model, "method=[tcd]", "methods.tcd.steps=[2]")
        sampler = CurrentPipeline(prompts, tables.no_inputs(cells[0])).sampler(cells[0])
        sides = partial(sampler.call, range(1)), partial(call_by_hand, sampler)
        work.found[cells[0].label] = found = _ratio(_timed(*sides, 2 if work.tiny else 25, work.device))
        work.save()
        low, high = found["interval"]
        words.append(f"{cells[0].label} {found['ratio']:.4f} [{low:.4f}, {high:.4f}]")
    return ", ".join(words)


def costs(work: Work) -> str:
    """Measure costs, eager, one image per call."""
    return tables.measure(work, tables.EAGER)


def costs_batches(work: Work) -> str:
    """Measure costs of eight images per call, and in the other half precision."""
    return tables.measure(work, tables.BATCHES)


def costs_compiled(work: Work) -> str:
    """Measure costs of compiled models."""
    return tables.measure(work, tables.COMPILED)


def conformance(work: Work) -> str:
    """Run every scheduler on a linear model, on the device and on the CPU, and compare the results."""
    from gpu_session.schedulers import compare

    work.found["schedulers"] = compare(work.device, steps=(4,) if work.tiny else (4, 10, 50))
    apart = {
        dtype: max(found[dtype] for found in work.found["schedulers"].values() if dtype in found)
        for dtype in ("float64", "bfloat16")
    }
    broken = [name for name, found in work.found["schedulers"].items() if "error" in found]
    words = f"largest difference {apart['float64']:.1e} in float64, {apart['bfloat16']:.1e} in bfloat16"
    return words + (f"; failed: {', '.join(broken)}" if broken else "")


def frechet(work: Work) -> str:
    """Time a value with its error and torchmetrics' bare value on the device, in turn."""
    from frechet import draw, torchmetrics_value

    from bench.score.frechet import Reference, frechet_estimate

    n, d = (200, 16) if work.tiny else (10_000, 2048)
    first, real = draw(1, n, d, 1.5), draw(2, n, d)  # apart enough for an interval: no fallback is timed
    reference = Reference.of(real)

    def ours() -> float:
        estimate = frechet_estimate(first, reference)
        estimate.interval()
        return float(estimate.plug_in)

    theirs = lambda: torchmetrics_value(first, real, work.device)  # noqa: E731
    work.found["relative_difference"] = abs(ours() / theirs() - 1)
    work.found["frechet"] = found = _ratio(_timed(ours, theirs, 2 if work.tiny else 5, work.device))
    return f"{found['ratio']:.3f} ({found['medians_s'][0]:.3f} and {found['medians_s'][1]:.3f} s)"


def miniature(work: Work) -> str:
    """Run the default experiment and compare its scores with those of the CPU."""
    folder = work.results / "mini_cuda"
    begun = time.perf_counter()
    cells = work.run("keep=grid", f"results='{folder}'")
    work.found |= {"cells": cells, "run_s": time.perf_counter() - begun}
    if work.tiny:
        return f"{cells} cells planned"
    from whole_job import compare_fast

    work.found["scores_apart_in_standard_errors"] = apart = compare_fast(
        ROOT / "results" / "reference" / "mini", folder
    )
    farthest = max(apart, key=lambda name: apart[name])
    failed = sum(record.status != "ok" for record in Store(folder, writable=False).records())
    return (
        f"{cells} cells in {work.found['run_s']:.0f} s, {failed} failed; {farthest} {apart[farthest]:.2f} errors apart"
    )


def gate(work: Work) -> str:
    """Run the experiment of the gate and make it the baseline of this GPU."""
    run, baseline = ROOT / "results" / "gate_cuda_run", work.results / "gate_cuda"
    cells = work.run("experiment=gate", "rows=[]", f"results='{run}'")
    if work.tiny:
        return f"{cells} cells planned"
    given = [f"candidate='{run}'", f"baseline='{baseline}'"]
    code = tcd_bench(["gate", "accept", *given, "author=scripts/gpu-session", "reason=the first run on this GPU"])
    if code:
        raise SystemExit("it was not accepted")
    return f"{cells} cells accepted; the gate of the run against itself: exit code {tcd_bench(['gate', *given])}"


def whole_job(work: Work) -> str:
    """Run scripts/benchmarks/whole_job.py with SD 1.5's architecture."""
    script = ROOT / "scripts" / "benchmarks" / "whole_job.py"
    settings = ["--sd15", f"--device={work.device}", "--rounds=1", "--images=64", "--batch-size=32", "--breakdown"]
    if work.tiny:
        from breakdown import PARTS, WAITING, find
        from stand_in import CELLS

        for path in (*(path for paths in PARTS.values() for path in paths), *WAITING):
            getattr(*find(path))  # what its clocks are put around is there

        return f"{len(CELLS)} cells planned by {script.name}"
    subprocess.run([sys.executable, str(script), *settings, f"--out={work.file.parent}"], check=True, cwd=ROOT)
    for name in ("whole_job_sd15", "breakdown_sd15"):
        work.found[name] = json.loads((work.file.parent / f"{name}.json").read_text(encoding="utf-8"))
    (ratio,) = work.found["whole_job_sd15"]["ratios"]
    share, busy = work.found["breakdown_sd15"]["share_of_models"], work.found["breakdown_sd15"].get("busy_share")
    unequal = work.found["whole_job_sd15"]["images_that_differ"]
    words = "" if busy is None else f", device busy {busy:.1%} between the first and the last batch"
    return f"{median(ratio['samples']):.3f}, {share:.0%} inside the models{words}, {unequal} images differ"


def workers(work: Work) -> str:
    """Run the same cells with one worker and with two."""
    seconds = {}
    for count in (1, 2):
        given = ["experiment=gate", "rows=[]", "measure.latency=false", "measure.memory=false", "prompts.count=2048"]
        folder = work.file.parent / f"workers-{count}"
        begun = time.perf_counter()
        work.run(*given, "executor=local", f"executor.workers={count}", f"results='{folder}'")
        seconds[count] = time.perf_counter() - begun
    work.found["seconds"] = seconds
    return "planned" if work.tiny else f"two take {seconds[2] / seconds[1]:.2f} of the time of one ({seconds[1]:.0f} s)"


def precision(work: Work) -> str:
    """Run the miniature in three precisions."""
    cells = work.run("experiment=mini_precision", f"results='{ROOT / 'results' / 'mini_precision_cuda'}'")
    if work.tiny:
        return f"{cells} cells planned"
    records = Store(ROOT / "results" / "mini_precision_cuda", writable=False).records()
    work.found["latencies"] = {
        record.cell.label: [median(record.latency.call_s), record.latency.batch_size]
        for record in records
        if record.latency is not None
    }
    return f"{cells} cells, {sum(record.status != 'ok' for record in records)} failed"


def plan_all() -> Iterator[str]:
    """Compose the settings of all cost tables on a CPU; yields a line for each."""
    for table in (*tables.EAGER, *tables.BATCHES, *tables.COMPILED):
        cells, _ = tables.cells_of("cpu", False, *table.overrides)
        yield f"{table.name}: {len(cells)} cells"


def main(arguments: Sequence[str]) -> None:
    """Do the step of the command line."""
    name, device, results, file = arguments
    if name not in {step.name for step in STEPS}:
        raise SystemExit(f"{name} is not a step")
    run_step(name, device, Path(results), Path(file))


if __name__ == "__main__":
    main(sys.argv[1:])
