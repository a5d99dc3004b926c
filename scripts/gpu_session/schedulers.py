"""Steps of schedulers on a device against those on the CPU, for a linear model and the same noise."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import yaml

from bench.generate.schedulers import make_scheduler
from bench.records.cell import SchedulerSpec

CONF = Path(__file__).resolve().parents[2] / "conf" / "scheduler"


def compare(device: str, steps: Iterable[int]) -> dict[str, dict[str, Any]]:
    """Return, by scheduler, the largest relative difference of a result by dtype, or the error of one that failed."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(CONF.glob("*.yaml")):
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        try:
            spec = SchedulerSpec(settings.pop("_target_"), settings)
            found[path.stem] = {
                name: max(_apart(spec, count, getattr(torch, name), device) for count in steps)
                for name in ("float64", "bfloat16")
            }
        except Exception as error:  # the others are compared all the same
            found[path.stem] = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    return found


def _apart(spec: SchedulerSpec, steps: int, dtype: torch.dtype, device: str) -> float:
    ours, theirs = (_result(spec, steps, dtype, where) for where in (device, "cpu"))
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _result(spec: SchedulerSpec, steps: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    """Return the latents after all steps of a model whose output is a tenth of its input, in float64 on the CPU."""
    scheduler: Any = make_scheduler(spec)
    is_scm = "intermediate_timesteps" in inspect.signature(scheduler.set_timesteps).parameters
    scheduler.set_timesteps(steps, device=device, **({"intermediate_timesteps": None} if is_scm else {}))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64).to(device, dtype)
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    taken = inspect.signature(scheduler.step).parameters
    given = {"generator": generator} if "generator" in taken else {}
    for timestep in scheduler.timesteps[:steps] if is_scm else scheduler.timesteps:  # SCM's last one is the end
        scaled = scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents
        latents = scheduler.step(scaled / 10, timestep, latents, **given, return_dict=False)[0]
    return latents.double().cpu()
