"""The noise of a call: recorded as it is drawn, or drawn a second time, with the same numbers."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from bench.conformance.checks_steps import run_case, run_each
from bench.conformance.subject import Subject
from bench.conformance.targets import GAUSSIAN, POINT
from bench.conformance.trace import RepeatedDraws, Trace, TracedRun, UnknownDraws, to_numpy

STOCHASTIC = (
    *("DDPMScheduler", "LCMScheduler", "EulerAncestralDiscreteScheduler", "SASolverScheduler"),
    "FlowMatchLCMScheduler",
)


def draws_of(trace: Trace) -> list[list[float]]:
    return [[float(x) for draw in call.draws for x in draw.ravel()] for call in trace.calls]


@pytest.mark.parametrize("name", STOCHASTIC)
def test_noise_that_is_drawn_again_is_the_noise_that_was_drawn(name: str) -> None:
    subject = Subject(getattr(diffusers, name))
    repeated, recorded = (
        subject.prepare(5).run(GAUSSIAN, TracedRun(draws=draws))  # type: ignore[arg-type]
        for draws in ("repeated", "recorded")
    )
    assert any(draws_of(recorded))
    assert draws_of(repeated) == draws_of(recorded)
    assert np.array_equal(repeated.final, recorded.final)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_draw_and_none_are_told_apart(dtype: torch.dtype) -> None:
    generator, state = torch.Generator().manual_seed(1), torch.zeros(4, 3, 2, 1, dtype=torch.float64)
    for count in (0, 1):
        again = RepeatedDraws(generator, state)
        with again:
            wanted = [torch.randn(state.shape, generator=generator, dtype=dtype) for _ in range(count)]
        assert len(again.draws) == count
        assert all(np.array_equal(to_numpy(one), other) for one, other in zip(wanted, again.draws, strict=True))


@pytest.mark.parametrize(
    "draw",
    [
        lambda generator: torch.rand(4, 3, 2, 1, generator=generator, dtype=torch.float64),
        lambda generator: torch.randn(1, 3, 2, 1, generator=generator, dtype=torch.float64),
        lambda generator: torch.randn(4, 6, 2, 1, generator=generator, dtype=torch.float64),
        lambda generator: generator.manual_seed(5),
    ],
    ids=["uniform", "one image", "more channels", "seed"],
)
def test_other_numbers_than_noise_of_the_state_are_not_guessed(draw: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    with pytest.raises(UnknownDraws), RepeatedDraws(generator, torch.zeros(4, 3, 2, 1, dtype=torch.float64)):
        draw(generator)


class SharedNoise(diffusers.DDPMScheduler):
    """Draws one image's noise and uses it for all."""

    def step(self, model_output: Any, timestep: Any, sample: Any, generator: Any = None, **more: Any) -> Any:
        noise = torch.randn(sample[:1].shape, generator=generator, dtype=sample.dtype)
        result = super().step(model_output, timestep, sample, torch.Generator().manual_seed(0), **more)
        result.prev_sample = result.prev_sample + noise
        return result


def test_a_run_whose_noise_cannot_be_drawn_again_is_made_again_with_every_draw_recorded() -> None:
    subject = Subject(SharedNoise, "DDPMScheduler")
    trace = run_case(subject, subject.prepare(5), None)
    assert {draw.shape for call in trace.calls for draw in call.draws} == {(1, 3, 2, 1)}


@pytest.mark.parametrize("name", ["LMSDiscreteScheduler", "DPMSolverSinglestepScheduler", "KDPM2DiscreteScheduler"])
def test_targets_in_one_batch_give_the_runs_of_each_alone(name: str) -> None:
    subject = Subject(getattr(diffusers, name))
    together = run_each(subject, subject.prepare(6), None, (GAUSSIAN, POINT))
    for target, trace in zip((GAUSSIAN, POINT), together, strict=True):
        alone = run_case(subject, subject.prepare(6), None, target)
        assert np.array_equal(trace.final, alone.final)
        assert all(np.array_equal(a.state, b.state) for a, b in zip(trace.calls, alone.calls, strict=True))


def test_a_step_that_takes_an_order_is_run_briefly_with_order_two() -> None:
    subject = Subject(diffusers.LMSDiscreteScheduler)
    assert subject.brief == {"order": 2}
    brief, whole = (run_case(subject, subject.prepare(6), None, arguments=given) for given in (subject.brief, None))
    assert np.array_equal(brief.calls[1].next_state, whole.calls[1].next_state)
    assert not np.array_equal(brief.final, whole.final)
    assert Subject(diffusers.DDIMScheduler).brief == {}
