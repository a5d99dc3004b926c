"""TCD's sampler in flow form, for the miniature's flow LoRA."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor


class FlowTCDScheduler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]  # diffusers has no types
    """Strategic stochastic sampling (arXiv 2402.19159, section 4.3) on the line x_s = (1 − s) data + s noise.

    Each step jumps from σ to s = (1 − η) σ', where σ' is the next level, and takes new noise from s to σ'. With η = 0
    it is Euler's method, with η = 1 the `stochastic_sampling` of `FlowMatchEulerDiscreteScheduler`. The levels of that
    scheduler end at `sigma_min`, so that its last step does next to nothing; here they are 1, (n − 1)/n … 1/n before
    the shift, as FLUX's pipeline gives them.
    """

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: list[float] | None = None,
        mu: float | None = None,
        timesteps: list[float] | None = None,
    ) -> None:
        """As in the base class, with equally spaced levels where only the number of steps is given."""
        if sigmas is None and timesteps is None and num_inference_steps is not None:
            sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps).tolist()
        super().set_timesteps(num_inference_steps, device, sigmas, mu, timesteps)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        eta: float = 0.3,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> FlowMatchEulerDiscreteSchedulerOutput | tuple[torch.Tensor]:
        """Return the next sample, computed in float32, in the type of the model's output; η is between 0 and 1."""
        if not 0 <= eta <= 1:
            raise ValueError(f"eta is {eta}; give a number between 0 and 1")
        if self.step_index is None:
            self._init_step_index(timestep)
        sigma, after = (self.sigmas[self.step_index + i].item() for i in (0, 1))
        sample, velocity = sample.float(), model_output.float()
        data = sample - sigma * velocity
        s = (1 - eta) * after
        following = (1 - s) * data + s * (sample + (1 - sigma) * velocity)
        if eta > 0 and after > 0:
            kept = (1 - after) / (1 - s)
            noise: Any = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
            following = kept * following + math.sqrt(after**2 - (kept * s) ** 2) * noise
        self._step_index += 1
        following = following.to(model_output.dtype)
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=following) if return_dict else (following,)
