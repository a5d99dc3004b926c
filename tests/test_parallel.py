"""Work in forked copies of this process gives the same results as here."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from many_records import write

from bench.analysis.scoring import ScoredRun
from bench.parallel import map_forked
from bench.score.metrics import metric_of
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
def test_results_are_in_order_and_from_other_processes() -> None:
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True", "True"]


def test_few_items_run_in_this_process() -> None:
    assert map_forked(str, [1, 2], fewest=3) == ["1", "2"]


def test_a_cell_scored_in_another_process_is_the_same_and_finds_its_fallback(tmp_path: Path) -> None:
    write(tmp_path, 40)
    scored = ScoredRun.load(Store(tmp_path))
    without = 0
    for cell in scored.cells:
        assert cell.source
        sent = replace(pickle.loads(pickle.dumps(cell.source.score(cell.record.key))), source=cell.source)  # noqa: S301
        assert cell.record == sent.record
        for short, estimate in cell.estimates.items():
            other = sent.estimates[short]
            assert estimate.to_score() == other.to_score()
            assert np.array_equal(estimate.influence, other.influence)
            assert (estimate.fallback is None) == (estimate.caveat is None or short != "fid@mini")
            if short == "fid@mini":
                without += estimate.caveat is not None
                ours, theirs = (one.fallback(short) for one in (cell, sent))
                computed = cell.source.estimate(cell.record, metric_of("kid@mini"))
                assert ours
                assert theirs
                assert ours.to_score() == theirs.to_score() == computed.to_score()
    assert without
