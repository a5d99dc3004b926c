"""The rounds of a run that ends when its claims are decided: which cells get how many images.

Every claim begins with the images of the first look. After each round the claims are judged, each comparison by the
first images that both of its sides have. Where a claim is open, the cells of its open comparisons get the images of the
next look; all other cells stay as they are. So cells that are in no claim are not sampled, and the cells of one run may
have different numbers of images.

What is sampled in a round follows from the images of the rounds before. A run that was stopped goes through the same
rounds again, finds their cells in the store, and comes to the same end. Where the store has larger cells in the end,
from a run without `until=decided`, the claims are judged by these.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from bench.execute.job import Job, prepare
from bench.execute.ownership import whole_run
from bench.experiment.config import Experiment
from bench.experiment.plan import LeftOut, counts_of_looks
from bench.records.cell import Cell
from bench.records.errors import BenchError
from bench.records.run import Claim
from bench.store.interim_looks import looks_of
from bench.store.store import Store

_NO_CLAIM = "no claim is about it, and until=decided samples nothing else"


class Rounds:
    """The cells of an experiment with their numbers of prompts, round by round.

    Without `until=decided` there is one round, of all cells with all prompts.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment, self._jobs = experiment, dict[int, Job]()
        self._each = experiment.prompts.images_per_prompt
        self.counts = counts_of_looks(experiment)
        self.cells = self._job(self.counts[0]).plan.cells
        """All cells of the plan, with the prompts of the first look."""
        self._sizes = dict.fromkeys(range(len(self.cells)), self.counts[-1])
        """Numbers of prompts by the cell's place in the plan."""
        self._order = list(self._sizes)
        if experiment.until == "decided":
            self._begin(Store.of_run(experiment.results))

    def _begin(self, store: Store | None) -> None:
        job, self._sizes = self._job(self.counts[0]), {}
        claims = job.run.claims if store is None else whole_run(store, job).claims
        places: dict[str, int] = {cell.place: place for place, cell in enumerate(self.cells)}
        self._held: dict[int, set[int]] = {place: set() for place in places.values()}
        for record in [] if store is None else store.good_records():
            if (place := places.get(record.cell.place)) is not None:
                self._held[place].add(record.cell.prompts.count // self._each)
        for claim in claims:
            for place in self._places(claim):
                self._enlarge(place, self._first_count(claim, store))
        if not self._sizes:
            raise BenchError("until=decided: none of the claims is about a cell of the grid; add what they compare")
        for place, held in self._held.items():
            if place not in self._sizes and held:
                self._sizes[place] = max(held)
        dear = {claim.name: sum(job.evaluations[self.cells[i].key] for i in self._places(claim)) for claim in claims}
        by_price = [
            place for claim in sorted(claims, key=lambda claim: dear[claim.name]) for place in self._places(claim)
        ]
        self._order = list(dict.fromkeys([*by_price, *self._sizes]))
        if idle := len(self.cells) - len(self._sizes):
            print(f"{idle} of {len(self.cells)} cells are not sampled: {_NO_CLAIM}", file=sys.stderr)

    def _places(self, claim: Claim) -> Iterator[int]:
        return (place for place, cell in enumerate(self.cells) if claim.may_compare(cell))

    def _first_count(self, claim: Claim, store: Store | None) -> int:
        """Return the first look at a claim: not before those of earlier plans, whose verdicts would be revoked."""
        planned = self.counts[-1] * self._each
        looks = [] if store is None else looks_of(store)
        most = max((s.images for s in looks if s.planned != planned and s.concerns([claim.name])), default=0)
        return next((count for count in self.counts if count * self._each >= most), self.counts[-1])

    def _enlarge(self, place: int, count: int) -> None:
        """Give a cell at least so many prompts, and where it has more than that already, these."""
        held = [more for more in self.counts if more >= count and more in self._held[place]]
        self._sizes[place] = max(self._sizes.get(place, 0), held[0] if held else count)

    def _job(self, count: int) -> Job:
        if count not in self._jobs:
            fewer = replace(self._experiment, prompts=replace(self._experiment.prompts, count=count))
            self._jobs[count] = prepare(fewer, (count / self.counts[-1],), decode=not self._jobs)
        return self._jobs[count]

    @property
    def where(self) -> str:
        """This round in words: `look 2 of 5, 102 to 205 images per cell`."""
        least, most = min(self._sizes.values()), max(self._sizes.values())
        number = 1 + max(i for i, count in enumerate(self.counts) if count <= most)
        smaller = f"{least * self._each:,} to " if least < most else ""
        return f"look {number} of {len(self.counts)}, {smaller}{self._job(most).run.sample} per cell"

    def whole(self) -> Job:
        """Return this round as one job, for what concerns all cells."""
        job, sizes = self._job(max(self._sizes.values())), sorted(self._sizes.items())
        idle = [LeftOut(c.label, _NO_CLAIM) for place, c in enumerate(self.cells) if place not in self._sizes]
        return _narrowed(job, [self._cell(place, count) for place, count in sizes], idle)

    def parts(self) -> list[Job]:
        """Return jobs that sample this round, each with its number of prompts; cells of cheap claims come first."""
        return [
            _narrowed(self._job(count), [self._cell(i, count) for i in self._order if self._sizes.get(i) == count])
            for count in sorted({*self._sizes.values()})
        ]

    def _cell(self, place: int, count: int) -> Cell:
        return self._job(count).plan.cells[place]

    def enlarge(self, open_: Iterable[tuple[Sequence[str], int]]) -> bool:
        """Give the cells of open comparisons the images of the next look; returns whether there is another round.

        A comparison is known by the keys of its cells and the number of images by which it was judged.
        """
        before = dict(self._sizes)
        places = {self._cell(place, count).key: place for place, count in before.items()}
        for keys, images in open_:
            more = next((count for count in self.counts if count * self._each > images), None)
            for key in keys if more else ():
                if key in places:  # not a cell of another run
                    self._enlarge(places[key], more or 0)
        if self._sizes == before:
            self._sizes = {place: max(count, *self._held[place] & {*self.counts}, 0) for place, count in before.items()}
        return self._sizes != before


def _narrowed(job: Job, cells: Sequence[Cell], idle: Sequence[LeftOut] = ()) -> Job:
    """Return a job of some of its cells; `idle` are left out besides what its plan leaves out."""
    left_out = (*job.run.left_out, *((entry.label, entry.reason) for entry in idle))
    return replace(
        job,
        plan=replace(job.plan, cells=tuple(cells), left_out=(*job.plan.left_out, *idle)),
        run=replace(job.run, cells=tuple(cell.key for cell in cells), left_out=left_out),
    )
