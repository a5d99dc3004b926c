"""What a pipeline may hand over in another form: latents of five dimensions, lists of generators, noise, variances."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from bench.conformance.checks_steps import allowance, place
from bench.conformance.noise import Array
from bench.conformance.report import Finding
from bench.conformance.settings import variations
from bench.conformance.subject import BATCH, Case, Refusal, Subject, step_arguments
from bench.conformance.targets import GAUSSIAN, ITEM
from bench.conformance.trace import DrawRecorder, scaled_input, to_numpy

_STEPS = 5
_SHAPES = {"5-D": (BATCH, 3, 1, 2, 1), "3-D": (BATCH, 2, 3)}
_LEARNED = ("learned", "learned_range")


def _run(subject: Subject, case: Case, eta: float | None, shape: tuple[int, ...]) -> Array:
    """Return the final state of a run on latents of another shape, in the usual one."""
    draw = {"generator": torch.Generator().manual_seed(3)} if "generator" in subject.step_parameters else {}
    model, state = case.model(GAUSSIAN), torch.from_numpy(case.start(GAUSSIAN)).reshape(shape)
    for index, timestep in enumerate(case.timesteps):
        seen = to_numpy(scaled_input(case.scheduler, state, timestep)).reshape(BATCH, *ITEM)
        output = torch.from_numpy(model(seen, index, float(timestep))).reshape(shape)
        state = case.scheduler.step(output, timestep, state, **step_arguments(subject, eta), **draw).prev_sample
    return to_numpy(state).reshape(BATCH, *ITEM)


def check_shapes(subject: Subject, setting: str, eta: float | None) -> Iterator[Finding]:
    """Check that videos and tokens, of five and three dimensions, run as images do, also where data are thresholded."""
    for name, shape in _SHAPES.items():
        for overrides in ({}, {"thresholding": True}):
            if not overrides.keys() <= subject.parameters or (overrides and name == "3-D"):
                continue
            try:
                flat = _run(subject, subject.prepare(_STEPS, overrides), eta, (BATCH, *ITEM))
            except (Refusal, ValueError, NotImplementedError):
                continue
            label = f"{setting}, {name}{', thresholding=True' if overrides else ''}"
            gap = float(np.abs(_run(subject, subject.prepare(_STEPS, overrides), eta, shape) - flat).max())
            if not gap <= 1e-9 * (1 + float(np.abs(flat).max())) and np.isfinite(flat).all():
                words = f"Latents of shape {shape} give another run than the same numbers as images."
                yield Finding(
                    "shape", label, "equal runs", f"{gap:.3g} apart", words, ((place(_STEPS, eta), math.inf),)
                )


def check_one_generator(
    subject: Subject, setting: str, eta: float | None, overrides: Mapping[str, Any] | None = None
) -> Iterator[Finding]:
    """Check that a list of one generator, as pipelines make it, is the generator."""
    if "generator" not in subject.step_parameters:
        return
    finals = []
    for listed in (False, True):
        generator = torch.Generator().manual_seed(5)
        arguments = {**step_arguments(subject, eta), "generator": [generator] if listed else generator}
        finals.append(list(subject.prepare(_STEPS, overrides).states(arguments, rows=slice(0, 1)))[-1])
    if not np.array_equal(finals[0], finals[1], equal_nan=True):
        words = "A list of one generator is not used as that generator."
        got = f"{np.abs(finals[0] - finals[1]).max():.3g} apart"
        yield Finding("batch", f"{setting}, list of one generator", "equal runs", got, words)


def check_given_noise(subject: Subject, setting: str, overrides: Mapping[str, Any] | None = None) -> Iterator[Finding]:
    """Check that noise which is handed over, `variance_noise`, is used as noise that is drawn."""
    if "variance_noise" not in subject.step_parameters:
        return
    eta = {"eta": 1.0} if subject.has_eta else {}
    for index in (0, 2):
        results, drawn = [], [np.empty(0)]
        for given in (False, True):
            case = subject.prepare(_STEPS, overrides)
            if hasattr(case.scheduler, "set_begin_index"):
                case.scheduler.set_begin_index(index)
            state = torch.from_numpy(case.start(GAUSSIAN, index))
            generator = torch.Generator().manual_seed(2)
            noise = {"variance_noise": torch.from_numpy(drawn[-1])} if given else {"generator": generator}
            recorder = DrawRecorder(generator)
            with recorder:
                result = case.scheduler.step(0.5 * state, case.timesteps[index], state, **eta, **noise).prev_sample
            results.append(to_numpy(result))
            if not given and not recorder.draws:
                return
            drawn += recorder.draws
        gap = float(np.abs(results[0] - results[1]).max())
        if not gap <= 0:
            words = f"Noise that is handed over as variance_noise gives another state in call {index} than drawn noise."
            yield Finding("variance_noise", setting, "the drawn noise's state", f"{gap:.3g} apart", words)
            return


def check_learned_variance(subject: Subject, setting: str) -> Iterator[Finding]:
    """Check variances that the model predicts in further channels.

    `learned`: the variance itself. `learned_range`: log variance = v log beta + (1 - v) log beta~, v from -1 … 1 to
    0 … 1 (Nichol and Dhariwal 2021, eq. 15).
    """
    if not str(subject.config.get("variance_type")).startswith(("fixed", "learned")):
        return
    if subject.family is None or subject.family.method is None:
        return
    for kind in _LEARNED:
        try:
            case = subject.prepare(_STEPS, {"variance_type": kind})
        except Refusal:
            continue
        plain = subject.prepare(_STEPS, {"variance_type": "fixed_small"}).method(None)
        for index in range(len(case.path.timesteps) - 1):
            state = case.start(GAUSSIAN, index)
            output = case.model(GAUSSIAN)(state, index, case.path.timesteps[index])
            part = np.random.default_rng(index).uniform(0.1, 0.9, state.shape)
            generator = torch.Generator().manual_seed(2)
            recorder, both = DrawRecorder(generator), np.concatenate([output, part], 1)
            given = torch.from_numpy(both), case.timesteps[index], torch.from_numpy(state)
            with recorder:
                got = to_numpy(case.scheduler.step(*given, generator=generator).prev_sample)
            expected = plain.advance(index, state, output)  # type: ignore[union-attr]
            here, there = case.path.levels[index], case.path.levels[index + 1]
            beta = 1 - (here.a / there.a) ** 2
            least, share = expected.noise**2, (part + 1) / 2
            variance = part if kind == "learned" else np.exp(share * math.log(beta) + (1 - share) * math.log(least))
            wanted = expected.mean + np.sqrt(variance) * sum(recorder.draws, np.zeros_like(state))
            gap, limit = float(np.abs(got - wanted).max()), allowance(expected.size + 4)
            if not gap <= limit:
                words = f"In call {index} the noise has another variance than the model's channels say."
                label, shown = f"variance_type={kind}", f"{wanted.flat[0]:.8g}"
                yield Finding("learned variance", label, shown, f"{got.flat[0]:.8g}", words, (("", gap / limit),))
                break


def check_kept_settings(subject: Subject, setting: str) -> Iterator[Finding]:
    """Check that a copy by from_config keeps every setting that is tried, not the configured ones alone.

    Settings that do not exclude one another are tried together, since some classes are slow to create.
    """
    groups: list[dict[str, Any]] = []
    for variation in (one for one in variations(subject) if len(one.changed) == 1):
        for group in groups:
            joined = {**group, **variation.overrides}
            if all(joined[name] == value for name, value in group.items()) and _created(subject, joined):
                group.update(variation.overrides)
                break
        else:
            if _created(subject, variation.overrides):
                groups.append(dict(variation.overrides))
    wrong: dict[str, None] = {}
    for group in groups:
        made = subject.fresh(group)
        own, kept = subject.config_of(made), subject.config_of(subject.quick.from_config(made.config))
        lost = [name for name, value in group.items() if repr(own.get(name)) != repr(value)]
        wrong |= dict.fromkeys([*lost, *(name for name in own if repr(kept.get(name)) != repr(own[name]))])
    for name in wrong:
        words = "A setting is not kept in the configuration, or not by a copy."
        yield Finding("round trip", f"{setting}, {name}", "the same settings", f"another {name}", words)


def _created(subject: Subject, overrides: Mapping[str, Any]) -> bool:
    try:
        subject.fresh(overrides)
    except Refusal:
        return False
    return True
