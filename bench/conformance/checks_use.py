"""Use of a scheduler: repeated, interleaved, copied, in batches, from the middle, and with explicit timesteps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch

from bench.conformance.checks_noising import noised, noising_of
from bench.conformance.checks_steps import check_steps, compare_steps, place, run_case
from bench.conformance.noise import Array
from bench.conformance.report import Finding
from bench.conformance.subject import Case, Refusal, Subject, step_arguments
from bench.conformance.targets import GAUSSIAN
from bench.conformance.trace import TracedRun, scaled_input, to_numpy

_STEPS = 6


def check_use(subject: Subject, setting: str, eta: float | None) -> Iterator[Finding]:
    """Check that repeated, interrupted, interleaved, copied and batched use equals that of a fresh object."""
    arguments, draw = step_arguments(subject, eta), "generator" in subject.step_parameters

    def made(steps: int = _STEPS) -> Case:
        return subject.prepare(steps)

    def run(case: Case, begin: int = 0) -> Iterator[Array]:
        generator = {"generator": torch.Generator().manual_seed(3)} if draw else {}
        return case.states({**arguments, **generator}, begin)

    def used(steps: int = _STEPS, calls: int | None = None, begin: int = 0) -> Case:
        """Return a case whose scheduler was used before: for a run of so many steps, or a part of it."""
        case = made(steps)
        list(islice(run(case, begin), calls))
        return subject.prepare(_STEPS, scheduler=case.scheduler)

    def beside_another() -> Array:
        other = run(subject.prepare(_STEPS + 2, scheduler=another))
        return [state for state, _ in zip(run(subject.prepare(_STEPS, scheduler=one)), other, strict=False)][-1]

    def after_noising() -> Array:
        case = made()
        data = torch.from_numpy(case.start(GAUSSIAN))
        noised(case.scheduler, data, data, case.scheduler.timesteps[2:3])
        return list(run(case))[-1]

    def copied() -> Array:
        case = made()
        twin = case.twin()
        list(run(case))
        return list(run(twin))[-1]

    ways: dict[str, Callable[[], Array]] = {
        "used again": lambda: list(run(used()))[-1],
        "used again after another step count": lambda: list(run(used(_STEPS + 1)))[-1],
        "used again after an interrupted run": lambda: list(run(used(calls=_STEPS // 2)))[-1],
        "run beside another object": beside_another,
        "used after noising": after_noising,
        "deep copy": copied,
    }
    if hasattr(subject.base, "set_begin_index"):
        ways["used again after a run from the middle"] = lambda: list(run(used(begin=2)))[-1]
    if noising_of(subject.base) is None:
        del ways["used after noising"]
    one, another = subject.make(), subject.make()  # slow to create for some classes
    wanted = list(run(subject.prepare(_STEPS, scheduler=copy.deepcopy(one))))[-1]
    gaps = {name: _gap(way, wanted) for name, way in ways.items()}
    if hasattr(subject.base, "set_begin_index"):
        from_the_middle = list(run(made(), begin=1))[-1]
        gaps["used again from the middle"] = _gap(lambda: list(run(used(), begin=1))[-1], from_the_middle)
    for name, gap in gaps.items():
        if not gap <= 0:
            words = "State is left over from earlier use or shared between objects."
            places = ((f"{_STEPS} steps", math.inf),)
            yield Finding(f"state: {name}", setting, "what a fresh object gives", f"{gap:.3g} apart", words, places)


def _gap(way: Callable[[], Array], wanted: Array) -> float:
    try:
        got = way()
    except Exception:  # an error also counts as a difference
        return math.inf
    return float(np.abs(got - wanted).max())


def check_calls(subject: Subject, setting: str, eta: float | None) -> Iterator[Finding]:
    """Check that images do not depend on their batch, tuple and object agree, and inputs are left unchanged."""
    arguments = step_arguments(subject, eta)
    quiet = {**arguments, **({"eta": 0.0} if subject.has_eta else {})}
    where = ((place(_STEPS, eta), math.inf),)
    stochastic = subject.family is None or subject.family.stochastic(subject.config, 0.0)
    if not stochastic:
        case = subject.prepare(_STEPS)
        start, model = case.start(GAUSSIAN), case.model(GAUSSIAN)
        calls, other = len(case.path.timesteps), subject.prepare(_STEPS).scheduler
        whole = TracedRun(arguments=quiet).sample(case.scheduler, model, start, calls).final
        single = TracedRun(arguments=quiet).sample(other, model, start[1:2], calls).final
        gap = float(np.abs(whole[1:2] - single).max())
        if not gap <= 1e-6 * max(1.0, float(np.abs(whole).max())):
            words = "An image depends on the other images of its batch."
            yield Finding("batch", setting, "each image as alone", f"{gap:.3g} apart", words, where)
    case = subject.prepare(_STEPS)
    state, timestep = torch.from_numpy(case.start(GAUSSIAN)), case.scheduler.timesteps[0]
    one, other = (copy.deepcopy(case.scheduler), {"return_dict": False}), (case.scheduler, {})
    kinds = [_first_step(subject, scheduler, state, timestep, {**arguments, **how}) for scheduler, how in (one, other)]
    said = getattr(kinds[1], "pred_original_sample", None)
    if said is not None and len(kinds[0]) > 1 and not torch.equal(kinds[0][1], said):
        words = "The second value of step(return_dict=False) is not the object's pred_original_sample."
        yield Finding("return value", f"{setting}, second value", "equal data", "other data", words, where)
    runs = [TracedRun(arguments=arguments, pairs=pairs) for pairs in (False, True)]
    results = [subject.prepare(_STEPS).run(GAUSSIAN, run).final for run in runs]
    if not np.array_equal(results[0], results[1]):
        words = "step(return_dict=False) and the object's prev_sample differ."
        yield Finding("return value", setting, "equal results", "other states", words, where)
    for dtype in (torch.float64, torch.float32):  # a class that works in float32 copies other dtypes
        case = subject.prepare(_STEPS)
        state, timestep = torch.from_numpy(case.start(GAUSSIAN)).to(dtype), case.scheduler.timesteps[0]
        seen = scaled_input(case.scheduler, state, timestep)
        output = torch.from_numpy(case.model(GAUSSIAN)(to_numpy(seen), 0, float(timestep))).to(dtype)
        kept = state.clone(), output.clone()
        case.scheduler.step(output, timestep, state, **arguments)
        if not (torch.equal(state, kept[0]) and torch.equal(output, kept[1])):
            words = "step writes into its input tensors."
            yield Finding("return value", setting, "inputs left alone", "changed inputs", words, where)


def _first_step(subject: Subject, scheduler: Any, state: Any, timestep: Any, arguments: dict[str, Any]) -> Any:
    draw = {"generator": torch.Generator().manual_seed(8)} if "generator" in subject.step_parameters else {}
    scaled_input(scheduler, state, timestep)
    return scheduler.step(0.5 * state, timestep, state, **arguments, **draw)


def check_device(subject: Subject, setting: str) -> Iterator[Finding]:
    """Check that the timesteps are on the requested device; the meta device, which has no memory, represents any."""
    scheduler = subject.fresh()
    try:
        scheduler.set_timesteps(**subject.schedule_arguments(_STEPS, subject.config), device=torch.device("meta"))
    except NotImplementedError:  # the class copies its sigmas back, which the meta device cannot do
        return
    if scheduler.timesteps.device.type != "meta":
        words = "set_timesteps(device=…) leaves the timesteps on another device: a pipeline fails or copies per step."
        yield Finding("device", setting, "timesteps on the device", str(scheduler.timesteps.device), words)


_SPACINGS = "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"


def check_offloading(subject: Subject, setting: str) -> Iterator[Finding]:
    """Check that a run works whose state is on another device than the schedule, as pipelines with offloading make it.

    Tensors of the meta device stand for those of a GPU: operations between both devices fail with them as well.
    """
    try:
        case = subject.prepare(_STEPS)
    except Refusal:
        return
    scheduler, state = case.scheduler, torch.empty(1, 3, 2, 2, device="meta")
    try:
        for timestep in case.timesteps:
            given = scaled_input(scheduler, state, timestep)
            state = scheduler.step(torch.empty_like(given), timestep, state, return_dict=False)[0]
    except RuntimeError as error:
        if "expected device" in str(error) or "same device" in str(error):
            words = "A step fails where the schedule is on the CPU and the state elsewhere, as with offloading."
            yield Finding("device", f"{setting}, schedule on the CPU", "a step", str(error), words)


def check_double(subject: Subject, setting: str) -> Iterator[Finding]:
    """Check that no spacing makes timesteps or sigmas of float64, which MPS devices do not have."""
    spacings = [{}, *({name: True} for name in _SPACINGS if name in subject.config)]
    for overrides in spacings:
        try:
            scheduler = subject.prepare(_STEPS, overrides).scheduler
        except Refusal:
            continue
        for name in ("timesteps", "sigmas"):
            if getattr(getattr(scheduler, name, None), "dtype", None) == torch.float64:
                label = next(iter([f"{key}=True" for key in overrides]), setting)
                words = f"set_timesteps makes {name} that an MPS device, which has no float64, cannot take."
                yield Finding("device", f"{label}, {name}", "float32 or integers", "torch.float64", words)


def check_slices(subject: Subject, setting: str, eta: float | None) -> Iterator[Finding]:
    """Check image-to-image use: the pipeline sets a begin index and runs the rest of the schedule (strength below 1).

    Without a begin index the scheduler has to find the first timestep; of two equal ones (Heun) it is the second that
    starts a step.
    """
    if not hasattr(subject.base, "set_begin_index") or subject.family is None:
        return
    for steps, begin in ((8, 2), (8, 6), (6, 4)):
        yield from check_steps(subject, f"{setting}, sliced", steps, eta, begin=begin)
        yield from check_steps(subject, f"{setting}, sliced without a begin index", steps, eta, begin=begin, told=False)


def check_schedule_arguments(subject: Subject, setting: str, eta: float | None) -> Iterator[Finding]:
    """Check set_timesteps(timesteps=…), strength and original_inference_steps, as far as the class takes them."""
    has, family = subject.set_parameters, subject.family
    if family is None or family.method is None or family.calls_per_step > 1 or subject.curve() is not None:
        return
    if "timesteps" in has:
        given = [999, 787, 500, 263, 140, 77]
        try:
            case = subject.prepare(len(given), timesteps=given)
        except Refusal:
            case = None
        if case is not None and case.path.timesteps != given:
            words = "The schedule passed to set_timesteps is not the one that is run."
            yield Finding("timesteps given", setting, str(given), str(case.path.timesteps), words)
        elif case is not None:
            trace = run_case(subject, case, eta)
            yield from compare_steps(case, trace, f"{setting}, timesteps given", place(len(given), eta), eta)
    if "strength" in has and family.timesteps is not None:
        for strength in (0.3, 0.5, 0.8):
            config = subject.config
            grid = family.timesteps(config, int(config["original_inference_steps"]))
            grid = grid[len(grid) - int(len(grid) * strength) :]
            wanted = [float(grid[index * len(grid) // 4]) for index in range(4)]
            got = subject.prepare(4, strength=strength).path.timesteps
            if got != wanted:
                words = "The schedule is not the part of the training grid that the strength leaves."
                yield Finding("strength", f"{setting}, strength={strength}", str(wanted), str(got), words)
    if "original_inference_steps" in has:
        for original in (25, 50):
            wanted = list(subject.prepare(4, {"original_inference_steps": original}).path.timesteps)
            got = subject.prepare(4, original_inference_steps=original).path.timesteps
            if list(got) != wanted:
                words = "The argument of set_timesteps and the setting of the same name give different grids."
                label = f"{setting}, set_timesteps(original_inference_steps={original})"
                yield Finding("original steps", label, str(wanted), str(got), words)
