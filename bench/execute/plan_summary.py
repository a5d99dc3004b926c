"""A readable summary of what a plan will do and cost, before anything runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from bench.execute.job import Job
from bench.records.cell import Cell, plain_number
from bench.records.run import Claim, Side
from bench.store.store import Store

_SHOWN = 6
"""The number of listed pairs of cells per claim."""


def describe_outline(job: Job, store: Store | None) -> str:
    """Describe how many cells there are, what the claims compare and lack, and what was left out of the grid.

    It needs no library that computes.
    """
    cells = job.plan.cells
    lines = [
        f"{job.experiment.name}: {len(cells)} cells × {job.run.sample} on {cells[0].device}, "
        f"{len(_done(job, store))} done already"
    ]
    if job.run.claims:
        lines += ["", "claims:", *(line for claim in job.run.claims for line in _describe_claim(claim, cells))]
    if job.absent:
        lines += ["", "not fetched yet, so the cells' keys are provisional:", *(f"  {what}" for what in job.absent)]
    if job.plan.left_out:
        lines += ["", "left out:", *(f"  {entry.label}: {entry.reason}" for entry in job.plan.left_out)]
    return "\n".join(lines)


def describe_cells(job: Job, store: Store | None, evaluations: Mapping[str, int]) -> str:
    """Describe the cells in their order, with denoiser evaluations per image (by the cell's key) and estimated time."""
    device, done = job.plan.cells[0].device, _done(job, store)
    measured = _measured(store, device)
    noted = {name: model.cost_s.get(device.partition(":")[0]) for name, model in job.experiment.models.items()}
    costs = {**noted, **measured}
    lines = [f"{'':>3}  {'cell':<44} {'guidance':>8} {'steps':>5} {'evaluations':>11} {'estimate':>9}"]
    pipeline, total, unknown = "", 0.0, False
    for i, cell in enumerate(job.plan.cells, 1):
        if cell.pipeline_key != pipeline:
            pipeline = cell.pipeline_key
            names = " + ".join((cell.base.name, *(adapter.name for adapter in cell.adapters)))
            lines.append(f"     load {names}{' (fused)' if cell.fused else ''}")
        sample_s = costs.get(cell.base.name)
        if cell.key in done:
            shown = "done"
        elif sample_s is None:
            shown, unknown = "?", True
        else:
            estimate = sample_s * cell.prompts.count * evaluations[cell.key]
            shown, total = _duration(estimate), total + estimate
        lines.append(
            f"{i:>3}  {cell.label:<44} {cell.guidance_scale:>8g} {cell.steps:>5} {evaluations[cell.key]:>11} {shown:>9}"
        )
    samples = sum(evaluations[cell.key] * cell.prompts.count for cell in job.plan.cells)
    basis = "this run's own records" if measured else "the model's noted cost"
    known = f"about {_duration(total)} of sampling left, by {basis}"
    if unknown:
        known += ", and that of cells marked ? besides: no record of their models on this device yet"
    unclear = "cost unknown: no record of this model on this device yet"
    return "\n".join(
        [*lines, "", f"Denoiser evaluations in all: {samples:,}", unclear if unknown and not total else known]
    )


def lacking_cells(claim: Claim, cells: Sequence[Cell]) -> list[str]:
    """Describe what a claim compares and the planned cells lack; empty where nothing is missing."""
    return [text for found, text in _comparisons(claim, cells) if not found]


def _describe_claim(claim: Claim, cells: Sequence[Cell]) -> Iterator[str]:
    yield f"  {claim.name}: {claim.text} ({claim.expect.replace('_', ' ')} by {', '.join(claim.metrics)})"
    compared = _comparisons(claim, cells)
    found = [text for is_there, text in compared if is_there]
    yield from (f"    {text}" for text in found[:_SHOWN])
    if len(found) > _SHOWN:
        yield f"    … and {len(found) - _SHOWN} more pairs of cells"
    if claim.stated:
        yield f"    published: {claim.stated}"
    yield from (f"    LACKS {text}" for is_there, text in compared if not is_there)


def _comparisons(claim: Claim, cells: Sequence[Cell]) -> list[tuple[bool, str]]:
    """Describe each pair of cells that a claim compares, with whether the plan has both; else what it lacks."""
    compared = []
    between = claim.between_models
    for model in (between,) if between else claim.models or dict.fromkeys(cell.base.name for cell in cells):
        own = [cell for cell in cells if between or cell.base.name == model]
        for (mine, yours), subject, other in product(claim.steps(), claim.subject.members, claim.object.members):
            sides = (subject, mine), (other, yours)
            lacking = [text for side, steps in sides if (text := _lacking(own, side, steps))]
            first, second = (f"{side.label(steps)}{_scales(own, side, steps)}" for side, steps in sides)
            if claim.equal != "steps":
                second = f"the costliest {second} of no more {claim.equal}"
            text = f"{model}: {', '.join(dict.fromkeys(lacking))}" if lacking else f"{model}: {first} against {second}"
            compared.append((not lacking, text))
    return list(dict.fromkeys(compared))


def _scales(cells: Sequence[Cell], side: Side, steps: int | None) -> str:
    """Return the guidance scales of which the best is chosen: ` of 1, 3, 5`; empty where none is."""
    if not side.tuned:
        return ""
    scales = {cell.guidance_scale for cell in cells if side.fits(cell) and steps in (None, cell.steps)}
    return f" of {', '.join(map(plain_number, sorted(scales)))}"


def _lacking(cells: Sequence[Cell], side: Side, steps: int | None) -> str | None:
    """Describe why no cell of a model is the one that a side means; None where one is."""
    fitting = [cell for cell in cells if side.fits(cell) and steps in (None, cell.steps)]
    if not fitting:
        return f"{side.label(steps)} is not in the grid"
    counts = Counter((cell.steps, cell.guidance_scale if side.tuned else None) for cell in fitting)
    if max(counts.values()) > 1:
        which = "eta" if side.tuned else "eta or guidance scale"
        return f"{side.label(steps)} means {max(counts.values())} cells, say which {which}"
    return None


def _done(job: Job, store: Store | None) -> set[str]:
    if store is None:
        return set()
    return {record.key for record in store.good_records([cell.key for cell in job.plan.cells])}


def _measured(store: Store | None, device: str) -> Mapping[str, float]:
    """Return seconds per denoiser sample by base model, from this run's records."""
    seconds: dict[str, float] = defaultdict(float)
    samples: dict[str, int] = defaultdict(int)
    for record in store.good_records() if store else ():
        if record.calls and record.cell.device == device:
            seconds[record.cell.base.name] += record.sampling_s
            samples[record.cell.base.name] += record.calls.denoiser_samples
    return {name: seconds[name] / samples[name] for name in seconds if seconds[name] > 0}


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
