"""Work in forked copies of this process gives what it gives here."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from many_records import write

from bench.analysis.scoring import _load_reference, _score_key, _with_fallbacks, score_run
from bench.parallel import map_forked
from bench.store.store import Store


def processors() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


CODE = """
import os
from bench.parallel import map_forked
base = 10
found = map_forked(lambda i: (os.getpid(), base + i), list(range(40)), fewest=20)
print([value for _, value in found] == list(range(10, 50)), os.getpid() not in {pid for pid, _ in found})
"""


@pytest.mark.skipif(processors() < 2, reason="with one processor nothing is forked")
def test_results_come_in_order_and_from_other_processes() -> None:
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True", "True"]


def test_few_things_stay_here() -> None:
    assert map_forked(str, [1, 2], fewest=3) == ["1", "2"]


def test_a_scored_cell_that_was_sent_is_the_same_and_finds_its_stand_in_again(tmp_path: Path) -> None:
    write(tmp_path, 40)
    store = Store(tmp_path)
    run = store.run()
    real = _load_reference(store, run, run.reference or "")
    here = score_run(store, run)
    sent = [_with_fallbacks(store, run, real, pickle.loads(pickle.dumps(_score_key(store, run, real, key))))  # noqa: S301
            for key in run.cells]  # fmt: skip
    doubtful = 0
    for ours, theirs in zip(here, sent, strict=True):
        assert ours.record == theirs.record
        for short, estimate in ours.estimates.items():
            other = theirs.estimates[short]
            assert estimate.to_score() == other.to_score()
            assert np.array_equal(estimate.influence, other.influence)
            if estimate.stand_in:
                doubtful += estimate.caveat is not None
                assert other.stand_in is not None
                assert other.stand_in().to_score() == estimate.stand_in().to_score()
    assert doubtful
