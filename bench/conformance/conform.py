"""All checks in order: a function that makes a scheduler → a report."""

from __future__ import annotations

import logging
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.conformance import (
    checks_arguments,
    checks_consistency,
    checks_convergence,
    checks_flow,
    checks_forms,
    checks_limits,
    checks_noise,
    checks_noising,
    checks_pairs,
    checks_rounding,
    checks_schedule,
    checks_sequences,
    checks_shapes,
    checks_use,
)
from bench.conformance.baseline import causes_of_diffusers, compared, explained, load_causes, read_baseline
from bench.conformance.breakdown import passed_through, sources_of
from bench.conformance.checks_steps import check_finite, check_landing, check_steps
from bench.conformance.families import family_of
from bench.conformance.fingerprints import fingerprints
from bench.conformance.given import check_examinable, check_family, maker_of
from bench.conformance.report import ConformanceReport, Finding, Order, breakdown, merge
from bench.conformance.settings import Variation, check_effect, variations
from bench.conformance.subject import Case, Refusal, Subject
from bench.conformance.targets import MIXTURE
from bench.conformance.versions import installed_diffusers, untried
from bench.records.errors import BenchError

ETAS = tuple(round(0.1 * tenth, 1) for tenth in range(11))
_COUNTS = (1, 2, 3, 4, 5, 7, 8, 16, 32, 64)
FEW = (2, 5, 7)  # with COMBINED: every remainder modulo 2 and 3, divisors of 1000 and others, both sides of 15
COMBINED = (6, 17)
LANDING = (4, 9)


class _Enough(Exception):  # noqa: N818
    """Ends the checks early: the finding that was searched for has been made."""


class _Tally:
    """Collects findings, counts checks, lists refusals and the checks that an error of this package ended.

    It stops at the first finding for which `enough` is true.
    """

    def __init__(self, subject: Subject, enough: Callable[[Finding], bool] | None = None) -> None:
        self.enough = enough
        self.sources = sources_of(subject.cls)
        self.findings: list[Finding] = []
        self.checked: Counter[str] = Counter()
        self.refused: dict[str, None] = {}
        self.origins: dict[str, str] = {}  # the check that made the first finding of each key
        self.unfinished: dict[str, None] = {}

    def add(self, check: str, findings: Iterable[Finding], setting: str) -> None:
        """Run one check to its end."""
        self.checked[check] += 1
        before = len(self.findings)
        try:
            self.findings += findings
        except Refusal as refusal:
            self.refuse(check, refusal, setting)
        except Exception as error:
            got = f"{type(error).__name__}: {' '.join(str(error).split())}"
            if passed_through(error, self.sources):
                self.findings.append(breakdown(check, setting, got))
            else:
                self.unfinished[f"{check} ({setting}): {got}"] = None
        self._note(check, before)

    def refuse(self, check: str, refusal: Refusal, setting: str) -> None:
        """Note a refusal; one by an error that no class means to raise is a breakdown."""
        before = len(self.findings)
        if refusal.breakdown:
            self.findings.append(breakdown(check, setting, refusal.breakdown))
        else:
            self.refused[f"{setting}: {refusal}"] = None
        self._note(check, before)

    def _note(self, check: str, first: int) -> None:
        for finding in self.findings[first:]:
            self.origins.setdefault(finding.key, check)
        if self.enough is not None and any(self.enough(finding) for finding in self.findings[first:]):
            raise _Enough


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings of libraries, which would bury the findings, and restore the number of threads afterwards."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), torch.no_grad(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def conform(scheduler: Any, family: str | None = None, baseline: str | Path | None = None) -> ConformanceReport:
    """Check a scheduler against exact solutions: float64, CPU, no network, the same verdict on every machine.

    `scheduler` is a function that returns a new object with diffusers' interface at each call, or a class that is
    created without arguments, or an object, which is copied for each use. `family` names the diffusers class whose
    published method it claims to be, where its own name or bases do not say so; a class of no known family gets only
    the checks that need no published form. `baseline` is a JSON file that `ConformanceReport.write` or `tcd-bench
    conform write=…` wrote: what it knows does not count.

    Returns a report. `report.passed` is whether nothing deviates, or with a baseline nothing that is new or grown, and
    no trajectory changed; `print(report)` lists what deviates. Raises BenchError, one sentence, for anything but a
    scheduler, for a scheduler that no theory here covers, and for an unknown family or an unreadable baseline.
    """
    begun = time.perf_counter()
    if line := untried():
        warnings.warn(line, stacklevel=2)
    check_family(family)
    known = None if baseline is None else Path(baseline)
    before = None if known is None else read_baseline(known)
    with quiet():
        subject = subject_of(scheduler, family)
        tally, orders = _Tally(subject), list[Order]()
        _check_all(subject, tally, orders)
        errors = checks_convergence.global_errors(subject)
        prints, looser = fingerprints(subject)
    report = ConformanceReport(
        scheduler=f"{subject.cls.__module__}.{subject.cls.__qualname__}",
        family=subject.family.name if subject.family else None,
        versions=tested_versions(),
        findings=merge(tally.findings),
        checked=dict(tally.checked),
        refused=tuple(tally.refused),
        orders=tuple(orders),
        errors=errors,
        fingerprints=prints,
        looser=looser,
        parameters=tuple(sorted(subject.parameters)),
        duration_s=time.perf_counter() - begun,
        settings=_settings_of(subject),
        origins=tally.origins,
        unfinished=tuple(tally.unfinished),
    )
    if known is None or before is None:
        return explained(report)
    return compared(report, before, load_causes(known.parent) or causes_of_diffusers())


