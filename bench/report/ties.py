"""The best cell of a score, and the cells that may be as good.

A cell may be as good as the best one unless it is worse in a paired test at level 5% divided by the number of the other
cells (Bonferroni; the comparisons with the best of Hsu 1981, Ann. Statist. 9:1026). So the marked cells contain the
truly best one in at least 95% of the runs.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from bench.analysis.scoring import ScoredCell, first_of_all
from bench.score.estimate import Estimate, paired_difference
from bench.score.metrics import Metric

_BEST, _TIED = "best", "tied"
MARKS = {_BEST: "●", _TIED: "○"}
MARKS_IN_WORDS = (
    "● marks the best cell of a base model, ○ every cell that may be as good: paired tests at 5% divided by their "
    "number, so that the truly best one is among the marked with 95%."
)
_LEVEL = 0.05
_SURELY_WORSE, _SURELY_TIED = 12.0, 1.0
"""Differences in standard errors that need no test, whatever the distribution."""


def best_and_tied(metric: Metric, cells: Sequence[ScoredCell]) -> dict[int, str]:
    """Return by position the best cell of each base model and those that may be as good; a single cell has no mark."""
    groups: dict[Hashable, list[int]] = {}
    for i, scored in enumerate(cells):
        if metric.score in scored.estimates:
            groups.setdefault((scored.record.cell.base.name, scored.prompts), []).append(i)
    marks: dict[int, str] = {}
    for rows in groups.values():
        if len(rows) > 1:
            marks |= _marks_of(metric, {i: cells[i] for i in rows})
    return marks


def _marks_of(metric: Metric, cells: dict[int, ScoredCell]) -> dict[int, str]:
    sign = 1.0 if metric.higher_is_better else -1.0
    best = max(cells, key=lambda i: sign * cells[i].estimates[metric.score].debiased_value)
    marks = {best: _BEST}
    level = _LEVEL / (len(cells) - 1)
    for i, other in cells.items():
        ours, theirs = first_of_all((cells[best], other), metric.score)
        if i != best and _may_be_as_good(ours, theirs, sign, level):
            marks[i] = _TIED
    return marks


def _may_be_as_good(best: Estimate | None, other: Estimate | None, sign: float, level: float) -> bool:
    """Whether a test cannot tell that `other` is worse; without a pairing or an interval nothing can."""
    if best is None or other is None:
        return True
    try:
        gain = paired_difference(best, other).scaled(sign)
    except ValueError:  # other prompts
        return True
    error = gain.standard_error
    if gain.debiased_value <= _SURELY_TIED * error:
        return True
    if gain.debiased_value > _SURELY_WORSE * error:
        return False
    return gain.caveat is not None or gain.p_value("greater") >= level
