"""Where flow samplers stop on their curve: the levels of every call, as real numbers, from their definition.

Functions take a configuration, a number of steps and, where a caller hands levels over, those levels before any shift.
They return one position per step, the noisiest first; `ends` returns the positions on which a run may end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.conformance.noise import Array, NoiseTable, alpha_bars

Config = Mapping[str, Any]
MU = 0.9
"""The amount of a dynamic shift that is tried, a value between those of 512 and of 1024 pixels."""
NEAREST_TO_NOISE = 1 - 1e-6  # UniPC's log SNR is finite from here on


def moved(u: Array, by: float) -> Array:
    """Return s u / (1 + (s - 1) u), the timestep shift of Esser et al. 2024, eq. 23."""
    return np.asarray(by * u / (1 + (by - 1) * u))


def shift_of(config: Config) -> float:
    """Return s of `moved`: the setting, or of a dynamic shift exp(mu), or mu itself where it is linear."""
    if config.get("use_dynamic_shifting"):
        return MU if config.get("time_shift_type") == "linear" else math.exp(MU)
    return float(config.get("shift", config.get("flow_shift", 1.0)))


def stretched(u: Array, terminal: float) -> Array:
    """Return u stretched about pure noise so that the last value is `terminal`; a single pure-noise value stays."""
    left = 1 - u
    return np.asarray(1 - left * (1 - terminal) / left[-1]) if left[-1] else u


def ramp(kind: str, high: float, low: float, count: int) -> Array:
    """Return `count` levels between two: Karras et al. 2022, eq. 5, rho = 7; even in log; Beta(0.6, 0.6) quantiles."""
    share = np.linspace(0, 1, count)
    if kind == "use_karras_sigmas":
        return np.asarray((high ** (1 / 7) + share * (low ** (1 / 7) - high ** (1 / 7))) ** 7)
    if kind == "use_beta_sigmas":
        from scipy.special import betaincinv  # slow to import

        return np.asarray(low + (high - low) * betaincinv(0.6, 0.6, 1 - share))
    return np.asarray(np.exp(math.log(high) + share * (math.log(low) - math.log(high))))


RAMPS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


def matched(config: Config, steps: int, given: Array | None = None, first: float = 1.0) -> Array:
    """Return the levels of the flow matching samplers: even from 1 to 1 / T, shifted, stretched, respaced, inverted.

    `first` is a shift of both ends before they are divided evenly; only a faulty schedule has one.
    """
    trained = float(config["num_train_timesteps"])
    high, low = moved(np.array([1.0, 1 / trained]), first)
    u = np.linspace(high, low, steps) if given is None else given
    u = moved(u, shift_of(config))
    if config.get("shift_terminal"):
        u = stretched(u, float(config["shift_terminal"]))
    for kind in RAMPS:
        if config.get(kind):
            u = ramp(kind, float(u[0]), float(u[-1]), len(u))
    return 1 - u if config.get("invert_sigmas") else u


def matched_with_shifted_ends(config: Config, steps: int, given: Array | None = None) -> Array:
    """Return the levels of a schedule that shifts its ends when it is created, and everything again when it is used."""
    dynamic = config.get("use_dynamic_shifting")
    return matched(config, steps, given, 1.0 if dynamic else shift_of(config))


def solved(config: Config, steps: int, given: Array | None = None) -> Array:
    """Return the levels of DPM-Solver++, DEIS and SA-Solver: even from 1 - 1 / T to 0 without the end, shifted.

    Xie et al. 2025, section 2.3. Respaced sigmas are ratios of noise to signal: a ratio r is the level r / (1 + r).
    """
    trained = float(config["num_train_timesteps"])
    return _shifted_or_respaced(config, steps, np.linspace(1 - 1 / trained, 0, steps + 1)[:-1], given)


def solved_from_noise(config: Config, steps: int, given: Array | None = None) -> Array:
    """Return the levels of UniPC: even from 1 to 1 / T without the end, shifted and stretched, at most 1 - 1e-6."""
    trained = float(config["num_train_timesteps"])
    u = _shifted_or_respaced(config, steps, np.linspace(1, 1 / trained, steps + 1)[:-1], given)
    if config.get("shift_terminal") and not any(config.get(kind) for kind in RAMPS):
        u = stretched(u, float(config["shift_terminal"]))
    return np.minimum(u, NEAREST_TO_NOISE)


def _shifted_or_respaced(config: Config, steps: int, even: Array, given: Array | None) -> Array:
    for kind in RAMPS:
        if config.get(kind):
            ratios = NoiseTable(alpha_bars(config)).sigmas
            high, low = (float(config.get(f"sigma_{end}") or ratios[at]) for end, at in (("max", -1), ("min", 0)))
            ratio = ramp(kind, high, low, steps)
            return np.asarray(ratio / (1 + ratio))
    return moved(even if given is None else given, shift_of(config))


def ends(config: Config) -> tuple[float, ...]:
    """Return the levels on which a run may end: data, or the smallest level where the settings say so."""
    if config.get("invert_sigmas"):
        return (1.0,)
    smallest = float(moved(np.array(1 / float(config["num_train_timesteps"])), shift_of(config)))
    if config.get("final_sigmas_type") == "sigma_min":
        return (smallest,)
    return (0.0,)


def ends_near_data(config: Config) -> tuple[float, ...]:
    """Return data and the smallest level, for a class without a setting for its end."""
    return (0.0, *ends({**config, "final_sigmas_type": "sigma_min"}))


def on_circle(config: Config, steps: int, given: Array | None = None) -> Array:
    """Return the times of SANA-Sprint: from 1.5708 evenly to 0, for two steps 1.5708 and 1.3 (Chen et al. 2025)."""
    if given is not None:
        return given[:-1]
    return np.array([1.5708, 1.3]) if steps == 2 else np.linspace(1.5708, 0, steps + 1)[:-1]
