"""How the harness's own benchmarks come out before and after: ratios of two sides that took turns, lower is better.

A benchmark leaves JSON with `ratios`, each with a name and one sample a round, and the `machine` they were taken on
(scripts/benchmarks/ratios.py). What a machine does to both sides of a ratio, the ratio does not see; a ratio of another
machine is another one all the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from bench.analysis.claims import LEVEL, holm
from bench.gate.outcome import Outcome
from bench.records.errors import BenchError
from bench.records.run import Limit

_MACHINE = ("device", "processor", "cores", "gpus", "system")


@dataclass(frozen=True)
class Ratio:
    """One ratio of a benchmark, by round; `exact` where it comes out the same each time."""

    name: str
    samples: tuple[float, ...]
    exact: bool
    machine: Mapping[str, Any]


def read_ratios(directory: Path) -> list[Ratio]:
    """The ratios of all benchmarks in a directory; raises BenchError where there are none, or a file is no benchmark's.

    JSON without `ratios` is something else and left alone.
    """
    found = []
    for path in sorted(directory.glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(data, dict) or "ratios" not in data:
                continue
            machine = {name: data["machine"].get(name) for name in _MACHINE}
            for entry in data["ratios"]:
                samples = tuple(float(sample) for sample in entry["samples"])
                if not samples or not all(0 < sample < math.inf for sample in samples):
                    raise ValueError("samples must be positive numbers, one or more")  # noqa: TRY301
                found.append(Ratio(f"{path.stem}: {entry['name']}", samples, bool(entry.get("exact")), machine))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BenchError(f"{path} holds no ratios of a benchmark ({error}); let the benchmark write it") from error
    if not found:
        raise BenchError(f"{directory} holds no ratios; a benchmark of scripts/ writes them with --out {directory}")
    return found


def compare_ratios(before: Iterable[Ratio], after: Iterable[Ratio], limit: Limit) -> Iterator[Outcome]:
    """Each ratio of the later side against its earlier one, by Welch's t of logarithms, and Holm over all of them.

    One that the later side has not measured is left out, for benchmarks are run one by one.
    """
    known = {ratio.name: ratio for ratio in before}
    pairs = []
    for ratio in after:
        old = known.get(ratio.name)
        if old is None:
            yield Outcome("performance", ratio.name, "ratio", "new", after=_middle(ratio.samples))
        elif different := [name for name in _MACHINE if old.machine[name] != ratio.machine[name]]:
            note = f"another machine: {', '.join(different)} differ"
            yield Outcome("performance", ratio.name, "ratio", "not comparable", note=note)
        else:
            pairs.append((old, ratio))
    bounds = [limit.of(_middle(old.samples)) / _middle(old.samples) for old, _ in pairs]
    worse, better, within = (
        holm([test(old, new, bound) for (old, new), bound in zip(pairs, bounds, strict=True)])
        for test in (_later, lambda old, new, bound: _later(new, old, bound), _apart)
    )
    for (old, new), bound, slower, faster, same in zip(pairs, bounds, worse, better, within, strict=True):
        if slower < LEVEL:
            verdict = "regressed"
        elif faster < LEVEL:
            verdict = "improved"
        else:
            verdict = "unchanged" if same < LEVEL else "undecided"
        first, last = _middle(old.samples), _middle(new.samples)
        note = f"{len(old.samples)} and {len(new.samples)} rounds"
        yield Outcome("performance", old.name, "ratio", verdict, first, last, limit=bound * first, note=note)


def _middle(samples: tuple[float, ...]) -> float:
    return math.exp(fmean(map(math.log, samples)))


def _later(before: Ratio, after: Ratio, share: float) -> float:
    """p-value of the hypothesis that the later side is not above the earlier one by more than a share of it."""
    from scipy.stats import ttest_ind

    first, last = np.log(before.samples) + math.log1p(share), np.log(after.samples)
    if before.exact and after.exact:
        return float(last.mean() <= first.mean())
    if min(len(first), len(last)) < 2:
        return 1.0
    return float(ttest_ind(last, first, equal_var=False, alternative="greater").pvalue)


def _apart(before: Ratio, after: Ratio, share: float) -> float:
    """p-value of the hypothesis that the sides differ by more than a share, either way."""
    return max(_later(before, after, -share / (1 + share)), _later(after, before, -share / (1 + share)))
