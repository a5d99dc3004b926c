"""A sampler that is not a Python class, by the levels of the gate: exact solutions, and latents call by call.

The denoiser is exact: independent Gaussians of 16 means and widths, for which the probability flow has a closed form.
With x = a x₀ + s ε, x₀ ~ N(m, v): E[ε | x] = s (x − a m) / (a² v + s²), and along the flow (x − a m) / √(a² v + s²) is
constant (Song et al. 2021, arXiv 2011.13456, section 4.3, for Gaussian data).

A stochastic sampler is given its noise. Its states are then linear in the initial noise and in each draw, so that one
run with a row for each of them says mean and width of its law without chance: the widths are the root of the sum of
the squared responses. The error is the distance of that law from the data's (Wasserstein, of order 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.conformance.noise import Draws
from bench.gate.engine_process import Engine, EngineError, EngineRun
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
LEAST_ORDER = 0.5
NOT_LINEAR = 1e-3
"""Relative difference from a linear response that is not rounding of float32."""


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
    """A run of a sampler: states, the outputs that it got, timesteps, and its error against the exact solution.

    `law` says that the error is that of the law of a stochastic sampler; None as an error, that it cannot be measured.
    """

    trajectory: Trajectory
    timesteps: Sequence[float]
    error: float | None
    law: bool


@dataclass(frozen=True)
class _RandomDraws:
    shape: tuple[int, int]

    def draw(self, number: int) -> _Floats:
        return np.random.default_rng((1, number)).normal(size=self.shape)


@dataclass(frozen=True)
class _GivenRows:
    """The same number in all columns of a row: `rows` has a column for the initial noise and one for each draw."""

    rows: _Floats

    def draw(self, number: int) -> _Floats:
        return np.repeat(self.rows[:, number + 1 : number + 2], len(MEANS), axis=1)


_Sampler = Callable[[int, _Floats, Draws], EngineRun]


def judge_engine(choice: EngineChoice, limit: Movement) -> list[Outcome]:
    """Judge a process or a file of latents; what the process does wrong is an outcome. Raises BenchError for files."""
    if choice.latents is not None:
        return _judge_files(Path(str(choice.baseline)), Path(choice.latents), limit)
    exact = ExactDenoiser(choice.path, sd_schedule() if choice.path == "diffusion" else ())
    name = " ".join(choice.command)
    outcomes, ours, theirs = list[Outcome](), dict[int, _Sampled](), dict[int, _Sampled]()
    try:
        with Engine.started(choice.command, choice.timeout_s) as engine:
            for steps in sorted(set(choice.steps)):
                ours[steps] = _run(steps, exact, _of_engine(engine, exact, choice.eta))
                if choice.scheduler is not None:
                    theirs[steps] = _run(steps, exact, _of_scheduler(choice.scheduler, exact, choice.eta))
                    outcomes += _compare(name, steps, theirs[steps], ours[steps], limit)
    except EngineError as error:
        outcomes.append(Outcome("conformance", name, "protocol", "failed", note=f"the process {error}"))
    else:
        outcomes.append(_convergence(name, ours, theirs))
    return outcomes


def _run(steps: int, exact: ExactDenoiser, sample: _Sampler) -> _Sampled:
    shape = ROWS, len(MEANS)
    run = sample(steps, np.random.default_rng(0).normal(size=shape), _RandomDraws(shape))
    trajectory = {"states": np.stack(run.states, axis=1), "outputs": np.stack(run.outputs, axis=1)}
    with np.errstate(invalid="ignore", over="ignore"):
        if run.draws:
            error = _error_of_law(steps, exact, sample, run.draws)
        else:
            error = float(np.sqrt(np.mean((run.states[-1] - exact.end(run.states[0], run.timesteps[0])) ** 2)))
    error = math.inf if error is not None and not math.isfinite(error) else error
    return _Sampled(trajectory, run.timesteps, error, run.draws > 0)


def _error_of_law(steps: int, exact: ExactDenoiser, sample: _Sampler, draws: int) -> float | None:
    """Distance of a stochastic sampler's law from the data's; None where it is not linear in its noise.

    A row without noise, one for the initial noise and for each draw alone, and one for all of them at random.
    """
    rows = np.concatenate([np.zeros((1, draws + 1)), np.eye(draws + 1), _RandomDraws((1, draws + 1)).draw(draws)])
    a, s = exact.levels(len(exact.alphas_cumprod) - 1 if exact.path == "diffusion" else 1000)
    width = np.sqrt(a**2 * WIDTHS**2 + s**2)
    run = sample(steps, a * MEANS + width * rows[:, :1], _GivenRows(rows))
    if run.draws != draws:
        raise EngineError(f"drew noise {draws} times in one run of {steps} steps and {run.draws} times in another")
    mean, responses, last = run.states[-1][0], run.states[-1][1:-1] - run.states[-1][0], run.states[-1][-1]
    apart = np.abs(mean + rows[-1] @ responses - last).max()
    if math.isfinite(apart) and apart > NOT_LINEAR * (1 + np.abs(last).max()):
        return None
    return float(np.sqrt(np.mean((mean - MEANS) ** 2 + (np.sqrt((responses**2).sum(axis=0)) - WIDTHS) ** 2)))


def _of_engine(engine: Engine, exact: ExactDenoiser, eta: float | None) -> _Sampler:
    def sample(steps: int, latents: _Floats, noise: Draws) -> EngineRun:
        request: dict[str, Any] = {"steps": steps, "path": exact.path}
        request |= {"alphas_cumprod": exact.alphas_cumprod} if exact.path == "diffusion" else {}
        request |= {} if eta is None else {"eta": eta}
        return engine.sample(request, latents, exact.output, noise)

    return sample


def _of_scheduler(name: str, exact: ExactDenoiser, eta: float | None) -> _Sampler:
    """A scheduler of conf/scheduler in the loop of a pipeline, with the same noise."""

    def sample(steps: int, latents: _Floats, noise: Draws) -> EngineRun:
        import torch

        from bench.conformance.trace import GivenDraws, scaled_input
        from bench.conformance.verb import spec_of
        from bench.experiment.verbs import chosen_schedulers
        from bench.generate.schedulers import has_eta, make_scheduler, try_scheduler

        spec = spec_of(chosen_schedulers([name])[name])
        used = (eta or 0.0) if has_eta(make_scheduler(spec)) else eta
        scheduler: Any = try_scheduler(spec, steps, used)
        arguments = {} if used is None else {"eta": used}
        run = EngineRun()
        state = torch.from_numpy(latents).double() * float(getattr(scheduler, "init_noise_sigma", 1.0))
        with GivenDraws(noise) as drawn:
            for timestep in scheduler.timesteps:
                run.states.append(scaled_input(scheduler, state, timestep).numpy().astype(np.float64))
                run.timesteps.append(float(timestep))
                run.outputs.append(exact.output(run.states[-1], run.timesteps[-1]))
                output = torch.from_numpy(run.outputs[-1])
                state = scheduler.step(output, timestep, state, return_dict=False, **arguments)[0]
        run.states.append(state.numpy().astype(np.float64))
        run.draws = drawn.count
        return run

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
    if before.law != after.law:
        note = (
            "the process draws noise, the scheduler none"
            if after.law
            else "the scheduler draws noise, the process none"
        )
        yield Outcome("conformance", label, "noise", "regressed", note=f"{note}; engine.eta is sent as eta")
    if before.error is None or after.error is None:
        yield Outcome("conformance", label, "error", "undecided", note=_NONLINEAR)
        return
    change = after.error / before.error - 1 if before.error > 0 else math.inf
    verdict = "regressed" if not change <= WORSE else "improved" if change < -WORSE else "unchanged"
    what = "distance of the law from the data's" if after.law else "root mean square error against the exact solution"
    numbers = before.error, min(after.error, 1e300)
    yield Outcome(
        "conformance", label, "error", verdict, *numbers, None, WORSE * before.error, f"{what}, {change:+.1%}"
    )


_NONLINEAR = "the sampler is not linear in its noise (does it clip?), so that its law is not known from single draws"


def _convergence(name: str, ours: Mapping[int, _Sampled], theirs: Mapping[int, _Sampled]) -> Outcome:
    """Whether errors fall with the number of steps, at half an order at least, or are small.

    Those of consistency samplers (LCM, TCD with an eta) do not, for the exact denoiser is not a consistency function:
    the errors of the scheduler that is compared with say so.
    """
    outcome = partial(Outcome, "conformance", name, "convergence")
    steps = sorted(ours)
    errors = [one.error for one in (ours[count] for count in steps) if one.error is not None]
    if len(errors) < len(steps):
        return outcome("undecided", note=_NONLINEAR)
    said = ", ".join(f"{error:.3g} at {count}" for count, error in zip(steps, errors, strict=True))
    if errors[-1] <= SMALL_ERROR:
        return outcome("unchanged", note=f"errors {said} steps")
    if len(steps) < 2:
        return outcome("undecided", note=f"error {said} steps; give more steps")
    ends = [_order(steps, errors)]
    if theirs and all(one.error is not None for one in theirs.values()):
        ends.append(_order(steps, [float(theirs[count].error or 0.0) for count in steps]))
    if ends[0] >= LEAST_ORDER:
        return outcome("unchanged", note=f"errors {said} steps, order {ends[0]:.2f}")
    if len(ends) > 1 and ends[1] < LEAST_ORDER:
        return outcome("measured", note=f"errors {said} steps: they do not fall to 0, as the scheduler's do not")
    return outcome("regressed", note=f"errors {said} steps: they do not fall to 0 as the exact solution demands")


def _order(steps: Sequence[int], errors: Sequence[float]) -> float:
    if not math.isfinite(errors[-1]) or errors[-1] <= 0:
        return -math.inf if errors[-1] > 0 else math.inf
    return math.log(errors[0] / errors[-1]) / math.log(steps[-1] / steps[0])


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
