"""Faults of 2025 and 2026: edits that fit the installed source, a few that are found here, the table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.conformance import checks_noising, checks_schedule, checks_steps, checks_use
from bench.conformance.conform import subject_of

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "conformance"))

from replay_faults import edited_class, read_replays, settings_of  # noqa: E402

CASES = {f"{case['number']} {case.get('scheduler', '')}".strip(): case for case in read_replays()}
ASKED = (13243, 14461, 13677, 13778, 12771, 14213, 10740, 13868, 13489, 10644, 10734, 11749)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "edits" in case])
def test_the_edits_of_a_replay_fit_the_installed_source(name: str) -> None:
    assert issubclass(edited_class(CASES[name]), object)


def found(case: dict[str, Any], check: Any) -> tuple[list[str], list[str]]:
    """What a check says of the installed class and of the edited one."""
    import diffusers

    class_name, settings = settings_of(case)
    sides = (getattr(diffusers, class_name), edited_class(case))
    return tuple(
        [str(finding) for finding in check(subject_of(lambda cls=cls: cls(**settings)), "as configured")]
        for cls in sides
    )  # type: ignore[return-value]


def test_sigmas_on_the_cpu_are_found_without_a_gpu() -> None:
    sound, faulty = found(CASES["13489 unipc"], checks_use.check_offloading)
    assert not sound
    assert len(faulty) == 1
    assert "as with offloading" in faulty[0]


def test_timesteps_that_an_mps_device_cannot_take_are_named() -> None:
    sound, faulty = found(CASES["10549 heun"], checks_use.check_double)
    assert not sound
    assert len(faulty) == 3
    assert "timesteps that an MPS device, which has no float64, cannot take" in faulty[0]


def test_a_break_down_at_a_single_number_of_steps_is_found() -> None:
    cosine = {"beta_schedule": "squaredcos_cap_v2"}
    faulty, sound = found(
        CASES["14213 euler_ancestral"],
        lambda subject, label: checks_steps.check_finite(subject, label, None, cosine),
    )
    assert not sound
    assert len(faulty) == 1
    assert "NaN or infinity after call 0" in faulty[0]


def test_whole_timesteps_that_are_not_found_are_named() -> None:
    faulty, sound = found(CASES["11749 flow_euler"], checks_noising.check_training_timesteps)
    assert not sound
    assert len(faulty) == 1
    assert "expected 1000 noise levels, got IndexError at 10, the first of them 127" in faulty[0]


def test_a_proposed_change_of_leading_spacing_is_named_for_what_it_does() -> None:
    leading = {"timestep_spacing": "leading"}
    sound, changed = found(
        CASES["13868 unipc"], lambda subject, label: checks_schedule.check_timesteps(subject, label, leading)
    )
    assert not any("Timestep 0 of" in words for words in sound)
    assert any("Timestep 0 of" in words for words in changed)


def test_the_committed_table_has_every_replay_and_each_is_named_or_argued_away() -> None:
    kept = json.loads((ROOT / "results" / "history" / "faults.json").read_text(encoding="utf-8"))["replays"]
    assert {(case["number"], case["class"]) for case in kept} == {
        (str(case["number"]), settings_of(case)[0]) for case in CASES.values()
    }
    assert {str(number) for number in ASKED} <= {case["number"] for case in kept}
    for case in kept:
        assert case.get("named") or case.get("cannot"), case["number"]
    page = (ROOT / "results" / "history" / "faults.md").read_text(encoding="utf-8")
    assert all(f"| {case['number']} | {case['title']} |" in page for case in kept)
