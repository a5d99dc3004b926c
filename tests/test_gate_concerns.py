"""Whom a change concerns: classes, settings, calls and pipelines, and whether results got better or worse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.conformance.report import ConformanceReport, Finding, write_baseline
from bench.gate.concerns import Concern, in_maintainers_words
from bench.gate.outcome import GateReport, Outcome
from bench.gate.pipelines import pipelines_of
from bench.gate.report import to_comment, to_page
from bench.gate.schedulers import compare_report

PRINTS = {
    "4 steps": ((0.0,), (1.0,)),
    "5 steps, use_karras_sigmas=True": ((0.0,), (1.0,)),
    "sigmas given": ((0.0,), (1.0,)),
}
REPORT = ConformanceReport(
    "diffusers.schedulers.scheduling_euler_discrete.EulerDiscreteScheduler",
    "EulerDiscreteScheduler",
    {"diffusers": "1"},
    (),
    {"step": 2},
    errors={"Gaussians": {"4": 0.2, "16": 0.1}},
    fingerprints=PRINTS,
)


def concern(tmp_path: Path, after: ConformanceReport, before: ConformanceReport = REPORT) -> Concern:
    """What `compare_report` adds."""
    (found,) = concerns(tmp_path, after, before)
    return found


def concerns(tmp_path: Path, after: ConformanceReport, before: ConformanceReport) -> list[Concern]:
    write_baseline(before, tmp_path / "euler.json", {})
    found: list[Concern] = []
    compare_report(tmp_path / "euler.json", after, found)
    return found


def moved(*names: str) -> dict[str, tuple[tuple[float, ...], ...]]:
    return {name: ((0.0,), (1.5,)) if name in names else states for name, states in PRINTS.items()}


def test_an_unchanged_scheduler_concerns_nobody(tmp_path: Path) -> None:
    assert concerns(tmp_path, REPORT, REPORT) == []


def test_a_change_of_the_defaults_concerns_every_pipeline_that_takes_it(tmp_path: Path) -> None:
    worse = replace(REPORT, fingerprints=moved("4 steps"), errors={"Gaussians": {"4": 0.4, "16": 0.2}})
    words = concern(tmp_path, worse).words
    assert words.startswith("**EulerDiscreteScheduler** (euler): changed with the settings of its baseline.")
    assert "Errors against the exact solution are 2 times larger: results got worse." in words
    assert "pipelines of the installed diffusers take it: " in words
    better = replace(worse, errors={"Gaussians": {"4": 0.199, "16": 0.0995}})
    assert "are 0.50% smaller: results got better." in concern(tmp_path, better).words
    same = replace(worse, errors=REPORT.errors)
    assert "Errors against the exact solution are as before." in concern(tmp_path, same).words


def test_a_change_of_one_setting_or_call_concerns_those_that_use_it(tmp_path: Path) -> None:
    karras = concern(tmp_path, replace(REPORT, fingerprints=moved("5 steps, use_karras_sigmas=True")))
    assert (karras.defaults, karras.settings, karras.calls) == (False, ("use_karras_sigmas=True",), ())
    assert "changed with `use_karras_sigmas=True`." in karras.words
    assert "those whose checkpoint or user sets this" in karras.words
    given = concern(tmp_path, replace(REPORT, fingerprints=moved("sigmas given")))
    assert (given.defaults, given.settings, given.calls) == (False, (), ("set_timesteps(sigmas=…)",))
    uses = pipelines_of("EulerDiscreteScheduler")
    takes = sum(use.takes_sigmas for use in uses)
    assert 0 < takes < len(uses)
    assert f"{takes} of the {len(uses)} pipelines that take it call it so" in given.words


def test_deviations_that_are_new_or_gone_are_counted(tmp_path: Path) -> None:
    finding = Finding("add_noise", "as configured", "1", "2", "No.")
    new = concern(tmp_path, replace(REPORT, findings=(finding,)))
    assert (new.new, new.gone, new.calls, new.defaults) == (1, 0, ("add_noise",), False)
    assert "1 deviations from theory are new." in new.words
    gone = concern(tmp_path, REPORT, replace(REPORT, findings=(finding,)))
    assert "1 are gone." in gone.words


def test_pipelines_are_read_from_their_source() -> None:
    euler = {use.name: use for use in pipelines_of("EulerDiscreteScheduler")}
    assert euler["StableDiffusionXLPipeline"].takes_sigmas
    assert euler["StableDiffusionXLPipeline"].takes_timesteps
    assert not euler["StableDiffusionXLPipeline"].shifts
    assert "FluxPipeline" not in euler
    flow = {use.name: use for use in pipelines_of("FlowMatchEulerDiscreteScheduler")}
    assert flow["FluxPipeline"].shifts
    assert "StableDiffusionXLPipeline" in {use.name for use in pipelines_of("SASolverScheduler")}, "it replaces any"
    assert pipelines_of("MyScheduler") == []


def displaced(level: str, subject: str, verdict: str, note: str = "") -> Outcome:
    return Outcome(level, subject, "displacement", verdict, note=note)


PARTED = "they part at call 1: the denoiser's own output differs by 0.017 (weights); relative displacement by call 0"


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        ([displaced("images", "a", "equal")], ["**Pixels**: every pixel is equal."]),
        (
            [displaced("images", "a", "equal"), displaced("images", "b", "unchanged")],
            ["**Pixels**: images of b differ, all within the limits; 1 are equal."],
        ),
        (
            [displaced("images", "a", "unchanged"), displaced("images", "b", "changed")],
            ["**Pixels**: images of 2 cells differ, beyond the limit in b."],
        ),
        (
            [displaced("latents", "a", "equal"), displaced("images", "a", "changed")],
            [
                "**Pixels** of a differ though latents are equal: the change is in decoding.",
                "**Pixels**: images of a differ, beyond the limit in a.",
            ],
        ),
        (
            [displaced("latents", name, "changed", PARTED) for name in "ab"],
            ["**Latents** of 2 cells: they part at call 1: the denoiser's own output differs (weights)."],
        ),
        (
            [Outcome("quality", "a", name, verdict) for name, verdict in (("fid", "regressed"), ("kid", "improved"))],
            ["**Scores**: 1 of 2 got worse: `fid`.", "**Scores**: 1 of 2 got better: `kid`."],
        ),
        ([displaced("images", "a", "not comparable")], []),
    ],
)
def test_images_are_summarised(outcomes: list[Outcome], words: list[str]) -> None:
    assert list(in_maintainers_words([], outcomes)) == words


def test_the_summary_is_in_the_comment_and_on_the_page() -> None:
    summary = ("**Mine** changed with `<b>x</b>` @all.", *(f"paragraph {i}" for i in range(60)))
    report = GateReport("a", "b", (displaced("images", "a", "changed"),), summary=summary)
    text, page = to_comment(report), to_page(report, [])
    assert "**Mine** changed with `‹b>x‹/b>` @\u200ball." in text
    assert "and 41 more paragraphs: gate.html has them all" in text
    assert "<p>Mine changed with &lt;b&gt;x" in page
    assert "paragraph 59" in page
