"""The verdicts of a run that goes on until its claims are decided, as they come."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from bench.analysis.claims import Judgement, judge_claims, judge_run
from bench.analysis.scoring import ScoredCell, ScoredRun
from bench.printable import printable
from bench.records.cell import Cell
from bench.records.errors import Damaged
from bench.records.run import Run
from bench.store.store import Store

_DECIDED = ("supported", "refuted")


@dataclass
class Verdicts:
    """The claims' verdicts, each printed once; a cell that was scored is not scored again."""

    _known: Sequence[ScoredCell] = ()
    _decided: dict[str, str] = field(default_factory=dict)
    _judged: set[str] = field(default_factory=set)
    """Claims of this round that were judged before its end."""

    def judge(self, store: Store, run: Run, where: str) -> list[tuple[tuple[str, ...], int]]:
        """Judge the claims at the end of a round, note in the store that they were, and print what is new.

        Returns the keys of the cells of each open comparison, with the number of images that it was judged by.
        """
        self._judged.clear()
        judgements = judge_run(self._load(store, run))
        decided = sum(judgement.verdict in _DECIDED for judgement in judgements)
        print(f"{where}: {decided} of {len(judgements)} claims decided", file=sys.stderr)
        for judgement in judgements:
            self._tell(judgement)
            if judgement.verdict == "undecided" and self._decided.pop(judgement.claim.name, ""):
                print(f"  open again, with more images: {printable(judgement.claim.text)}", file=sys.stderr)
        return list(_open(judgements))

    def judge_early(self, store: Store, run: Run, waiting: Collection[Cell]) -> None:
        """Print the verdicts of claims about none of the cells that a round still waits for.

        They are judged as if all other claims were open, so that they are decided at the end of the round as well.
        """
        ready = [claim for claim in run.claims if not any(map(claim.may_compare, waiting))]
        new = tuple(claim for claim in ready if claim.name not in {*self._decided, *self._judged})
        if not new:
            return
        self._judged |= {claim.name for claim in new}
        left = {cell.key for cell in waiting}
        with suppress(Damaged):  # the end of the round makes the file again
            scored = self._load(store, replace(run, cells=tuple(key for key in run.cells if key not in left)))
            asked = replace(run, claims=new)
            for judgement in judge_claims(asked, scored.cells, others=len(run.claims) - len(new)):
                self._tell(judgement)

    def _load(self, store: Store, run: Run) -> ScoredRun:
        scored = ScoredRun.load(store, run, self._known)
        self._known = scored.cells
        return scored

    def _tell(self, judgement: Judgement) -> None:
        name, verdict = judgement.claim.name, judgement.verdict
        if verdict in _DECIDED and self._decided.get(name) != verdict:
            self._decided[name] = verdict
            text = printable(judgement.claim.text)
            print(f"  {verdict} by {judgement.sampling_s:,.1f} s of sampling: {text}", file=sys.stderr)


def _open(judgements: Sequence[Judgement]) -> Iterator[tuple[tuple[str, ...], int]]:
    for judgement in judgements:
        if judgement.verdict == "undecided":
            yield from ((c.keys, c.n) for c in judgement.comparisons if not c.settled)
