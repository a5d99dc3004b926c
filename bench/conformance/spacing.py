"""The timesteps that a scheduler has to take, as real numbers before rounding, from the definition of its spacing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.conformance.noise import Array


def spaced(config: Mapping[str, Any], steps: int) -> Array:
    """Return `steps` timesteps by Lin et al. 2024, table 2: linspace, leading (plus steps_offset) or trailing."""
    count = int(config["num_train_timesteps"])
    spacing = config.get("timestep_spacing", "leading")
    if spacing == "linspace":
        return np.linspace(count - 1, 0, steps) if steps > 1 else np.zeros(1)
    if spacing == "leading":
        return np.asarray(
            np.arange(steps)[::-1] * (count // steps) + int(config.get("steps_offset", 0)), dtype=np.float64
        )
    return np.asarray(count * np.arange(steps, 0, -1) / steps - 1.0, dtype=np.float64)


def spaced_before_the_end(config: Mapping[str, Any], steps: int) -> Array:
    """Return `steps` timesteps, without the additional one on which the last step lands (Lu et al. 2022, section 3.4).

    Without `timestep_spacing` in the configuration: linspace from the last timestep to 0.
    """
    count = int(config["num_train_timesteps"])
    spacing = config.get("timestep_spacing", "linspace")
    if spacing == "linspace":
        return np.linspace(count - 1, 0, steps + 1)[:-1]
    if spacing == "leading":
        offset = int(config.get("steps_offset", 0))
        return np.asarray(np.arange(steps, 0, -1) * (count // (steps + 1)) + offset, dtype=np.float64)
    return np.asarray(count * np.arange(steps, 0, -1) / steps - 1.0, dtype=np.float64)


def distilled(config: Mapping[str, Any], steps: int) -> Array:
    """Return `steps` of the student's timesteps: every `count / original`-th, the largest first, evenly skipped.

    Luo et al. 2023, section 4.3 (skipping); Zheng et al. 2024 train on the same grid.
    """
    count, original = int(config["num_train_timesteps"]), int(config["original_inference_steps"])
    grid = np.arange(original, 0, -1) * (count // original) - 1.0
    return np.asarray(grid[[index * original // steps for index in range(steps)]])


def twice_but_the_first(config: Mapping[str, Any], steps: int) -> Array:
    """Return the timesteps of two calls per step, at start and end: all but the first twice (Karras 2022, alg. 1)."""
    return np.asarray(np.repeat(spaced(config, steps), 2)[1:])


def orders_of_single_steps(steps: int, order: int, lower_final: bool, ends_at_zero: bool) -> list[int]:
    """Return the order of each call of a singlestep solver: groups 1, 2, …, order, each one step of that order.

    Lu et al. 2022, section 3.4 and appendix D: when the groups do not fill the calls, the rest makes groups of lower
    order. A last sigma of 0 lies at an infinite distance in log SNR and is reached to first order only.
    """
    whole, rest = divmod(steps, order)
    if order == 1 or (rest == 0 and not lower_final and not ends_at_zero):
        return list(range(1, order + 1)) * whole
    if rest == 0:  # lower orders replace the last group
        whole, ending = whole - 1, [1, 1] if order == 2 else [1, 2, 1]
    else:
        ending = list(range(1, rest + 1))
    orders = list(range(1, order + 1)) * whole + ending
    return [*orders[:-1], 1] if ends_at_zero else orders
