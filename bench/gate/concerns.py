"""Whom a change concerns, in a maintainer's words: classes, settings, calls, pipelines, and if it is better.

Better and worse are measured against exact solutions: the errors of the scheduler as configured, and deviations from
theory that are new or gone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from bench.conformance.report import Change, ConformanceReport, Verdict
from bench.gate.outcome import Outcome
from bench.gate.pipelines import PipelineUse, pipelines_of

_CALLS = {
    "timesteps given": "set_timesteps(timesteps=…)",
    "sigmas given": "set_timesteps(sigmas=…)",
    "mu given": "set_timesteps(mu=…), the dynamic shift",
    "strength=": "image-to-image with a strength",
    "churn": "step(s_churn=…)",
    "set_timesteps(original": "set_timesteps(original_inference_steps=…)",
}
"""What a label of a setting says about the call."""
_CHECKS = {
    "add_noise": "add_noise",
    "add_noise of whole timesteps": "training with whole timesteps",
    "scale_noise of whole timesteps": "training with whole timesteps",
    "state": "a second run on one object, or a begin index",
    "batch": "lists of generators",
    "slices": "several images in a batch",
    "return value": "step(return_dict=…)",
    "round trip": "save_pretrained and from_pretrained",
    "precision": "half precision",
    "device": "moves between devices",
    "get_velocity": "get_velocity",
}
_NEGLIGIBLE = 0.002
"""Relative changes of errors that are rounding."""
_LISTED = 6


@dataclass(frozen=True, slots=True)
class Concern:
    """A changed scheduler: `defaults` where it changed as configured, else what changed are `settings` and `calls`."""

    scheduler: str
    name: str
    defaults: bool
    settings: tuple[str, ...]
    calls: tuple[str, ...]
    errors: float | None
    """Ratio of errors against the exact solution, after to before; None where none changed."""
    new: int
    gone: int

    @property
    def words(self) -> str:
        """One paragraph."""
        return " ".join(
            [f"**{self.name}** ({self.scheduler}):", self._where(), self._better(), self._pipelines()]
        ).strip()

    def _where(self) -> str:
        parts = ["changed with the settings of its baseline"] if self.defaults else []
        if self.settings:
            parts.append(f"{'and ' if parts else 'changed '}with {_some(self.settings)}")
        if self.calls:
            parts.append(f"{'and ' if parts else 'changed '}in {_some(self.calls)}")
        return f"{', '.join(parts)}." if parts else "changed."

    def _better(self) -> str:
        said = []
        if self.errors is not None and self.defaults:
            word = "larger: results got worse" if self.errors > 1 else "smaller: results got better"
            said.append(f"errors against the exact solution are {_times(self.errors)} {word}")
        elif self.defaults:
            said.append("errors against the exact solution are as before")
        if self.new:
            said.append(f"{self.new} deviations from theory are new")
        if self.gone:
            said.append(f"{self.gone} are gone")
        text = "; ".join(said)
        return f"{text[:1].upper()}{text[1:]}." if text else "Nothing became better or worse against theory."

    def _pipelines(self) -> str:
        uses = pipelines_of(self.name)
        if not uses:
            return "No pipeline of the installed diffusers declares it."
        if self.defaults:
            return f"{len(uses)} pipelines of the installed diffusers take it: {_names(uses)}."
        if self.settings:
            return (
                f"Of the {len(uses)} pipelines that take it those whose checkpoint or user sets this: {_names(uses)}."
            )
        chosen = [use for use in uses if self._passes(use)]
        return f"{len(chosen)} of the {len(uses)} pipelines that take it call it so: {_names(chosen)}."

    def _passes(self, use: PipelineUse) -> bool:
        """Whether a pipeline has the argument that this is about; any has what is not an argument of a pipeline."""
        about = {
            _CALLS["sigmas given"]: use.takes_sigmas,
            _CALLS["timesteps given"]: use.takes_timesteps,
            _CALLS["mu given"]: use.shifts,
        }
        return any(about.get(call, True) for call in self.calls)


def concern_of(
    scheduler: str,
    report: ConformanceReport,
    baseline: Mapping[str, Any],
    verdicts: Sequence[Verdict],
    changes: Sequence[Change],
) -> Concern | None:
    """Return what changed in a scheduler, None where nothing did."""
    new = [verdict.finding for verdict in verdicts if verdict.fails]
    gone = [verdict.finding for verdict in verdicts if verdict.status == "fixed"]
    if not (new or gone or changes):
        return None
    labels = [change.name for change in changes] + [finding.setting for finding in (*new, *gone)]
    calls = dict.fromkeys(words for label in labels for mark, words in _CALLS.items() if mark in label)
    calls |= dict.fromkeys(_CHECKS[finding.check] for finding in (*new, *gone) if finding.check in _CHECKS)
    settings = dict.fromkeys(name for label in labels for name in _settings_in(label))
    plain = [label for label in labels if not _settings_in(label) and not any(mark in label for mark in _CALLS)]
    checks = [finding for finding in (*new, *gone) if finding.check not in _CHECKS and finding.setting in plain]
    defaults = any(change.name in plain for change in changes) or bool(checks)
    ratio = _ratio(baseline.get("errors", {}), report.errors)
    name = report.scheduler.rpartition(".")[2]
    return Concern(scheduler, name, defaults, tuple(settings), tuple(calls), ratio, len(new), len(gone))


def _settings_in(label: str) -> list[str]:
    """The settings that a label names, as `name=value`."""
    found = re.findall(r"\w+=(?:\[[^\]]*\]|[^,\s]+)", re.sub(r"\w+\([^)]*\)", "", label))
    return [text for text in found if not text.startswith("strength=")]


def _ratio(before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]) -> float | None:
    """The geometric mean of the errors' ratios over targets and steps; None where all are as before."""
    logs = [
        math.log(now / old)
        for target, errors in before.items()
        for steps, old in errors.items()
        if (now := after.get(target, {}).get(steps)) is not None and old > 0 and now > 0 and math.isfinite(now / old)
    ]
    if not logs or max(map(abs, logs)) < _NEGLIGIBLE:
        return None
    return math.exp(fmean(logs))


