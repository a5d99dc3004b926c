"""Costs of full-size pipelines with random weights: latency whole and in parts, memory, clocks, power, energy."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from bench.execute.job import prepare
from bench.execute.measuring import timed_parts
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.generate.loaded_pipeline import CurrentPipeline
from bench.generate.task_inputs import Inputs
from bench.measure.latency import measure_latency
from bench.measure.memory import measure_memory
from bench.measure.reference_workload import ReferenceWorkload
from bench.measure.stopwatch import Stopwatch
from bench.records.cell import Cell
from gpu_session.gauges import watched

if TYPE_CHECKING:
    from gpu_session.steps import Work

CELL_S = 2.5
"""Seconds of timed calls of a cell, about."""
REPEATS = 2, 10
"""Timed calls at least and at most."""
THROTTLED = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
"""NVML's reasons for lower clocks that are not the user's or idleness: power, slowdown, heat, brake."""


@dataclass(frozen=True)
class Table:
    """Cells of one model in one precision, eager or compiled, at one batch size."""

    model: str
    dtype: str
    batch: int = 1
    compile: str = "none"
    methods: tuple[str, ...] = ()
    """Overrides that choose methods and steps."""

    @property
    def name(self) -> str:
        """A name for it among the others."""
        return f"{self.model}, {self.dtype}, {self.batch} a call" + (", compiled" if self.compile != "none" else "")

    @property
    def overrides(self) -> tuple[str, ...]:
        """The overrides that run it."""
        options = (f"models.{self.model}.memory_options.compile={self.compile}",) if self.compile != "none" else ()
        dtype = f"models.{self.model}.dtype={self.dtype}"
        return (f"model=[{self.model}]", dtype, f"prompts.count={self.batch}", *options, *self.methods)


_UNET = ("method=[tcd,dpmpp_2s]", "methods.tcd.steps=[2,4,8]", "methods.dpmpp_2s.steps=[4,8,20,50]")
_SHORT = ("method=[tcd,dpmpp_2s]", "methods.tcd.steps=[4]", "methods.dpmpp_2s.steps=[8]")
_SD3 = ("method=[flow_euler]", "methods.flow_euler.steps=[4,20]")
_FLUX = ("method=[flow_euler]", "methods.flow_euler.steps=[1,2,4]")
_SANA = ("method=[scm]", "methods.scm.steps=[1,2,4]")
EAGER = (
    Table("sd15", "float16", methods=_UNET),
    Table("sdxl", "float16", methods=_UNET),
    Table("flux1_schnell", "bfloat16", methods=_FLUX),
    Table("sd35_medium", "bfloat16", methods=_SD3),
    Table("sana_sprint", "bfloat16", methods=_SANA),
)
BATCHES = (
    Table("sd15", "float16", 8, methods=_SHORT),
    Table("sdxl", "float16", 8, methods=_SHORT),
    Table("flux1_schnell", "bfloat16", 8, methods=(*_FLUX[:1], "methods.flow_euler.steps=[4]")),
    Table("sd35_medium", "bfloat16", 8, methods=(*_SD3[:1], "methods.flow_euler.steps=[4]")),
    Table("sana_sprint", "bfloat16", 8, methods=(*_SANA[:1], "methods.scm.steps=[2]")),
    Table("sd15", "bfloat16", methods=_SHORT),
    Table("sdxl", "bfloat16", methods=_SHORT),
    Table("sd35_medium", "float16", methods=(*_SD3[:1], "methods.flow_euler.steps=[4]")),
)
COMPILED = (
    Table("sd15", "float16", compile="default", methods=_SHORT),
    Table("sd15", "float16", compile="reduce-overhead", methods=_SHORT),
    Table("sdxl", "float16", compile="default", methods=_SHORT),
    Table("flux1_schnell", "bfloat16", compile="default", methods=(*_FLUX[:1], "methods.flow_euler.steps=[4]")),
)
_TINY = ("model=[mini]", "weights=pretrained", "prompts.source=world", "methods.tcd.steps=[2]")


def cells_of(device: str, tiny: bool, *overrides: str) -> tuple[list[Cell], tuple[str, ...]]:
    """Return the cells of an experiment on costs, and their prompts; a few of the miniature where sizes are tiny."""
    if tiny:
        chosen = [one for one in overrides if one.startswith("method=")]
        both = [] if chosen == ["method=[tcd]"] else ["methods.dpmpp_2s.steps=[2]"]
        overrides = (*_TINY, *(chosen if not both else ["method=[tcd,dpmpp_2s]"]), *both)
    flow = any("flow" in one or "scm" in one for one in overrides)
    experiment = "experiment=cost_flow" if flow else "experiment=cost"
    job = prepare(check_experiment(compose_settings([experiment, *overrides, f"device={device}"])))
    return [*job.plan.cells], job.prompts.texts


def no_inputs(cell: Cell) -> Inputs:
    """Return the inputs of a cell without input images."""
    return Inputs(cell.task, "", 1, cell.base.height, cell.base.width)


def measure(work: Work, tables: tuple[Table, ...]) -> str:
    """Measure the cells of tables that are not measured yet, saving after each; returns a summary."""
    rows = work.found.setdefault("cells", {})
    if work.tiny and tables is not EAGER:
        return f"{len(tables)} tables planned"
    for table in tables[:1] if work.tiny else tables:
        cells, prompts = cells_of(work.device, work.tiny, *table.overrides)
        loaded = CurrentPipeline(prompts, no_inputs(cells[0]))
        for cell in cells:
            name = f"{table.name}: {cell.label}" + (f" ({table.compile})" if table.compile != "none" else "")
            if name in rows:
                continue
            try:
                rows[name] = _measure_cell(loaded, cell, len(prompts), work)
            except Exception as error:  # the others are measured all the same
                rows[name] = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
            print(name, rows[name].get("median_s", rows[name].get("error")), flush=True)
            work.save()
        del loaded
    good = [row for row in rows.values() if "median_s" in row]
    hot = sum(bool(row.get("throttled")) for row in good)
    failed = {name: row["error"] for name, row in rows.items() if "error" in row}
    words = "".join(f"; failed: {name} ({error})" for name, error in failed.items())
    return f"{len(good)} cells, {hot} of them with lowered clocks{words}"


def _measure_cell(loaded: CurrentPipeline, cell: Cell, images: int, work: Work) -> dict[str, Any]:
    sampler, device = loaded.sampler(cell), torch.device(cell.device)
    stopwatch, call = Stopwatch.of(device), lambda: sampler.call(range(images))
    before = []
    for _ in range(2):
        begun = time.perf_counter()
        call()
        before.append(time.perf_counter() - begun)
    repeats = 2 if work.tiny else int(min(max(CELL_S / before[-1], REPEATS[0]), REPEATS[1]))
    with watched(cell.device) as board:
        workload = ReferenceWorkload(device, stopwatch)
        latency = measure_latency(call, timed_parts(sampler.pipeline), stopwatch, images, repeats, 0, workload)
    memory = measure_memory(call, device, images, excluded_bytes=loaded.excluded_bytes)
    calls = repeats * (1 if latency.device_s is None else 2)
    return {
        "median_s": median(latency.call_s) / images,
        "images_a_call": images,
        "first_call_s": before[0],
        "call_s": latency.call_s,
        "device_s": latency.device_s,
        "parts_s": {name: median(getattr(latency, f"{name}_s")) for name in ("text_encoder", "denoiser", "vae")},
        "workload_s": latency.workload_s,
        "allocated_bytes": memory.allocated_bytes,
        "device_bytes": memory.device_bytes,
        "excluded_bytes": memory.excluded_bytes,
        "load_s": loaded.load_s,
        "joules_per_image": board["joules"] / (calls * images) if "joules" in board else None,
        "throttled": bool(board.get("throttle_reasons", 0) & THROTTLED),
        **{name: value for name, value in board.items() if name != "joules"},
    }
