"""Randomness: drawn from the given generator only, only where the method is stochastic, and repeatable by seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import torch

from bench.conformance.checks_steps import place
from bench.conformance.report import Finding
from bench.conformance.subject import Case, Subject, step_arguments
from bench.conformance.targets import GAUSSIAN
from bench.conformance.trace import TracedRun


def check_noise(
    subject: Subject, setting: str, steps: int, eta: float | None, overrides: Mapping[str, Any] | None = None
) -> Iterator[Finding]:
    """Check for stray draws, draws of a deterministic run, repeatability by seed, and use of the global generator."""
    where = ((place(steps, eta), np.inf),)
    arguments = step_arguments(subject, eta)
    before = torch.random.get_rng_state().clone()
    config = {**subject.config, **(overrides or {})}
    runs = [
        subject.prepare(steps, overrides).run(GAUSSIAN, TracedRun(arguments=arguments, seed=seed)) for seed in (0, 0, 1)
    ]
    known = subject.family is not None
    stochastic = subject.family is not None and subject.family.stochastic(config, eta or 0.0)
    stray = [call.index for call in runs[0].calls if call.stray_draws]
    if stray or not torch.equal(before, torch.random.get_rng_state()):
        words = "Noise is drawn from another source than the given generator; a seed does not reproduce its image."
        yield Finding("noise source", setting, "the generator", f"another, in calls {stray[:5]}", words, where)
    if known and not stochastic and any(call.draws for call in runs[0].calls):
        words = "The run is deterministic by its settings, yet draws noise."
        yield Finding("noise source", setting, "no noise", "noise drawn", words, where)
    if known and stochastic and steps > 1 and not any(call.draws for call in runs[0].calls):
        words = "The run is stochastic by its settings, yet draws nothing from the generator."
        yield Finding("noise source", setting, "noise drawn", "none", words, where)
    if known and runs[0].calls[-1].draws:
        words = "The last step adds no noise, yet draws some, which advances the generator for later uses."
        yield Finding("last noise", setting, "no noise drawn in the last step", "noise drawn", words, where)
    draws = [draw for call in runs[0].calls for draw in call.draws]
    if any(np.array_equal(one, other) for one, other in combinations(draws, 2)):
        words = "The same noise is drawn twice in a run."
        yield Finding("noise source", setting, "fresh noise", "the same again", words, where)
    shapes = {draw.shape for call in runs[0].calls for draw in call.draws}
    if known and not shapes <= {runs[0].final.shape}:
        words = "Noise of another shape than the state is drawn, so that pixels or images share it."
        yield Finding("noise shape", setting, str(runs[0].final.shape), str(sorted(shapes)), words, where)
    if not np.array_equal(runs[0].final, runs[1].final):
        words = "Two runs with one seed differ."
        yield Finding("repeatability", setting, "equal runs", "other states", words, where)
    if known and not stochastic and not np.array_equal(runs[0].final, runs[2].final):
        words = "The seed changes a run that is deterministic by its settings."
        yield Finding("repeatability", setting, "no effect of the seed", "other states", words, where)


def check_generators(
    subject: Subject, setting: str, steps: int, eta: float | None, overrides: Mapping[str, Any] | None = None
) -> Iterator[Finding]:
    """Check that a list of generators, one per image, as pipelines pass it, gives each image its own noise."""
    config = {**subject.config, **(overrides or {})}
    stochastic = subject.family is not None and subject.family.stochastic(config, eta or 0.0)
    if not stochastic or "generator" not in subject.step_parameters:
        return
    both = _with_generators(subject.prepare(steps, overrides), subject, eta, [11, 12])
    alone = np.concatenate(
        [
            _with_generators(subject.prepare(steps, overrides), subject, eta, [seed], row)
            for row, seed in ((0, 11), (1, 12))
        ]
    )
    if not np.allclose(both, alone, rtol=1e-6, atol=1e-6):
        words, got = "An image's noise depends on what else is in its batch.", f"{np.abs(both - alone).max():.3g} apart"
        yield Finding("batch", setting, "each image as alone", got, words, ((place(steps, eta), np.inf),))


def _with_generators(case: Case, subject: Subject, eta: float | None, seeds: list[int], row: int = 0) -> Any:
    generators: Any = [torch.Generator().manual_seed(seed) for seed in seeds]
    arguments = {**step_arguments(subject, eta), "generator": generators if len(seeds) > 1 else generators[0]}
    return list(case.states(arguments, rows=slice(row, row + len(seeds))))[-1]
