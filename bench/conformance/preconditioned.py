"""Samplers whose noise levels have no table: x = x0 + sigma noise, and a network in the preconditioning of EDM."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.conformance.flow_spacing import Config
from bench.conformance.noise import Array


@dataclass(frozen=True)
class OwnLevels:
    """Levels by sigma alone.

    `sigmas` returns those of the calls by their definition, `told` what the model is told of one, `parts` returns p and
    q of the output p x0 + q noise, `scale` the factor of the model's input.
    """

    sigmas: Callable[[Config, int], Array]
    told: Callable[[Array], Array]
    parts: Callable[[Config, float], tuple[float, float]]
    scale: Callable[[Config, float], float]


def edm_sigmas(config: Config, steps: int) -> Array:
    """Return sigmas from the largest to the smallest: Karras et al. 2022, eq. 5, or even in log sigma."""
    high, low, share = float(config["sigma_max"]), float(config["sigma_min"]), np.linspace(0, 1, steps)
    if config["sigma_schedule"] == "exponential":
        return np.asarray(np.exp(math.log(high) + share * (math.log(low) - math.log(high))))
    rho = float(config["rho"])
    return np.asarray((high ** (1 / rho) + share * (low ** (1 / rho) - high ** (1 / rho))) ** rho)


def edm_parts(config: Config, sigma: float) -> tuple[float, float]:
    """Invert x0 = c_skip x + c_out F, Karras et al. 2022, table 1; a velocity is F with the other sign."""
    data = float(config["sigma_data"])
    spread = math.hypot(sigma, data)
    sign = -1.0 if config["prediction_type"] == "v_prediction" else 1.0
    return sign * sigma / (data * spread), -sign * data / spread


EDM = OwnLevels(
    edm_sigmas,
    lambda sigma: np.log(sigma) / 4,
    edm_parts,
    lambda config, sigma: 1 / math.hypot(sigma, float(config["sigma_data"])),
)
"""Karras et al. 2022, table 1: c_in = 1 / sqrt(sigma² + sigma_data²) and c_noise = log(sigma) / 4."""
