"""Whether a scheduler's noise is each image's own: tried on small latents, before anything is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from bench.generate.flow import timestep_arguments, timesteps_sampled
from bench.generate.pipeline_calls import planned_class_of
from bench.generate.schedulers import make_scheduler
from bench.records.cell import Cell
from bench.records.errors import BenchError

_SHAPE = (4, 8, 8)
_ROWS = (0, 1, 2)


def refuse_shared_noise(cell: Cell) -> None:
    """Raise BenchError where an image of a cell would depend on the other images of its batch, or on chance.

    Runs the scheduler's steps on three small latents, and on the last of them alone, each with its own generator as in
    sampling. A scheduler that draws from the global generator, or one noise for a whole batch, gives the last image
    another result. Steps that need a real model are not judged.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            together = _sampled(cell, _ROWS)
            torch.default_generator.manual_seed(1)
            alone = _sampled(cell, _ROWS[-1:])
            size = float(together.abs().max())
            own = torch.allclose(together, alone, rtol=0, atol=1e-4 * size, equal_nan=True)
    except Exception:  # a user's class may raise anything
        return
    if not own:
        raise BenchError(
            f"scheduler: {cell.scheduler.target} draws noise that is not each image's own, so an image would depend on "
            "its batch; draw it from the generators that `step` is given, or choose settings without noise"
        )


def _sampled(cell: Cell, rows: Sequence[int]) -> torch.Tensor:
    """Return the result for the last of some rows, of a network that predicts a tenth of its input."""
    scheduler: Any = make_scheduler(cell.scheduler)
    scheduler.set_timesteps(**timestep_arguments(scheduler, cell.base, cell.steps))
    generators = [torch.Generator().manual_seed(row) for row in rows]
    latents = torch.stack([torch.randn(_SHAPE, generator=generator) for generator in generators])
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    taken = inspect.signature(scheduler.step).parameters
    given = {name: value for name, value in (("generator", generators), ("eta", cell.eta)) if name in taken}
    for timestep in scheduler.timesteps[: timesteps_sampled(scheduler, planned_class_of(cell.base))]:
        scaled = scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents
        latents = scheduler.step(scaled / 10, timestep, latents, **given, return_dict=False)[0]
    return latents[-1]
