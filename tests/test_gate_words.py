"""What the gate says beside its numbers."""

import numpy as np
from test_tables import RECORD

from bench.judge.gate.cells import Pair
from bench.judge.gate.quality import _outcome
from bench.judge.scores import ScoredCell
from bench.score.estimate import mean_estimate


def test_undecided_beside_an_interval_beyond_the_limit_says_why() -> None:
    gains = mean_estimate(np.random.default_rng(0).normal(1.0, 1.0, 100))
    cell = ScoredCell(RECORD, {"clip_score": gains})
    notes = {
        (verdict, limit): _outcome(Pair(cell, cell), "clip_score", gains, limit, verdict).note
        for verdict, limit in (("undecided", 0.1), ("improved", 0.1), ("undecided", 1.0))
    }
    said = "undecided because all comparisons are counted (Holm)"
    assert [said in note for note in notes.values()] == [True, False, False]
