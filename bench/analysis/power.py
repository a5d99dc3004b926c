"""The number of images for a verdict, if the measured gain is the true one.

The chance of a verdict is that of a normal test, whose standard error falls like 1/√n (of n images whose prompts repeat
as they do in the run). scripts/calibration/claims.py checks it against simulated runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import ndtr, ndtri

from bench.analysis.sequential import LookSizes, nominal_level, path_of

CHANCES = (0.5, 0.8)
"""The probabilities of a verdict for which numbers of images are given."""
MOST_IMAGES = 1e9
ROUNDS = 8
MULTIPLES = (1.0, 1.02, 1.05, 1.1, 1.2, 1.35, 1.6, 2.0, 2.5, 3.5, 5.0, 8.0, 15.0, 40.0, 200.0, 1e4)


@dataclass(frozen=True)
class Effect:
    """A gain with its standard error at `n` images, and the bounds between verdicts: one threshold, or ± a margin."""

    gain: float
    error: float
    n: int
    threshold: float
    equivalence: bool = False

    @property
    def excess(self) -> float:
        """The distance of the gain from the threshold on the supporting side; negative where it contradicts."""
        return self.threshold - abs(self.gain) if self.equivalence else self.gain - self.threshold

    def chance(self, images: float, level: float) -> float:
        """Return the probability that one test at a one-sided level, over `images`, has the result of the gain."""
        error, bound = self.error * math.sqrt(self.n / images), -float(ndtri(level))
        if error == 0:
            return 1.0 if self.excess else 0.0
        if not self.equivalence or self.excess < 0:
            return float(ndtr(abs(self.excess) / error - bound))
        return max(0.0, sum(float(ndtr((self.threshold + s * self.gain) / error - bound)) for s in (1, -1)) - 1)

    def images_for(self, chance: float, level: float) -> float:
        """Return the number of images for a verdict with this probability; infinite for a gain at a threshold."""
        if self.excess == 0 or not self.error > 0:
            return math.inf
        least = self.n * (max(0.0, float(ndtri(chance)) - float(ndtri(level))) * self.error / abs(self.excess)) ** 2
        low, high = max(least, 1e-9), max(4 * least, 1e-9)  # of the two tests of equivalence, the closer one alone
        if not self.equivalence or self.excess < 0:
            return least
        for _ in range(60):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.chance(middle, level) < chance else (low, middle)
        return high


def images_needed(effect: Effect, error: float, history: Sequence[LookSizes]) -> tuple[int, ...] | None:
    """Return the total number of images for each of `CHANCES` of a verdict at the next look, given the past looks.

    `error` is what all looks together may spend, one-sided. None where no number of images would do.
    """
    found = []
    multiples, bounds = _bounds_of_next_look(error, tuple(history))
    for chance in CHANCES:
        images = 2.0 * effect.n
        for _ in range(ROUNDS):  # the level depends a little on how many images come
            bound = np.interp(math.log(images / effect.n), multiples, bounds)
            images = max(effect.images_for(chance, float(ndtr(-bound))), effect.n + 1.0)
            if images > MOST_IMAGES:
                return None
        found.append(math.ceil(images))
    return tuple(found)


@lru_cache(maxsize=64)
def _bounds_of_next_look(error: float, history: tuple[LookSizes, ...]) -> tuple[list[float], list[float]]:
    """Return the bounds of the statistic at the next look, against the logarithm of the growth of images."""
    n = history[-1][0]
    counts = [max(n + 1, round(n * multiple)) for multiple in MULTIPLES]
    levels = [nominal_level(error, path_of([*history, (count, count)])) for count in counts]
    return [math.log(count / n) for count in counts], [-float(ndtri(level)) for level in levels]
