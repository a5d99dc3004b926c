"""The sampler of the flow LoRA: its ends are diffusers' schedulers, and between them its noise has the right level."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from bench.mini.flow_tcd import FlowTCDScheduler


def sample(scheduler: FlowMatchEulerDiscreteScheduler, sigmas: list[float], **step: object) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 1, 8, 8, generator=generator)
    scheduler.set_timesteps(sigmas=sigmas)
    points = [x]
    for i, t in enumerate(scheduler.timesteps):
        velocity = torch.sin(3 * points[-1]) + scheduler.sigmas[i]
        points.append(scheduler.step(velocity, t, points[-1], generator=generator, return_dict=False, **step)[0])
    return points


@pytest.mark.parametrize(("eta", "stochastic"), [(0.0, False), (1.0, True)])
def test_its_ends_are_eulers_method_and_stochastic_sampling(eta: float, stochastic: bool) -> None:
    sigmas = [1.0, 0.6, 0.3]
    ours = sample(FlowTCDScheduler(shift=2.0), sigmas, eta=eta)
    theirs = sample(FlowMatchEulerDiscreteScheduler(shift=2.0, stochastic_sampling=stochastic), sigmas)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.8, 1.0])
def test_samples_lie_on_the_line_at_every_level(eta: float) -> None:
    """For data in one point the sample at level σ is (1 − σ) point + σ z, of which z is normal for every η."""
    scheduler = FlowTCDScheduler()
    scheduler.set_timesteps(4)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 1, 400, 400, generator=generator)
    for t, level, after in zip(scheduler.timesteps, scheduler.sigmas, scheduler.sigmas[1:], strict=False):
        x = scheduler.step((x - 1.5) / level, t, x, eta=eta, generator=generator).prev_sample
        assert x.mean().item() == pytest.approx(1.5 * (1 - after.item()), abs=0.01)
        assert x.std().item() == pytest.approx(after.item(), rel=0.01, abs=1e-4)
    torch.testing.assert_close(x, torch.full_like(x, 1.5), rtol=1e-4, atol=1e-4)


def test_no_step_is_spent_on_the_last_thousandth() -> None:
    ours, theirs = FlowTCDScheduler(shift=2.0), FlowMatchEulerDiscreteScheduler(shift=2.0)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(2)
    torch.testing.assert_close(ours.sigmas, torch.tensor([1, 2 / 3, 0.0]))
    assert theirs.sigmas[1] < 0.01


def test_an_eta_beyond_one_is_refused() -> None:
    scheduler = FlowTCDScheduler()
    scheduler.set_timesteps(2)
    with pytest.raises(ValueError, match="between 0 and 1"):
        scheduler.step(torch.zeros(1), scheduler.timesteps[0], torch.zeros(1), eta=1.5)
