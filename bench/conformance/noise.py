"""The noise schedule from its definition, in float64: settings → alpha_bar at every timestep → noise levels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

ZERO_SNR_FLOOR = 2.0**-24  # what sigma-based schedulers use in place of alpha_bar = 0, so that sigma stays finite


class Draws(Protocol):
    """The random numbers of a run, by the number of the draw."""

    def draw(self, number: int) -> Array:
        """Return standard normal numbers in the shape of the state."""


@dataclass(frozen=True, slots=True)
class Level:
    """One noise level: x = a · x0 + b · noise. Variance preserving unless stated otherwise: a² + b² = 1.

    `velocity` holds the derivatives of a and b on a curve (`bench.conformance.curves`), None on a noise table.
    """

    a: float
    b: float
    velocity: tuple[float, float] | None = None

    @property
    def sigma(self) -> float:
        """b / a, the noise level of the rescaled variable x / a (Karras et al. 2022, eq. 1)."""
        return self.b / self.a if self.a else math.inf

    @property
    def lam(self) -> float:
        """log(a / b), half the log signal-to-noise ratio (Lu et al. 2022, eq. 2.6)."""
        return math.inf if self.b <= 0 else (-math.inf if self.a <= 0 else math.log(self.a) - math.log(self.b))


@lru_cache(maxsize=2**14)  # a run of 1000 calls asks for 1000 levels, and many runs for the same
def level_of_alpha_bar(alpha_bar: float) -> Level:
    """Return the level with a = sqrt(alpha_bar), b = sqrt(1 - alpha_bar) (Ho et al. 2020, eq. 4)."""
    return Level(math.sqrt(alpha_bar), math.sqrt(max(0.0, 1.0 - alpha_bar)))


def level_of_sigma(sigma: float) -> Level:
    """Return the variance-preserving level with this ratio of noise to signal."""
    return Level(1.0 / math.hypot(1.0, sigma), sigma / math.hypot(1.0, sigma))


def betas(config: Mapping[str, Any]) -> Array:
    """Return the training betas of a configuration, float64, one per training timestep.

    `linear`: Ho et al. 2020, section 4. `scaled_linear`: linear in sqrt(beta), Rombach et al. 2022, appendix.
    `squaredcos_cap_v2`: Nichol and Dhariwal 2021, eq. 17, betas capped at 0.999. Raises ValueError for another name.
    """
    count = int(config["num_train_timesteps"])
    if config.get("trained_betas") is not None:
        return np.asarray(config["trained_betas"], dtype=np.float64)
    start, end, schedule = float(config["beta_start"]), float(config["beta_end"]), config["beta_schedule"]
    if schedule == "linear":
        return np.linspace(start, end, count)
    if schedule == "scaled_linear":
        return np.linspace(math.sqrt(start), math.sqrt(end), count) ** 2
    if schedule == "squaredcos_cap_v2":
        f = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.asarray(np.minimum(1.0 - f[1:] / f[:-1], 0.999))
    raise ValueError(f"beta_schedule {schedule!r} has no definition here")


def alpha_bars(config: Mapping[str, Any]) -> Array:
    """Return alpha_bar at every training timestep.

    With `rescale_betas_zero_snr`, sqrt(alpha_bar) is shifted and scaled so that the last value is 0 and the first is
    kept (Lin et al. 2024, algorithm 1).
    """
    values = np.cumprod(1.0 - betas(config))
    if config.get("rescale_betas_zero_snr"):
        roots = np.sqrt(values)
        values = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    return np.asarray(values, dtype=np.float64)


@dataclass(frozen=True)
class NoiseTable:
    """alpha_bar by training timestep, and the levels that follow from it."""

    alpha_bar: Array

    @cached_property
    def sigmas(self) -> Array:
        """The ratio of noise to signal at every training timestep."""
        kept = np.where(self.alpha_bar > 0, self.alpha_bar, ZERO_SNR_FLOOR)
        return np.asarray(np.sqrt((1.0 - kept) / kept))

    def level(self, timestep: float) -> Level:
        """Return the level at a timestep; between two whole timesteps sigma is interpolated linearly."""
        if float(timestep).is_integer():
            return level_of_alpha_bar(float(self.alpha_bar[int(timestep)]))
        return level_of_sigma(float(np.interp(timestep, np.arange(len(self.alpha_bar)), self.sigmas)))
