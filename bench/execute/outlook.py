"""What a plan will do and cost, for a person to read before anything runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from bench.cell import Cell
from bench.execute.assemble import Job
from bench.experiment.plan import expected_evaluations
from bench.store import Store


def describe_plan(job: Job, store: Store | None) -> str:
    """The cells in their order with evaluations and estimated time, what is done already, and what was left out."""
    costs = cost_per_sample(store, job)
    done = {cell.key for cell in job.plan.cells if store and (r := store.record(cell.key)) and r.status == "ok"}
    lines = [
        f"{job.experiment.name}: {len(job.plan.cells)} cells × {len(job.prompts.texts)} images on "
        f"{job.plan.cells[0].device}, {len(done)} done already",
        "",
        f"{'':>3}  {'cell':<44} {'guidance':>8} {'steps':>5} {'UNet evaluations':>16} {'estimate':>9}",
    ]
    pipeline, total, unknown = "", 0.0, False
    for i, cell in enumerate(job.plan.cells, 1):
        if cell.pipeline_key != pipeline:
            pipeline = cell.pipeline_key
            lines.append(f"     load {_pipeline_name(cell)}")
        estimate = None if cell.base.name not in costs else estimate_s(cell, costs[cell.base.name])
        if cell.key in done:
            shown = "done"
        elif estimate is None:
            shown, unknown = "?", True
        else:
            shown, total = _duration(estimate), total + estimate
        lines.append(
            f"{i:>3}  {cell.label:<44} {cell.guidance_scale:>8g} {cell.steps:>5} {expected_evaluations(cell):>16} "
            f"{shown:>9}"
        )
    lines += ["", f"UNet samples in all: {job.plan.unet_samples():,}"]
    known = f"about {_duration(total)} of sampling left, by {_basis(store, job)}"
    lines.append("cost unknown: no record of this model on this device yet" if unknown and not total else known)
    if job.plan.left_out:
        lines += ["", "left out:", *(f"  {entry.label}: {entry.reason}" for entry in job.plan.left_out)]
    return "\n".join(lines)


def estimate_s(cell: Cell, sample_s: float) -> float:
    """Seconds of sampling that a cell is expected to take."""
    return sample_s * cell.prompts.count * expected_evaluations(cell)


def cost_per_sample(store: Store | None, job: Job) -> Mapping[str, float]:
    """Seconds per UNet sample by base model: measured in this run's records, else as the model's YAML notes it."""
    measured = _measured(store, job.plan.cells[0].device)
    noted = {
        name: model.cost_s[device]
        for name, model in job.experiment.models.items()
        if (device := job.plan.cells[0].device.partition(":")[0]) in model.cost_s
    }
    return {**noted, **measured}


def _measured(store: Store | None, device: str) -> Mapping[str, float]:
    seconds: dict[str, float] = defaultdict(float)
    samples: dict[str, int] = defaultdict(int)
    for record in store.records() if store else ():
        if record.calls and record.status == "ok" and record.cell.device == device:
            seconds[record.cell.base.name] += record.sampling_s
            samples[record.cell.base.name] += record.calls.unet_samples
    return {name: seconds[name] / samples[name] for name in seconds if seconds[name] > 0}


def _basis(store: Store | None, job: Job) -> str:
    return "this run's own records" if _measured(store, job.plan.cells[0].device) else "the model's noted cost"


def _pipeline_name(cell: Cell) -> str:
    names: Iterable[str] = (cell.base.name, *(adapter.name for adapter in cell.adapters))
    return " + ".join(names) + (" (fused)" if cell.fused else "")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
