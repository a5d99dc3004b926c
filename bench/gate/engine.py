"""A sampler that is not a Python class, by the levels of the gate: exact solutions, and latents call by call.

The denoiser is exact: independent Gaussians of 16 means and widths, for which the probability flow has a closed form.
With x = a x₀ + s ε, x₀ ~ N(m, v): E[ε | x] = s (x − a m) / (a² v + s²), and along the flow (x − a m) / √(a² v + s²) is
constant (Song et al. 2021, arXiv 2011.13456, section 4.3, for Gaussian data).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.gate.engine_process import Engine, EngineError
from bench.gate.latents import Trajectory, compare_trajectories
from bench.gate.outcome import Outcome
from bench.records.errors import BenchError
from bench.records.run import Movement

if TYPE_CHECKING:
    from bench.experiment.verbs import EngineChoice

_Floats = NDArray[np.float64]
MEANS, WIDTHS = np.linspace(-1.0, 1.0, 16), np.geomspace(0.15, 2.0, 16)
ROWS = 4
EQUAL, WORSE = 1e-4, 0.02
"""Relative differences of errors that are rounding of float32, and those that count."""
SMALL_ERROR = 0.01
"""Error at the largest number of steps below which the order is not asked for."""


@dataclass(frozen=True)
class ExactDenoiser:
    """The exact denoiser and flow of a path: `diffusion` by ᾱ at whole timesteps, `flow` by σ = timestep / 1000."""

    path: str
    alphas_cumprod: tuple[float, ...] = ()

    def levels(self, timestep: float) -> tuple[float, float]:
        """Return a and s; raises EngineError for a timestep that the path does not have."""
        if self.path == "flow":
            return 1 - timestep / 1000, timestep / 1000
        if timestep != int(timestep) or timestep >= len(self.alphas_cumprod):
            raise EngineError(f"asked for timestep {timestep:g}; a diffusion has whole ones from 0 to 999")
        alpha = self.alphas_cumprod[int(timestep)]
        return math.sqrt(alpha), math.sqrt(1 - alpha)

    def output(self, latents: _Floats, timestep: float) -> _Floats:
        """Return ε, or the velocity ε − x₀ of a flow."""
        a, s = self.levels(timestep)
        noise = s * (latents - a * MEANS) / (a**2 * WIDTHS**2 + s**2)
        data = MEANS + a * WIDTHS**2 * (latents - a * MEANS) / (a**2 * WIDTHS**2 + s**2)
        return noise - data if self.path == "flow" else noise

    def end(self, latents: _Floats, timestep: float) -> _Floats:
        """Return the exact solution at a = 1 of latents at a timestep."""
        a, s = self.levels(timestep)
        return MEANS + WIDTHS * (latents - a * MEANS) / np.sqrt(a**2 * WIDTHS**2 + s**2)


def sd_schedule() -> tuple[float, ...]:
    """Return ᾱ of Stable Diffusion: 1000 betas, scaled linear from .00085 to .012."""
    return tuple(np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).tolist())


@dataclass(frozen=True)
class _Sampled:
    """A run of a sampler: states, the outputs that it got, timesteps, and its error against the exact solution."""

    trajectory: Trajectory
    timesteps: Sequence[float]
    error: float


def judge_engine(choice: EngineChoice, limit: Movement) -> list[Outcome]:
    """Judge a process or a file of latents; what the process does wrong is an outcome. Raises BenchError for files."""
    if choice.latents is not None:
        return _judge_files(Path(str(choice.baseline)), Path(choice.latents), limit)
    exact = ExactDenoiser(choice.path, sd_schedule() if choice.path == "diffusion" else ())
    name = " ".join(choice.command)
    outcomes, errors = list[Outcome](), dict[int, float]()
    try:
        with Engine.started(choice.command, choice.timeout_s) as engine:
            for steps in sorted(set(choice.steps)):
                ours = _run(steps, exact, _of_engine(engine, exact))
                errors[steps] = ours.error
                if choice.scheduler is not None:
                    theirs = _run(steps, exact, _of_scheduler(choice.scheduler, exact))
                    outcomes += _compare(name, steps, theirs, ours, limit)
    except EngineError as error:
        outcomes.append(Outcome("conformance", name, "protocol", "failed", note=f"the process {error}"))
    else:
        outcomes.append(_convergence(name, errors))
    return outcomes


_Sampler = Callable[[int, _Floats], tuple[list[_Floats], list[_Floats], list[float]]]


def _run(steps: int, exact: ExactDenoiser, sample: _Sampler) -> _Sampled:
    noise = np.random.default_rng(0).normal(size=(ROWS, len(MEANS)))
    states, outputs, timesteps = sample(steps, noise)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.sqrt(np.mean((states[-1] - exact.end(states[0], timesteps[0])) ** 2))
    trajectory = {"states": np.stack(states, axis=1), "outputs": np.stack(outputs, axis=1)}
    return _Sampled(trajectory, timesteps, float(error) if math.isfinite(error) else math.inf)


def _of_engine(engine: Engine, exact: ExactDenoiser) -> _Sampler:
    def sample(steps: int, noise: _Floats) -> tuple[list[_Floats], list[_Floats], list[float]]:
        request: dict[str, Any] = {"steps": steps, "path": exact.path}
        request |= {"alphas_cumprod": exact.alphas_cumprod} if exact.path == "diffusion" else {}
        return engine.sample(request, noise, exact.output)

    return sample


def _of_scheduler(name: str, exact: ExactDenoiser) -> _Sampler:
    """A scheduler of conf/scheduler in the loop of a pipeline."""

    def sample(steps: int, noise: _Floats) -> tuple[list[_Floats], list[_Floats], list[float]]:
        import torch

        from bench.conformance.verb import spec_of
        from bench.experiment.verbs import chosen_schedulers
        from bench.generate.schedulers import try_scheduler

        spec = spec_of(chosen_schedulers([name])[name])
        scheduler: Any = try_scheduler(spec, steps, 0.0 if name in ("ddim", "tcd") else None)
        states, outputs, timesteps = list[_Floats](), list[_Floats](), list[float]()
        latents = torch.from_numpy(noise).double() * float(getattr(scheduler, "init_noise_sigma", 1.0))
        for timestep in scheduler.timesteps:
            given = (
                scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents
            )
            states.append(given.numpy().astype(np.float64))
            timesteps.append(float(timestep))
            outputs.append(exact.output(states[-1], timesteps[-1]))
            latents = scheduler.step(torch.from_numpy(outputs[-1]), timestep, latents, return_dict=False)[0]
        return [*states, latents.numpy().astype(np.float64)], outputs, timesteps

    return sample


def _compare(name: str, steps: int, before: _Sampled, after: _Sampled, limit: Movement) -> Iterator[Outcome]:
    """Errors against the exact solution, and latents, of the scheduler and the process."""
    label = f"{name}, {steps} steps"
    moved = compare_trajectories(label, before.trajectory, after.trajectory, limit)
    apart = [i for i, (t, s) in enumerate(zip(before.timesteps, after.timesteps, strict=False)) if t != s]
    if apart:
        times = f"{after.timesteps[apart[0]]:g} instead of {before.timesteps[apart[0]]:g}"
        moved = replace(moved, note=f"timesteps differ from call {apart[0] + 1} on, {times}; {moved.note}")
    yield moved
    change = after.error / before.error - 1 if before.error > 0 else math.inf
    verdict = "regressed" if not change <= WORSE else "improved" if change < -WORSE else "unchanged"
    note = f"root mean square error against the exact solution, {change:+.1%}"
    numbers = before.error, min(after.error, 1e300)
    yield Outcome("conformance", label, "error", verdict, *numbers, None, WORSE * before.error, note)


def _convergence(name: str, errors: Mapping[int, float]) -> Outcome:
    """Whether errors fall with the number of steps, at half an order at least, or are small."""
    steps = sorted(errors)
    said = ", ".join(f"{errors[count]:.3g} at {count}" for count in steps)
    last = errors[steps[-1]]
    if last <= SMALL_ERROR:
        return Outcome("conformance", name, "convergence", "unchanged", note=f"errors {said} steps")
    if len(steps) < 2:
        return Outcome("conformance", name, "convergence", "undecided", note=f"error {said} steps; give more steps")
    order = math.log(errors[steps[0]] / last) / math.log(steps[-1] / steps[0]) if math.isfinite(last) else -math.inf
    if order >= 0.5:
        return Outcome("conformance", name, "convergence", "unchanged", note=f"errors {said} steps, order {order:.2f}")
    note = f"errors {said} steps: they do not fall to 0 as the exact solution demands"
    return Outcome("conformance", name, "convergence", "regressed", note=note)


def _judge_files(baseline: Path, candidate: Path, limit: Movement) -> list[Outcome]:
    """Latents of another engine against those of a baseline, and images where both files have them."""
    before, after = read_latents(baseline), read_latents(candidate)
    dtype = str(before["states"].dtype)
    found = [compare_trajectories(candidate.name, before, after, limit, "float16" if dtype == "float16" else "float32")]
    images = [arrays.get("images") for arrays in (before, after)]
    if images[0] is not None and images[1] is not None and images[0].shape == images[1].shape:
        from bench.gate.similarity import measure_pixels

        found += measure_pixels(candidate.name, images[0].astype(np.uint8), images[1].astype(np.uint8))
    return found


def read_latents(path: Path) -> dict[str, NDArray[Any]]:
    """Return `states` (n, calls + 1, d), and `outputs`, `denoised`, `images` where the file has them.

    From `.npz` or `.safetensors`; further axes of states are joined. Raises BenchError for anything else.
    """
    try:
        arrays = _read_arrays(path)
    except Exception as error:  # whatever a damaged archive raises
        raise BenchError(f"{path} cannot be read ({type(error).__name__}: {error}); {_NEEDED}") from error
    states = arrays.get("states", np.zeros(0))
    if states.ndim < 3 or states.shape[1] < 2 or states.size == 0 or states.dtype.kind != "f":
        raise BenchError(f"{path}: states has the shape {states.shape} and dtype {states.dtype}; {_NEEDED}")
    for name in ("states", "outputs", "denoised"):
        if name in arrays and arrays[name].ndim >= 3:
            arrays[name] = arrays[name].reshape(*arrays[name].shape[:2], -1)
    outputs = arrays.get("outputs", states[:, 1:].reshape(len(states), states.shape[1] - 1, -1))
    if outputs.shape[:2] != (len(states), states.shape[1] - 1) or any(len(v) != len(states) for v in arrays.values()):
        raise BenchError(f"{path}: its arrays do not belong together, {outputs.shape} to {states.shape}; {_NEEDED}")
    return arrays


_NEEDED = "give an .npz or .safetensors with states (images, calls + 1, …) as float16 or float32"


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return dict(load_file(path))
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