def subject_of(scheduler: Any, family: str | None = None) -> Subject:
    """Return a scheduler that can be examined; raises BenchError with the reason for any other."""
    make = maker_of(scheduler)
    one = make()
    check_examinable(one, family_of(one, family))
    subject, why = Subject(make, family, one), ""
    for steps in (4, 1, 2, 10):
        try:
            case = subject.prepare(steps)
        except Refusal as refusal:
            why = why or str(refusal)
            continue
        timesteps = case.path.timesteps
        if case.path.curve is None and len(timesteps) > 1 and timesteps[0] < timesteps[-1]:
            raise BenchError(
                f"{subject.cls.__name__} cannot be examined: its timesteps rise, from data to noise; the exact "
                "solutions are of runs from noise to data"
            )
        return subject
    raise BenchError(f"{subject.cls.__name__} cannot be examined: its set_timesteps refuses every count tried ({why})")


def _settings_of(subject: Subject) -> dict[str, Any]:
    """Return the class's path and its settings as configured, with which it can be examined again."""
    kept = {name: value for name, value in subject.config_of(subject.base).items() if name in subject.parameters}
    return {"_target_": f"{subject.cls.__module__}.{subject.cls.__qualname__}", **kept}


def first_deviation(make_scheduler: Callable[[], Any], enough: Callable[[Finding], bool]) -> Finding | None:
    """Run `conform` until the first deviation for which `enough` is true; None when there is none."""
    with quiet():
        subject = subject_of(make_scheduler)
        tally = _Tally(subject, enough)
        try:
            _check_all(subject, tally, [])
        except _Enough:
            return next(finding for finding in tally.findings if enough(finding))
    return None


def _check_all(subject: Subject, tally: _Tally, orders: list[Order]) -> None:
    _check_base(subject, tally)
    for variation in variations(subject):
        before = len(tally.refused)
        _check_variation(subject, tally, variation)
        for refusal in list(tally.refused)[before:][:1]:
            declared = checks_limits.check_declared(subject, variation, refusal.partition(": ")[2])
            tally.add("refusals", declared, variation.label)
    tally.add("order", checks_convergence.check_order(subject, orders), "order")
    _check_more(subject, tally, orders)
    known = {(finding.check, finding.setting) for finding in tally.findings}
    tally.add("pairs", checks_pairs.check_pairs(subject, known), "pairs of settings")


def _check_more(subject: Subject, tally: _Tally, orders: list[Order]) -> None:
    """Check convergence, forms of the input, and sequences of calls."""
    base, last = "as configured", 0.3 if subject.has_eta else None
    tally.add("convergence", checks_consistency.check_convergence(subject, base, orders), base)
    for eta in (0.0, 1.0) if subject.has_eta else (None,):
        tally.add("law", checks_consistency.check_law(subject, base, eta, orders), base)
    tally.add("shape", checks_shapes.check_shapes(subject, base, last), base)
    tally.add("batch", checks_shapes.check_one_generator(subject, base, last), base)
    tally.add("form", checks_forms.check_forms(subject, base, last), base)
    tally.add("interface", checks_forms.check_self(subject, base), base)
    tally.add("variance_noise", checks_shapes.check_given_noise(subject, base), base)
    tally.add("learned variance", checks_shapes.check_learned_variance(subject, base), base)
    tally.add("round trip", checks_shapes.check_kept_settings(subject, base), base)
    tally.add("sequences", checks_sequences.check_sequences(subject, base, last), base)


