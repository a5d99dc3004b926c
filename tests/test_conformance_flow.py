"""conform on schedulers for flow matching: what they claim, what is found, whom a fault affects."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import yaml

import bench
from bench.conformance.baseline import changes, compare_with_baseline, read_baseline
from bench.conformance.conform import first_deviation
from bench.conformance.report import Finding
from bench.records.errors import BenchError

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "conformance"))
import mutation_score as mutation  # noqa: E402

RESULTS = ROOT / "results" / "conformance"


def settings_of(name: str) -> tuple[type[Any], dict[str, Any]]:
    """The class and the arguments of a file of conf/scheduler."""
    settings = yaml.safe_load((ROOT / "conf" / "scheduler" / f"{name}.yaml").read_text(encoding="utf-8"))
    return getattr(diffusers, settings.pop("_target_").rpartition(".")[2]), settings


@pytest.mark.parametrize("name", ["flow_euler", "flow_heun", "scm"])
def test_a_flow_scheduler_deviates_only_as_in_its_baseline(name: str) -> None:
    cls, settings = settings_of(name)
    report = bench.conform(lambda: cls(**settings))
    known = read_baseline(RESULTS / f"{name}.json")
    assert report.family == cls.__name__
    assert {verdict.status for verdict in compare_with_baseline(report, known)} <= {"known"}
    assert not list(changes(report, known))


def found(cls: type[Any], check: str, **settings: Any) -> Finding | None:
    """The first deviation of one check."""
    return first_deviation(lambda: cls(**settings), lambda finding: finding.check == check)


def test_a_shift_applied_twice_is_named_with_the_calls_that_it_affects() -> None:
    finding = found(diffusers.FlowMatchEulerDiscreteScheduler, "shift twice", shift=3.0)
    assert finding is not None
    assert (finding.expected, finding.got) == ("0.00299401 last", "0.00892857")
    assert "calls with sigmas=, timesteps= or mu are not" in finding.sentence


def test_a_shift_applied_once_is_not() -> None:
    class Fixed(diffusers.FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
        def __init__(self, shift: float = 3.0) -> None:
            super().__init__(shift=shift)
            self.sigma_min, self.sigma_max = 1 / 1000, 1.0

    assert found(Fixed, "shift twice") is None
    assert found(Fixed, "spacing") is None


def test_timesteps_of_the_caller_that_are_ignored_are_named() -> None:
    class Ignoring(diffusers.FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
        def __init__(self, shift: float = 3.0) -> None:
            super().__init__(shift=shift)

        def set_timesteps(self, *arguments: Any, **named: Any) -> None:
            super().set_timesteps(*arguments, **named)
            self.timesteps = self.sigmas[:-1] * 1000

    finding = found(Ignoring, "told timesteps")
    assert finding is not None
    assert "another timestep than the caller's" in finding.sentence


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("flow_euler", "dynamic shift after a fixed one"),
        ("flow_euler", "half precision in sigmas"),
        ("flow_euler", "begin index kept"),
        ("flow_heun", "second stage at the wrong sigma"),
        ("flow_heun", "churn not capped"),
        ("flow_lcm", "noise scaled by its square"),
        ("scm", "cos and sin swapped"),
        ("flow_dpmpp_2m", "log SNR of a variance-preserving path"),
        ("flow_unipc", "mu ignored"),
        ("flow_sa_solver", "stochastic part of another width"),
    ],
)
def test_a_fault_of_a_flow_scheduler_is_found_by_theory(name: str, fault: str) -> None:
    assert mutation.examine((name, chosen(mutation.MUTANTS, name, fault)))[2] == "theory"


@pytest.mark.parametrize(
    ("name", "rewriting"),
    [
        ("flow_euler", "shift in another form"),
        ("flow_heun", "slope is the velocity"),
        ("scm", "sine as a shifted cosine"),
    ],
)
def test_an_equal_rewriting_raises_no_alarm(name: str, rewriting: str) -> None:
    assert mutation.examine((name, chosen(mutation.REWRITINGS, name, rewriting)))[2] == "missed"


def chosen(path: Path, name: str, entry: str) -> dict[str, Any]:
    """One entry of a file of mutants or rewritings."""
    (found,) = [one for one in yaml.safe_load(path.read_text(encoding="utf-8"))[name] if one["name"] == entry]
    return found


def test_every_rewriting_has_its_place() -> None:
    groups = yaml.safe_load(mutation.REWRITINGS.read_text(encoding="utf-8"))
    for name, rewritings in groups.items():
        source = Path(sys.modules[settings_of(name)[0].__module__].__file__ or "").read_text(encoding="utf-8")
        for rewriting in rewritings:
            assert mutation.mutate(source, rewriting) != source


def test_an_error_that_no_class_means_to_raise_is_a_breakdown() -> None:
    class Broken(diffusers.UniPCMultistepScheduler):  # type: ignore[misc]
        def set_timesteps(self, *arguments: Any, **named: Any) -> None:
            if self.config.final_sigmas_type == "sigma_min":
                raise AttributeError("no table")
            super().set_timesteps(*arguments, **named)

    settings = settings_of("flow_unipc")[1]
    finding = first_deviation(lambda: Broken(**settings), lambda found: "AttributeError" in found.got)
    assert finding is not None
    assert "final_sigmas_type=sigma_min" in finding.setting


def test_a_scheduler_whose_path_is_unknown_is_refused() -> None:
    with pytest.raises(BenchError, match="IPNDMScheduler cannot be examined: its config holds no noise schedule"):
        bench.conform(diffusers.IPNDMScheduler)