def _times(ratio: float) -> str:
    size = max(ratio, 1 / ratio)
    return f"{size:.3g} times" if size >= 1.1 else f"{(size - 1):.2%}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_LISTED])
    return f"{shown} and {len(names) - _LISTED} more" if len(names) > _LISTED else shown


def _names(uses: Sequence[PipelineUse]) -> str:
    names = [use.name for use in uses]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED])}{more}" if names else "none"


def in_maintainers_words(concerns: Iterable[Concern], outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """Paragraphs for the top of the report: schedulers, then latents, pixels and scores."""
    return (*(concern.words for concern in concerns), *_of_images(outcomes))


def _of_images(outcomes: Sequence[Outcome]) -> Iterator[str]:
    latents = [outcome for outcome in outcomes if outcome.level == "latents"]
    images = [o for o in outcomes if o.level == "images" and o.quantity == "displacement"]
    moved = [outcome for outcome in images if outcome.verdict in ("unchanged", "changed")]
    for reason in dict.fromkeys(_reason(outcome) for outcome in latents if outcome.verdict in ("unchanged", "changed")):
        cells = [outcome for outcome in latents if _reason(outcome) == reason]
        yield f"**Latents** of {_cells(cells)}: {reason}."
    still = {outcome.subject for outcome in latents if outcome.verdict == "equal"}
    if decoded := [outcome for outcome in moved if outcome.subject in still]:
        yield f"**Pixels** of {_cells(decoded)} differ though latents are equal: the change is in decoding."
    if images and all(outcome.verdict == "equal" for outcome in images):
        yield "**Pixels**: every pixel is equal."
    elif moved:
        beyond = [outcome for outcome in moved if outcome.verdict == "changed"]
        extent = f"beyond the limit in {_cells(beyond)}" if beyond else "all within the limits"
        equal = sum(outcome.verdict == "equal" for outcome in images)
        yield f"**Pixels**: images of {_cells(moved)} differ, {extent}" + (f"; {equal} are equal." if equal else ".")
    quality = [outcome for outcome in outcomes if outcome.level == "quality"]
    for verdict, words in (("regressed", "got worse"), ("improved", "got better")):
        if found := [outcome for outcome in quality if outcome.verdict == verdict]:
            yield f"**Scores**: {len(found)} of {len(quality)} {words}: {_some([o.quantity for o in found])}."


def _reason(outcome: Outcome) -> str:
    """Why latents differ, without the numbers of this cell."""
    return re.sub(r" by [\d.e+-]+", "", outcome.note.partition("; relative")[0]) if outcome.verdict != "equal" else ""


def _cells(outcomes: Sequence[Outcome]) -> str:
    names = list(dict.fromkeys(outcome.subject for outcome in outcomes))
    return names[0] if len(names) == 1 else f"{len(names)} cells"
