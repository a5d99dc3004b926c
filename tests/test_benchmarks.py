"""The harness's own benchmarks before and after."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.records.errors import BenchError

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "benchmarks"))

from breakdown import busy_share
from compare import Ratio, compare_ratios, main, read_ratios

LIMIT = 0.1
MACHINE = {"device": "cpu", "processor": "x", "cores": 2, "gpus": [], "system": "s"}


def ratio(*samples: float, name: str = "job", exact: bool = False, **machine: Any) -> Ratio:
    return Ratio(name, samples, exact, {**MACHINE, **machine})


def verdict(before: Ratio, after: Ratio) -> str:
    (outcome,) = compare_ratios([before], [after], LIMIT)
    return outcome.verdict


def test_a_ratio_that_rose_by_more_than_the_limit_beyond_its_rounds_is_a_regression() -> None:
    steady, slower = ratio(0.60, 0.61, 0.59), ratio(0.75, 0.76, 0.74)
    assert verdict(steady, slower) == "regressed"
    assert verdict(slower, steady) == "improved"
    assert verdict(steady, ratio(0.61, 0.60, 0.60)) == "unchanged"
    assert verdict(steady, ratio(0.64, 0.66, 0.65)) == "undecided"
    assert verdict(ratio(0.5, 0.7, 0.6), ratio(0.6, 0.9, 0.75)) == "undecided"
    (outcome,) = compare_ratios([steady], [slower], LIMIT)
    assert outcome.before == pytest.approx(0.6, abs=1e-3)
    assert outcome.limit == pytest.approx(0.06, abs=1e-3)


def test_a_single_round_is_undecided_unless_it_is_deterministic() -> None:
    assert verdict(ratio(0.6), ratio(0.9)) == "undecided"
    assert verdict(ratio(0.6, exact=True), ratio(0.9, exact=True)) == "regressed"
    assert verdict(ratio(0.6, exact=True), ratio(0.5, exact=True)) == "improved"
    assert verdict(ratio(0.6, exact=True), ratio(0.62, exact=True)) == "unchanged"


def test_repeating_a_benchmark_rarely_reports_a_change() -> None:
    rng = np.random.default_rng(0)
    found = [verdict(*(ratio(*rng.lognormal(-0.5, 0.05, 3)) for _ in range(2))) for _ in range(300)]
    assert sum(entry in ("regressed", "improved") for entry in found) <= 6


def test_other_machines_and_new_or_missing_benchmarks_are_not_regressions() -> None:
    assert verdict(ratio(0.6, 0.6), ratio(0.9, 0.9, cores=64)) == "not comparable"
    (outcome,) = compare_ratios([ratio(0.6, 0.6, name="old")], [ratio(0.9, 0.9, name="new")], LIMIT)
    assert (outcome.verdict, outcome.subject) == ("new", "new")


def write(folder: Path, samples: list[Any], name: str = "whole_job") -> Path:
    folder.mkdir(exist_ok=True)
    data = {"machine": MACHINE, "ratios": [{"name": "ours / plain", "samples": samples}]}
    (folder / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
    (folder / "growth.json").write_text("[]", encoding="utf-8")
    return folder


def test_a_later_measurement_is_compared_with_the_accepted_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = write(tmp_path / "a", [0.60, 0.61]), write(tmp_path / "b", [0.80, 0.81])
    assert main([str(after), f"--baseline={before}"]) == 1
    assert "regressed: whole_job: ours / plain" in capsys.readouterr().out
    assert main([str(before), f"--baseline={before}"]) == 0
    assert main([str(tmp_path / "nothing"), f"--baseline={before}"]) == 2
    assert "holds no ratios; a benchmark writes them" in capsys.readouterr().err


@pytest.mark.parametrize("samples", [[], [0.0], ["a"], [-1.0], [float("nan")]])
def test_samples_that_are_not_ratios_are_named_with_their_file(tmp_path: Path, samples: list[Any]) -> None:
    with pytest.raises(BenchError, match=r"whole_job\.json holds no ratios"):
        read_ratios(write(tmp_path / "a", samples))


def test_a_directory_without_ratios_is_reported(tmp_path: Path) -> None:
    (tmp_path / "growth.json").write_text("[]", encoding="utf-8")
    with pytest.raises(BenchError, match="holds no ratios; a benchmark writes them with --out"):
        read_ratios(tmp_path)


class Event:
    """A moment of a device, seconds after the beginning."""

    def __init__(self, at_s: float) -> None:
        self.at_s = at_s

    def elapsed_time(self, later: Event) -> float:
        return 1000 * (later.at_s - self.at_s)


def test_the_busy_share_is_that_between_the_first_and_the_last_model() -> None:
    spans = [("VAE", 4.0, 6.0), ("UNet", 1.0, 3.0), ("UNet", 2.0, 3.5), ("extractor", 8.0, 9.0)]
    events = [(name, Event(begun), Event(ended)) for name, begun, ended in spans]
    assert busy_share(Event(0.0), events) == pytest.approx((2.5 + 2.0 + 1.0) / 8.0)