def _check_base(subject: Subject, tally: _Tally) -> None:
    base = "as configured"
    some: tuple[float | None, ...] = (0.0, 0.3, 1.0) if subject.has_eta else (None,)
    tally.add("noise table", checks_schedule.check_table(subject, base), base)
    if subject.curve() is None:
        tally.add("timesteps", checks_schedule.check_timesteps(subject, base), base)
    else:
        tally.add("set_shift", checks_flow.check_set_shift(subject, base), base)
    for steps in _COUNTS:
        for eta in ETAS if subject.has_eta and steps in (4, 5) else some:
            tally.add("step", check_steps(subject, base, steps, eta), base)
    for steps in LANDING:
        if subject.curve() is None or steps == LANDING[0]:
            _check_levels(subject, tally, base, steps, None, set())
        for eta in some:
            tally.add("landing", check_landing(subject, base, steps, eta), base)
    tally.add("step", check_steps(subject, base, 8, some[-1], target=MIXTURE), base)
    for eta in some:
        for steps in (1, 4):
            tally.add("noise", checks_noise.check_noise(subject, base, steps, eta), base)
        tally.add("batch", checks_noise.check_generators(subject, base, 4, eta), base)
        tally.add("slices", checks_use.check_slices(subject, base, eta), base)
    last = some[1] if len(some) > 1 else None
    tally.add("state", checks_use.check_use(subject, base, last), base)
    tally.add("return value", checks_use.check_calls(subject, base, last), base)
    tally.add("schedule arguments", checks_use.check_schedule_arguments(subject, base, last), base)
    tally.add("arguments", checks_arguments.check_arguments(subject, base), base)
    tally.add("device", checks_use.check_device(subject, base), base)
    tally.add("device", checks_use.check_offloading(subject, base), base)
    tally.add("device", checks_use.check_double(subject, base), base)
    tally.add("add_noise", checks_noising.check_noising(subject, base), base)
    tally.add("add_noise", checks_noising.check_training_timesteps(subject, base), base)
    tally.add("refusals", checks_limits.check_refusals(subject, base), base)
    tally.add("round trip", checks_limits.check_round_trip(subject, base, some[0]), base)
    tally.add("precision", checks_rounding.check_precision(subject, base, 8, last), base)


def _check_levels(
    subject: Subject, tally: _Tally, label: str, steps: int, overrides: Mapping[str, Any] | None, changed: set[str]
) -> Case | None:
    try:
        case = subject.prepare(steps, overrides)
    except Refusal as refusal:
        tally.refuse("levels", refusal, label)
        return None
    curve = case.path.curve
    if curve is None:
        tally.add("levels", checks_schedule.check_levels(subject, label, case), label)
        tally.add("initial noise", checks_schedule.check_initial_noise(subject, label, case), label)
        return case
    if changed <= checks_flow.SPACING:
        tally.add("training levels", checks_flow.check_own_table(subject, label, overrides), label)
        eta = 0.0 if subject.has_eta else None
        tally.add("given levels", checks_flow.check_given(subject, label, eta, overrides), label)
        tally.add("set again", checks_flow.check_again(subject, label, overrides), label)
        counts = checks_flow.ALL if overrides is None else checks_flow.SOME
        tally.add("spacing", checks_flow.check_spacing(subject, label, overrides, counts), label)
        if overrides and all(curve.holds(u) for u in case.path.positions):
            tally.add("scale_noise", checks_noising.check_noising(subject, label, overrides), label)
    return case if all(curve.holds(u) for u in case.path.positions) else None


SCHEDULE = {"timestep_spacing", "num_train_timesteps", "original_inference_steps", "steps_offset"}
TABLE = {"beta_schedule", "beta_start", "beta_end", "num_train_timesteps", "trained_betas", "rescale_betas_zero_snr"}


def _check_variation(subject: Subject, tally: _Tally, variation: Variation) -> None:
    label, overrides = variation.label, variation.overrides
    eta = 0.3 if subject.has_eta else None
    if _check_levels(subject, tally, label, 6, overrides, set(variation.changed)) is None:
        return
    if TABLE & set(variation.changed) and subject.curve() is None:
        tally.add("noise table", checks_schedule.check_table(subject, label, overrides), label)
    if SCHEDULE & set(variation.changed) and subject.curve() is None:
        tally.add("timesteps", checks_schedule.check_timesteps(subject, label, overrides), label)
    few = COMBINED if len(variation.changed) > 1 else FEW
    for steps in (*few, 14, 15) if "lower_order_final" in overrides else few:
        tally.add("step", check_steps(subject, label, steps, eta, overrides), label)
    if set(variation.changed) == {"beta_schedule"} and subject.curve() is None:
        tally.add("step", check_finite(subject, label, eta, overrides), label)
    if len(variation.changed) == 1 and not {"clip_sample", "thresholding"} & set(overrides):
        tally.add("landing", check_landing(subject, label, 5, eta, overrides), label)
    if _draws(subject, overrides) and not _draws(subject, {}) and f"{label}: " not in "\n".join(tally.refused):
        tally.add("noise", checks_noise.check_noise(subject, label, 4, eta, overrides), label)
        tally.add("batch", checks_noise.check_generators(subject, label, 4, eta, overrides), label)
        tally.add("batch", checks_shapes.check_one_generator(subject, label, eta, overrides), label)
    tally.add("setting ignored", check_effect(subject, variation, eta), label)


def _draws(subject: Subject, overrides: Mapping[str, Any]) -> bool:
    return subject.family is not None and subject.family.stochastic({**subject.config, **overrides}, 0.0)


def tested_versions() -> dict[str, str]:
    """Return the versions of the libraries whose code is checked; without diffusers where it is not installed."""
    found = {} if (diffusers := installed_diffusers()) is None else {"diffusers": diffusers}
    return {**found, "torch": str(torch.__version__).partition("+")[0]}
