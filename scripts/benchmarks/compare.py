"""Whether the ratios of benchmarks rose since an accepted measurement.

    python scripts/benchmarks/compare.py DIRECTORY [--baseline results/performance] [--limit 0.1]

A benchmark leaves JSON in DIRECTORY with `ratios` of two sides that ran in interleaved order, lower is better, each
with one sample per round, and the `machine` they were measured on (scripts/benchmarks/ratios.py). What a machine does
to both sides of a ratio does not show in it; ratios of different machines are not compared all the same. A ratio may
rise by the share `--limit`. Exit codes are those of the gate: 0 nothing rose, 1 a ratio rose, 2 refused, 3 nothing
could be decided.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import ttest_ind

from bench.analysis.claims import LEVEL, holm
from bench.gate.outcome import GateReport, Outcome, verdict_of
from bench.gate.report import to_terminal
from bench.records.errors import BenchError

_MACHINE = ("device", "processor", "cores", "gpus", "system")


@dataclass(frozen=True)
class Ratio:
    """One ratio of a benchmark, by round; `exact` where it comes out the same each time."""

    name: str
    samples: tuple[float, ...]
    exact: bool
    machine: Mapping[str, Any]


def read_ratios(directory: Path) -> list[Ratio]:
    """The ratios of all benchmarks in a directory; raises BenchError for other files, or where there are none.

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
        raise BenchError(f"{directory} holds no ratios; a benchmark writes them with --out {directory}")
    return found


def compare_ratios(before: Iterable[Ratio], after: Iterable[Ratio], limit: float) -> Iterator[Outcome]:
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
    worse = holm([_later(old, new, limit) for old, new in pairs])
    better = holm([_later(new, old, limit) for old, new in pairs])
    within = holm([_apart(old, new, limit) for old, new in pairs])
    for (old, new), slower, faster, same in zip(pairs, worse, better, within, strict=True):
        verdict = verdict_of(slower, faster, same, LEVEL)
        first, last = _middle(old.samples), _middle(new.samples)
        note = f"{len(old.samples)} and {len(new.samples)} rounds"
        yield Outcome("performance", old.name, "ratio", verdict, first, last, limit=limit * first, note=note)


def _middle(samples: tuple[float, ...]) -> float:
    return math.exp(fmean(map(math.log, samples)))


def _later(before: Ratio, after: Ratio, share: float) -> float:
    """p-value of the hypothesis that the later side is not above the earlier one by more than a share of it."""
    first, last = np.log(before.samples) + math.log1p(share), np.log(after.samples)
    if before.exact and after.exact:
        return float(last.mean() <= first.mean())
    if min(len(first), len(last)) < 2:
        return 1.0
    return float(ttest_ind(last, first, equal_var=False, alternative="greater").pvalue)


def _apart(before: Ratio, after: Ratio, share: float) -> float:
    """p-value of the hypothesis that the sides differ by more than a share, either way."""
    return max(_later(before, after, -share / (1 + share)), _later(after, before, -share / (1 + share)))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="what benchmarks wrote with --out")
    parser.add_argument("--baseline", type=Path, default=Path(__file__).parents[2] / "results" / "performance")
    parser.add_argument("--limit", type=float, default=0.1, help="the share by which a ratio may rise")
    options = parser.parse_args(arguments)
    try:
        outcomes = compare_ratios(read_ratios(options.baseline), read_ratios(options.directory), options.limit)
        report = GateReport(str(options.baseline), str(options.directory), tuple(outcomes))
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(to_terminal(report))
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
