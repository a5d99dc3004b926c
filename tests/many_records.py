"""Writes a run of many cells with random features: python many_records.py DIRECTORY COUNT."""

import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from factories import make_record
from sleeping import CALLS, make_cell

from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.records.cell import PromptSet
from bench.records.record import Images, Latency, Memory
from bench.records.run import Run
from bench.store.store import Store

IMAGES, WIDTH = 64, 16


def write(directory: Path, count: int) -> None:
    """A grid of `count` cells: models × 10 methods × 10 step counts × 10 etas."""
    store, rng = Store(directory), np.random.default_rng(0)
    prompts = tuple(f"prompt {i}" for i in range(IMAGES))
    keys = []
    for i in range(count):
        cell = replace(
            make_cell(0, group=i // 1000),
            method=f"m{i % 10}",
            steps=2 + 2 * (i // 10 % 10),
            eta=i // 100 % 10 / 10,
            prompts=PromptSet("test", IMAGES, "h"),
            batch_size=64,
        )
        cell = replace(cell, scheduler=replace(cell.scheduler, settings={"method": cell.method}))
        calls = replace(CALLS, scheduler_steps=cell.steps, denoiser_calls=cell.steps, denoiser_evaluations=cell.steps)
        latency = Latency(1, 1, "perf_counter", (0.1, 0.11), (0.0,), (0.1,), (0.0,))
        memory = Memory(1, 10**8, None, None, None)
        images = Images(IMAGES, 8, 8, "s")
        store.cell(cell.key).save_features("e", {"image": rng.normal(size=(IMAGES, WIDTH)).astype(np.float32),
                                            "clip_score": rng.normal(30, 1, IMAGES)})  # fmt: skip
        known = {"calls": calls, "images": images, "latency": latency, "memory": memory}
        store.commit(make_record(cell, environment={"device": "cpu"}, **known))
        keys.append(cell.key)
    store.save_reference("r", rng.normal(size=(2048, WIDTH)).astype(np.float32))
    labels = {f"m{i}": f"method {i}" for i in range(10)}
    settings = asdict(check_experiment(compose_settings(["experiment=smoke", "claim=[]"])))
    settings = {**settings, "reference": {**settings.get("reference", {}), "count": 2048}}
    metrics = "fid@mini", "clip_score@mini"
    run = Run("many", settings, tuple(keys), (), prompts, labels, metrics, (), {"mini": "e"}, "r", {"mini": "r"})
    store.save_run(run)


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))
