"""The notes of the gate on its numbers."""

from dataclasses import replace

import numpy as np
from test_tables import RECORD

from bench.analysis.scoring import ScoredCell
from bench.gate.outcome import Outcome
from bench.gate.pairing import Pair
from bench.gate.quality import _outcome
from bench.records.record import Images, Record
from bench.score.estimate import Estimate, mean_estimate


def test_undecided_beside_an_interval_beyond_the_limit_says_why() -> None:
    gains = mean_estimate(np.random.default_rng(0).normal(1.0, 1.0, 100))
    cell = ScoredCell(RECORD, {"clip_score": gains})
    notes = {
        (verdict, limit): _outcome(Pair(cell, cell), "clip_score", gains, limit, verdict).note
        for verdict, limit in (("undecided", 0.1), ("improved", 0.1), ("undecided", 1.0))
    }
    said = "undecided because all comparisons are counted (Holm)"
    assert [said in note for note in notes.values()] == [True, False, False]


def outcome(gains: Estimate, limit: float, verdict: str, before: Record = RECORD, after: Record = RECORD) -> Outcome:
    cells = [ScoredCell(record, {"clip_score": gains}) for record in (before, after)]
    return _outcome(Pair(*cells), "clip_score", gains, limit, verdict)


def test_an_interval_beyond_the_limit_on_the_bad_side_is_explained_too() -> None:
    losses = mean_estimate(np.random.default_rng(0).normal(-1.0, 1.0, 100))
    assert "all comparisons are counted (Holm)" in outcome(losses, 0.1, "undecided").note


def test_equal_images_and_other_latents_are_named() -> None:
    gains = mean_estimate(np.random.default_rng(0).normal(1.0, 1.0, 100))
    images = replace(RECORD, images=Images(4, 64, 64, "x"))
    assert outcome(gains, 1.0, "unchanged", images, images).note == "the images are equal"
    reseeded = replace(images, images=Images(4, 64, 64, "y"), cell=replace(RECORD.cell, seed=1))
    assert outcome(gains, 1.0, "unchanged", images, reseeded).note == "other initial latents: paired by prompt only"


def test_without_a_valid_interval_the_reason_is_shown() -> None:
    few = mean_estimate(np.array([0.0, 0.0, 0.0, 1.0]))
    assert few.caveat is not None
    found = outcome(few, 0.1, "undecided")
    assert found.interval is None
    assert found.note == f"no normal interval: {few.caveat}"
