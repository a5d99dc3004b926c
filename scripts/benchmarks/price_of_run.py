"""Simulated runs of several claims at once, as `until=decided` makes them, with the seconds until each verdict.

A run draws images from those of a finished run, with replacement, and adds up their influences on every comparison,
whose true gains are the measured ones. Rounds, looks, levels and what is sampled are those of `bench.execute.rounds`;
claims hand on no share of their level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bounds = Callable[[float, tuple[float, ...]], Floats]
"""Bounds of the statistic at each look, for a one-sided level and the looks' shares."""


@dataclass(frozen=True, eq=False)
class Compared:
    """One comparison: the influence of each image on its gain, how far that is above its threshold, and its cells."""

    influence: Floats
    excess: float
    deviation: float
    """Of the gain by one image."""
    cells: tuple[str, ...]

    def statistics(self, rows: NDArray[np.intp], counts: Sequence[int]) -> Floats:
        """Return the statistic at growing numbers of images, for images drawn from the measured ones."""
        n = np.array(counts)
        own = (self.influence - self.influence.mean()) / self.influence.std()
        return np.asarray((np.cumsum(own[rows])[n - 1] / n + self.excess / self.deviation) * np.sqrt(n), np.float64)


@dataclass(frozen=True)
class Manner:
    """How a run goes about it: by default as it is built. `in_turn` finishes one claim before it begins the next."""

    only_open: bool = True
    ordered: bool = True
    stops_comparisons: bool = True
    in_turn: bool = False


MANNERS = {
    "all cells until all claims are decided": Manner(False, False, False),
    "only cells that open claims need": Manner(True, False, False),
    "only cells that open comparisons need": Manner(True, False, True),
    "all cells, those of cheap claims first": Manner(False, True, False),
    "as built: only those of open comparisons, cheap claims first": Manner(),
    "one claim after another (not built)": Manner(in_turn=True),
}


@dataclass(frozen=True, eq=False)
class Simulation:
    """Claims by their texts, seconds per image by cell, of the start and of the start of each round after the first."""

    claims: Mapping[str, Sequence[Compared]]
    seconds: Mapping[str, float]
    start: float
    again: float
    level: float
    bounds: Bounds

    def cells_of(self, claim: str) -> tuple[str, ...]:
        """The cells of a claim, each once."""
        return tuple(dict.fromkeys(chain.from_iterable(one.cells for one in self.claims[claim])))

    def mean_seconds(self, manner: Manner, planned: int, looks: int, runs: int) -> tuple[dict[str, float], float]:
        """Return mean seconds until each claim's verdict, or until the end without one, and the share of verdicts."""
        found = [self.run(manner, planned, looks, np.random.default_rng(seed)) for seed in range(runs)]
        ends = {claim: float(np.mean([times[claim] for times, _ in found])) for claim in self.claims}
        return ends, float(np.mean([decided for _, decided in found])) / len(self.claims)

    def run(self, manner: Manner, planned: int, looks: int, rng: np.random.Generator) -> tuple[dict[str, float], int]:
        """Return seconds until each verdict of one run, or until its end, and the number of verdicts."""
        shares = tuple((i + 1) / looks for i in range(looks))
        counts = [round(share * planned) for share in shares]
        rows = rng.integers(0, len(next(iter(self.claims.values()))[0].influence), planned)
        state = _State(self.start, self.seconds, counts)
        statistics = {c: [one.statistics(rows, counts) for one in own] for c, own in self.claims.items()}
        price = {claim: sum(self.seconds[cell] for cell in self.cells_of(claim)) for claim in self.claims}
        order = sorted(self.claims, key=price.__getitem__) if manner.ordered else [*self.claims]
        verdicts = partial(self._open, statistics, shares, state)
        for together in [[claim] for claim in order] if manner.in_turn else [order]:
            left = {claim: [0] * len(self.claims[claim]) for claim in together}
            while left:
                self._sample(manner, together, left, state)
                for claim in list(left):
                    open_ = verdicts(claim)
                    if open_ is None or not any(look + 1 < looks for _, look in open_):
                        state.ends[claim] = state.done(self.cells_of(claim)) if manner.ordered else state.now
                        state.verdicts += open_ is None
                        del left[claim]
                    else:
                        left[claim] = [look for _, look in open_]
                        wanted = (
                            open_ if manner.stops_comparisons else [(one, open_[0][1]) for one in self.claims[claim]]
                        )
                        for one, look in wanted:
                            state.want(one.cells, min(look + 1, looks - 1))
                state.now += self.again if left else 0.0
        return {claim: state.ends[claim] for claim in self.claims}, state.verdicts

    def _sample(self, manner: Manner, together: Sequence[str], left: Mapping[str, object], state: _State) -> None:
        """Sample a round: what open claims want, or as much of all cells."""
        cells = dict.fromkeys(chain.from_iterable(self.cells_of(claim) for claim in together))
        if not manner.only_open:
            state.want(tuple(cells), max(state.wanted.get(cell, 0) for cell in cells))
        for cell in cells:
            if cell in state.wanted or any(cell in self.cells_of(claim) for claim in left):
                state.want((cell,), 0)
                state.sample(cell)

    def _open(
        self, statistics: Mapping[str, Sequence[Floats]], shares: tuple[float, ...], state: _State, claim: str
    ) -> list[tuple[Compared, int]] | None:
        """Return the open comparisons of a claim, each with its look; None where the claim is decided."""
        own = list(zip(self.claims[claim], statistics[claim], strict=True))
        above, below = self.bounds(self.level, shares), self.bounds(self.level / len(own), shares)
        looks = [min(state.wanted[cell] for cell in one.cells) for one, _ in own]
        if any(-z[look] > below[look] for (_, z), look in zip(own, looks, strict=True)):
            return None
        open_ = [(one, look) for (one, z), look in zip(own, looks, strict=True) if z[look] <= above[look]]
        return open_ or None


class _State:
    """Time, and what was sampled by then."""

    def __init__(self, now: float, seconds: Mapping[str, float], counts: Sequence[int]) -> None:
        self.now, self._seconds, self._counts, self.verdicts = now, seconds, counts, 0
        self.wanted, self.ends = dict[str, int](), dict[str, float]()
        self._images, self._done = dict[str, int](), dict[str, float]()

    def want(self, cells: Sequence[str], look: int) -> None:
        """Ask for the images of a look."""
        for cell in cells:
            self.wanted[cell] = max(look, self.wanted.get(cell, 0))

    def sample(self, cell: str) -> None:
        """Sample what is asked for of a cell and not there."""
        images = self._counts[self.wanted[cell]]
        self.now += max(0, images - self._images.get(cell, 0)) * self._seconds[cell]
        self._images[cell], self._done[cell] = images, self.now

    def done(self, cells: Sequence[str]) -> float:
        """Return when the last of these cells was there."""
        return max(self._done[cell] for cell in cells)


def by_hand(
    claims: Mapping[str, tuple[float, tuple[str, ...]]], seconds: Mapping[str, float], start: float
) -> Iterator[tuple[str, float]]:
    """Yield claims with the seconds until their verdict by the plain script, cheap ones first, each cell sampled once.

    Each claim has its number of images and its cells.
    """
    now, images = start, dict[str, float]()
    for claim, (needed, cells) in sorted(
        claims.items(), key=lambda c: c[1][0] * sum(seconds[cell] for cell in c[1][1])
    ):
        for cell in cells:
            now += max(0.0, needed - images.get(cell, 0.0)) * seconds[cell]
            images[cell] = max(needed, images.get(cell, 0.0))
        yield claim, now
