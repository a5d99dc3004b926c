"""Host syncs are the operations in a scheduler's steps of which PyTorch warns, and nothing else."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from diffusers import TCDScheduler

from bench.measure.host_syncs import HostSyncs

WARNING = "called a synchronizing CUDA operation (Triggered internally at somewhere.cpp:1.)"


class Mode:
    """PyTorch's sync debug mode, without a GPU."""

    def __init__(self) -> None:
        self.now: int | str = 0

    def set(self, mode: int | str) -> None:
        self.now = mode

    def wait(self) -> None:
        if self.now == "warn":
            warnings.warn(WARNING, stacklevel=2)


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> Mode:
    mode = Mode()
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: mode.now)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", mode.set)
    return mode


class Scheduler:
    """Syncs twice per step, and warns of something else."""

    def __init__(self, mode: Mode, fails: bool = False) -> None:
        self.mode, self.fails = mode, fails

    def step(self, sample: int, eta: float = 0.0) -> int:
        self.mode.wait()
        self.mode.wait()
        warnings.warn("deprecated", stacklevel=2)
        if self.fails:
            raise ValueError("broken")
        return sample + 1


def test_host_syncs_inside_steps_are_counted_and_those_outside_are_not(mode: Mode) -> None:
    scheduler, seen = Scheduler(mode), []

    with HostSyncs(scheduler) as syncs:
        for i in range(3):
            mode.wait()
            seen.append(scheduler.step(i))
            assert "eta" in inspect.signature(scheduler.step).parameters
    assert syncs.count == 6
    assert seen == [1, 2, 3]
    assert mode.now == 0
    assert "step" not in vars(scheduler)


def test_a_step_that_fails_leaves_scheduler_and_mode_unchanged(mode: Mode) -> None:
    scheduler = Scheduler(mode, fails=True)
    with pytest.raises(ValueError, match="broken"), HostSyncs(scheduler):
        scheduler.step(1)
    assert mode.now == 0
    assert "step" not in vars(scheduler)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_that_reads_a_value_from_the_device_syncs() -> None:
    value = torch.ones(3, device="cuda")

    class Reading:
        def step(self) -> float:
            return value.sum().item()

    reading = Reading()
    with HostSyncs(reading) as syncs:
        value.sum().item()
        reading.step()
        reading.step()
    assert syncs.count == 2
    real = TCDScheduler()
    real.set_timesteps(4, device="cuda")
    sample = torch.zeros(1, 4, 8, 8, device="cuda")
    with HostSyncs(real) as syncs:
        for t in real.timesteps:
            real.step(sample, t, sample)
    assert syncs.count > 0
