"""How much of a gain is kept elsewhere: of that over a baseline on one model, on another one."""

from __future__ import annotations

from dataclasses import dataclass

from bench.score.estimate import Estimate, paired_difference

FARTHEST = 20.0
"""The largest share, of either sign, that is looked at."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The share of a gain that another one is, 1 for all of it, with its 95% interval."""

    share: float
    interval: tuple[float, float]


def kept_share(gain: Estimate, original: Estimate) -> Kept | None:
    """Return the share that `gain` is of `original`, both of the same prompts; None where it has no interval.

    The interval holds the shares s for which gain − s × original may be zero (Fieller 1954, J. R. Stat. Soc. B 16:175).
    It is one only where the original is known to be above zero. Both have to be differences of means.
    """
    from scipy.optimize import brentq  # slow to import, and a plan does not need it

    if (
        gain.n != original.n
        or not (gain.mean_of and original.mean_of)
        or gain.caveat
        or original.caveat
        or original.interval()[0] <= 0
    ):
        return None

    def left(share: float, end: int) -> float:
        return paired_difference(gain, original.scaled(share)).interval()[end]

    if any(left(-FARTHEST, end) <= 0 or left(FARTHEST, end) >= 0 for end in (0, 1)):
        return None
    low, high = (brentq(left, -FARTHEST, FARTHEST, args=(end,), xtol=1e-6) for end in (0, 1))
    return Kept(gain.debiased_value / original.debiased_value, (low, high))
