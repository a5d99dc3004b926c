"""Forms of the input, sequences of calls, pairs of settings, lower precision: faults are found, right classes pass."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import diffusers
import pytest
import yaml

from bench.conformance import (
    checks_forms,
    checks_noise,
    checks_rounding,
    checks_sequences,
    checks_shapes,
    checks_use,
    covering,
)
from bench.conformance.checks_pairs import PairChecks, PointChecks
from bench.conformance.checks_rounding import check_rounding
from bench.conformance.checks_steps import run_case
from bench.conformance.conform import quiet
from bench.conformance.report import Finding
from bench.conformance.subject import Subject

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "conformance"))
import mutation_score as mutation  # noqa: E402

KINDS: dict[str, list[dict[str, Any]]] = yaml.safe_load(mutation.KINDS.read_text(encoding="utf-8"))
OTHERS: dict[str, list[dict[str, Any]]] = yaml.safe_load(mutation.OTHERS.read_text(encoding="utf-8"))


def subject(name: str, kind: str | None = None, label: str = "") -> Subject:
    """A scheduler of conf/scheduler, with a fault of tests/mutants/kinds.yaml or without."""
    faults = [fault for fault in KINDS.get(name, []) if fault["kind"] == kind and label in fault["name"]]
    return Subject(mutation.maker(name, faults[0] if kind else None))


def found(checked: Subject, *names: str) -> list[Finding]:
    with quiet():
        results: list[Finding] = []
        eta = 0.3 if checked.has_eta else None
        for name in names:
            module = checks_sequences if name == "check_sequences" else checks_shapes
            arguments = (eta,) if name in ("check_shapes", "check_one_generator", "check_sequences") else ()
            results += getattr(module, name)(checked, "as configured", *arguments)
        return results


def test_every_fault_has_its_place_and_a_kind() -> None:
    assert sum(map(len, KINDS.values())) >= 120
    for name, faults in KINDS.items():
        target = yaml.safe_load((ROOT / "conf" / "scheduler" / f"{name}.yaml").read_text(encoding="utf-8"))["_target_"]
        source = Path(sys.modules[getattr(diffusers, target.rpartition(".")[2]).__module__].__file__ or "").read_text()
        for fault in faults:
            assert fault["kind"]
            assert mutation.mutate(source, fault) != source


@pytest.mark.parametrize(
    ("name", "kind", "check"),
    [
        ("euler", "five dimensions", "check_shapes"),
        ("ddpm", "list of one generator", "check_one_generator"),
        ("ddim", "argument of step", "check_given_noise"),
        ("ddpm", "learned variance", "check_learned_variance"),
        ("unipc", "save and load", "check_kept_settings"),
        ("euler", "sequence of calls", "check_sequences"),
        ("lms", "copies", "check_sequences"),
        ("euler", "table changed by add_noise", "check_sequences"),
        ("euler", "copies", "check_sequences"),
        ("flow_unipc", "copies", "check_sequences"),
    ],
)
def test_a_fault_of_use_is_found_and_the_right_class_passes(name: str, kind: str, check: str) -> None:
    assert found(subject(name, kind), check)
    assert not found(subject(name), check)


@pytest.mark.parametrize(
    ("name", "fault", "check"),
    [
        ("tcd", "a batch of one", "check_calls"),
        ("euler", "channels last", "check_forms"),
        ("euler", "returns float32", "check_precision"),
        ("ddim", "large states", "check_forms"),
        ("ddim", "in place of the data", "check_calls"),
        ("heun", "order of one", "check_self"),
        ("dpmpp_2m", "lost on the way", "check_self"),
        ("ddpm", "plain number", "check_forms"),
        ("euler_ancestral", "same noise", "check_noise"),
        ("flow_euler", "cuts them off", "check_forms"),
        ("lcm", "number of steps", "check_self"),
    ],
)
def test_a_fault_of_form_or_interface_is_found_and_the_right_class_passes(name: str, fault: str, check: str) -> None:
    (mutant,) = [one for one in OTHERS[name] if fault in one["name"]]
    for checked, right in ((Subject(mutation.maker(name, mutant)), False), (subject(name), True)):
        eta = 0.3 if checked.has_eta else None
        arguments: dict[str, tuple[Any, ...]] = {
            "check_calls": (checks_use, eta),
            "check_forms": (checks_forms, eta),
            "check_self": (checks_forms,),
            "check_precision": (checks_rounding, 8, eta),
            "check_noise": (checks_noise, 4, eta),
        }
        module, *given = arguments[check]
        with quiet():
            findings = [one.check for one in getattr(module, check)(checked, "as configured", *given)]
        assert (set(findings) <= {"last noise"}) == right, findings


def test_the_message_of_a_sequence_is_the_shortest_one() -> None:
    (finding,) = found(subject("dpmpp_2s"), "check_sequences")
    assert finding.check == "sequence: set_timesteps"
    assert "Shortest sequence: create(), set_timesteps(1)." in finding.sentence


def test_a_class_that_pickle_cannot_find_by_name_is_not_blamed() -> None:
    class Local(diffusers.DDIMScheduler):  # type: ignore[misc]
        pass

    assert "pickle" not in checks_sequences.ways_of(Local)
    assert "pickle" in checks_sequences.ways_of(diffusers.DDIMScheduler)
    assert not found(Subject(Local), "check_sequences")


def test_a_missing_library_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(ImportError, match=r"sequences of calls need hypothesis: pip install tcd-bench\[conform\]"):
        found(subject("tcd"), "check_sequences")
    monkeypatch.setitem(sys.modules, "covertable", None)
    with pytest.raises(ImportError, match=r"pairs of settings need covertable: pip install tcd-bench\[conform\]"):
        covering._array.__wrapped__()


def pairs_of(rows: Iterable[covering.Row]) -> set[tuple[tuple[str, Any], ...]]:
    return {pair for row in rows for pair in combinations(row.items(), 2)}


@pytest.mark.parametrize("name", ["euler_ancestral", "tcd", "flow_euler"])
def test_every_pair_that_means_something_occurs_in_a_row(name: str) -> None:
    checks = PairChecks(subject(name))
    rows = list(covering.rows(checks.axes))
    assert rows == list(covering.rows(checks.axes))
    every = {
        ((one, a), (other, b))
        for one, other in combinations(checks.axes, 2)
        for a in checks.axes[one].all
        for b in checks.axes[other].all
    }
    assert pairs_of(rows) == every
    possible = [row for row in (covering.without(checks.axes, row, checks.parts) for row in rows) if row]
    assert not any(covering.holds(row, part) for row in possible for part in checks.parts)
    more = covering.missing(checks.axes, possible, checks.parts)
    assert not any(covering.holds(row, part) for row in more for part in checks.parts)
    lost = every - pairs_of([*possible, *more])
    plain = {name: axis.all[0] for name, axis in checks.axes.items()}
    for pair in lost:  # whatever the other axes hold, the pair means nothing
        fixed = {name for name, _ in pair}
        assert covering.without(checks.axes, {**plain, **dict(pair)}, checks.parts, fixed) is None


def test_a_fault_of_two_settings_is_reduced_to_them() -> None:
    with quiet():
        checks = PairChecks(subject("euler_ancestral", "pair of settings"))
        first = {name: axis.all[0] for name, axis in checks.axes.items()}
        pair = {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}
        row = {**first, **pair, "beta_schedule": "linear", "steps": 7, "dtype": "float32"}
        (finding, *others) = checks._judge(row)
        assert not others
        assert finding.check == "step"
        assert finding.setting == "prediction_type=v_prediction, timestep_spacing=trailing"
        assert not list(PairChecks(subject("euler_ancestral"))._judge(row))


def test_a_known_deviation_of_steps_hides_no_fault_beside_it() -> None:
    name, setting = "flow_dpmpp_2m", "solver_order=3, flow_shift=3.0"
    (mutant,) = [one for one in KINDS[name] if one["name"] == "solver_order is 3 and flow_shift"]
    for checked, right in ((Subject(mutation.maker(name, mutant)), False), (subject(name), True)):
        with quiet():
            pairs = PairChecks(checked)
            pairs.unlike.append((("solver_order", "3"),))
            found = [one.setting for one in PointChecks(pairs).findings()]
        assert not found if right else setting in found


@pytest.mark.parametrize("name", ["ddim", "euler", "tcd", "unipc", "flow_euler"])
def test_lower_precision_is_judged_by_its_own_rounding_with_the_same_noise(name: str) -> None:
    faulty = subject(name, "half precision") if name in KINDS else None
    for checked, right in ((subject(name), True), *([(faulty, False)] if faulty else [])):
        eta = 1.0 if checked.has_eta else None
        with quiet():
            trace = run_case(checked, checked.prepare(6), eta)
            rounds = [
                list(check_rounding(checked, checked.prepare(6), trace, dtype, "as configured", "6 steps", eta))
                for dtype in ("float32", "bfloat16", "float16")
            ]
        assert [not findings for findings in rounds] == [True, True, right]
