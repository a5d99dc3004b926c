"""Pairs of settings: every row of a covering array is run and judged, and a failing one is reduced to its cause."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from bench.conformance import covering
from bench.conformance.breakdown import passed_through, sources_of
from bench.conformance.checks_rounding import check_rounding
from bench.conformance.checks_schedule import check_initial_noise, check_levels
from bench.conformance.checks_steps import check_landing, compare_steps, place, run_case
from bench.conformance.covering import Axis, Row, Values
from bench.conformance.report import Finding
from bench.conformance.subject import OTHER_SIGMAS, Case, Refusal, Subject

_ROUNDS = 4  # of rows: each leaves out the pairs that the last one found refused
_RUN = covering.LARGE  # beyond it the schedule alone is examined: a run of 1000 calls takes as long as all short ones
_THOROUGH = 4  # deviations for which all axes are searched for what cures them
_LAST = ("steps", "dtype", "eta")
_AGAIN = 3  # deviations of one row; those that are known are set back before it is run


class PairChecks:
    """The rows of one class, with the parts of rows that are known to be refused or to deviate."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.axes = subject, covering.axes_of(subject)
        self.sources = sources_of(subject.cls)
        self.meaningless = list(_meaningless(subject, self.axes))
        self.forbidden: list[Values] = list(self.meaningless)
        self.known: list[Values] = []
        self.done: set[Values] = set()
        self.outcomes: dict[Values, Finding | str | None] = {}
        self.cures: dict[str, set[str]] = defaultdict(set)
        self.labels: set[str] = set()
        self.refused: dict[Values, str] = {}

    def findings(self) -> Iterator[Finding]:
        """Yield deviations; each is labelled by the smallest part of its row that has it."""
        for _ in range(_ROUNDS):
            before = len(self.forbidden)
            for row in covering.rows(self.axes, self.forbidden):
                yield from self._judge(row)
            if len(self.forbidden) == before:
                return

    def _judge(self, row: Row) -> Iterator[Finding]:
        for _ in range(_AGAIN):
            row = self._without_known(row)
            key = tuple(row.items())
            if key in self.done or self._says_nothing(row):
                return
            self.done.add(key)
            try:
                finding = self._first(row)
            except Refusal as refusal:
                part = self._smallest(row, "refused")
                self.forbidden.append(part)
                self.refused[part] = str(refusal)
                return
            if finding is None:
                return
            yield self._reduced(row, finding)

    def _reduced(self, row: Row, finding: Finding) -> Finding:
        """Return a deviation as that of the smallest part of its row, and remember the part."""
        cures = self.cures[finding.check] if len(self.known) >= _THOROUGH else None
        part = self._smallest(row, finding.check, cures)
        label = self._label(part)
        bare = tuple((name, value) for name, value in part if value != self.axes[name].all[0])
        self.cures[finding.check] |= {name for name, _ in part} - {name for name, _ in bare}
        self.known.append(bare if label in self.labels else part)  # twice: its context is too narrow
        self.labels.add(label)
        plain = {**{name: axis.all[0] for name, axis in self.axes.items()}, **dict(part)}
        found = self._outcome(plain)
        shown = found if isinstance(found, Finding) else finding
        places = ((self._place(plain), shown.places[0][1]),)
        return Finding(shown.check, label, shown.expected, shown.got, shown.sentence, places)

    def _without_known(self, row: Row) -> dict[str, Any]:
        """Set one value of every part that is known to deviate back to the configured one."""
        changed = dict(row)
        for part in self.known:
            if covering.holds(changed, part) and any(value != self.axes[name].all[0] for name, value in part):
                off = [name for name, value in part if value != self.axes[name].all[0]]
                name = next((name for name in reversed(off) if name not in ("steps", "dtype", "eta")), off[0])
                changed[name] = self.axes[name].all[0]
        return changed

    def _says_nothing(self, row: Row) -> bool:
        return any(covering.holds(row, part) for part in self.meaningless)

    def _outcome(self, row: Row) -> Finding | str | None:
        """Return a row's deviation, None where it has none, or why it says nothing."""
        key = tuple(row.items())
        if key not in self.outcomes:
            try:
                self.outcomes[key] = "meaningless" if self._says_nothing(row) else self._first(row)
            except Refusal:
                self.outcomes[key] = "refused"
        return self.outcomes[key]

    def _fails(self, row: Row, how: str) -> bool:
        """Whether a row has a deviation of a check, or cannot be run where `how` is `refused`."""
        found = self._outcome(row)
        return (how == "refused") if isinstance(found, str) else found is not None and found.check == how

    def _cured(self, row: Row, how: str) -> bool:
        found = self._outcome(row)
        return not isinstance(found, str) if how == "refused" else found is None

    def _smallest(self, row: Row, how: str, cures: Collection[str] | None = None) -> Values:
        """Return the part of a row that makes it fail, whatever the other axes hold.

        Values are set back to the configured ones, one by one, as long as the row still fails; then configured values
        are added that another value would cure, for example an end at sigma 0 that only some solvers refuse. `cures`
        are the axes on which such values are looked for, by default all.
        """
        first = {name: axis.all[0] for name, axis in self.axes.items()}
        few = {**first, **{name: row[name] for name in _LAST if name in row}}
        kept = few if few != row and self._fails(few, how) else dict(row)
        order = sorted(kept, key=lambda name: name not in _LAST)
        changed = True
        while changed:
            changed = False
            for name in order:
                if kept[name] != first[name] and self._fails(tried := {**kept, name: first[name]}, how):
                    kept, changed = tried, True
        part = {name for name in kept if kept[name] != first[name]}
        for name, axis in self.axes.items():
            looked_for = name not in part and name not in _LAST and (cures is None or name in cures)
            if looked_for and any(self._cured({**kept, name: value}, how) for value in axis.all[1:3]):
                part.add(name)
        return tuple((name, kept[name]) for name in kept if name in part)

    def _first(self, row: Row) -> Finding | None:
        """Return the first deviation of a row; an error of the class is one."""
        try:
            return next(iter(self._run(row)), None)
        except Refusal:
            raise
        except Exception as error:
            if not passed_through(error, self.sources):
                raise
            got = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return Finding("step", "", "a run without an error", got, "The scheduler breaks down.")

    def _run(self, row: Row) -> Iterator[Finding]:
        subject, steps, eta = self.subject, row["steps"], row.get("eta")
        overrides = covering.overrides_of(self.axes, row)
        case = subject.prepare(steps, overrides)
        where = place(steps, eta)
        if case.path.curve is None:
            yield from _check_spacing(case, where)
            if not case.config.get("rescale_betas_zero_snr"):  # levels near pure noise drown in rounding
                yield from check_levels(subject, "", case)
            yield from _check_fall(case, where)
            yield from check_initial_noise(subject, "", case)
        elif not all(case.path.curve.holds(u) for u in case.path.positions):
            return  # reported as a level off the curve, by another check
        if steps > _RUN:
            return
        trace = run_case(subject, case, eta)
        judged = all(there.lam > here.lam for here, there in pairwise(case.path.levels)) or not _divides(case)
        if judged:
            yield from compare_steps(case, trace, "", where, eta)
        if case.family is None or case.family.method is None:
            yield from check_landing(subject, "", steps, eta, overrides)
        if judged and row["dtype"] != "float64" and steps <= covering.LARGE:
            yield from check_rounding(subject, subject.prepare(steps, overrides), trace, row["dtype"], "", where, eta)

    def _label(self, part: Values) -> str:
        overrides = covering.overrides_of(self.axes, dict(part))
        if "sigmas" in dict(part):  # only the one that is switched on
            overrides = {name: value for name, value in overrides.items() if value or name not in OTHER_SIGMAS}
        shown = [f"{name}={'[…]' if isinstance(value, list) else value}" for name, value in overrides.items()]
        return ", ".join(shown) or "as configured"

    def _place(self, row: Row) -> str:
        dtype = "" if row["dtype"] == "float64" else f"{row['dtype']}, "
        return f"{dtype}{place(row['steps'], row.get('eta'))}"


def check_pairs(subject: Subject) -> Iterator[Finding]:
    """Check all pairs of the values that a class accepts, in a covering array of about a hundred runs."""
    yield from PairChecks(subject).findings()


def _meaningless(subject: Subject, axes: Mapping[str, Axis]) -> Iterator[Values]:
    """Yield what says nothing: too many steps, noise that is to be read from pure noise, two tables, two ends."""
    grids: list[tuple[Any, int]] = [
        (None, int(subject.config.get("original_inference_steps") or subject.config["num_train_timesteps"]))
    ]
    for name in ("original_inference_steps", "num_train_timesteps"):
        if name in axes:
            grids += [((name, v), int(o[name])) for v, o in axes[name].overrides.items() if o]
    spare = 0 if "original_inference_steps" in subject.config else 1
    for part, most in grids:
        for steps in covering.STEPS:
            if steps > most - spare and (part is not None or "original_inference_steps" not in axes):
                yield (*([part] if part else []), ("steps", steps))
    if "original_inference_steps" in axes:
        first = axes["original_inference_steps"].all[0]
        configured = int(subject.config["original_inference_steps"])
        yield from ((("original_inference_steps", first), ("steps", n)) for n in covering.STEPS if n > configured)
    snr = axes.get("rescale_betas_zero_snr", Axis(""))
    zero = [value for value, o in snr.overrides.items() if o]
    if zero and "prediction_type" in axes:
        for value, o in axes["prediction_type"].overrides.items():
            if {**subject.config, **o}["prediction_type"] == "epsilon":
                yield (("prediction_type", value), ("rescale_betas_zero_snr", zero[0]))
    if "sigma_min" in axes and "final_sigmas_type" in axes:  # both say where the run ends
        ends = [v for v, o in axes["final_sigmas_type"].overrides.items() if v == "sigma_min"]
        yield from ((("sigma_min", axes["sigma_min"].all[1]), ("final_sigmas_type", end)) for end in ends)
    if "trained_betas" in axes:
        table = axes["trained_betas"].all[1]
        for name in ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "rescale_betas_zero_snr"):
            if name in axes:
                yield from (((name, value), ("trained_betas", table)) for value in axes[name].all[1:])


def _divides(case: Case) -> bool:
    """Whether the published method divides by the width of a step in log SNR, which has to differ from 0 then."""
    return case.family is not None and case.family.declared_order is None


def _check_fall(case: Case, where: str) -> Iterator[Finding]:
    """Check that each call leads to less noise; a method that calls twice from one level is left out."""
    if case.family is not None and case.family.calls_per_step > 1:
        return
    ratios = [level.lam for level in case.path.levels]
    for index, (here, there) in enumerate(pairwise(ratios)):
        if not there >= here - 1e-3:
            words = f"Call {index} of {case.steps} leads to a higher noise level."
            got = f"log SNR {2 * here:.4g} to {2 * there:.4g}"
            yield Finding("levels", "", "falling noise", got, words, ((where, math.inf),))
            return


def _check_spacing(case: Case, where: str) -> Iterator[Finding]:
    """Check number, order and range of the timesteps, and their values where the spacing alone defines them."""
    config, family = case.config, case.family
    if family is None or family.timesteps is None or any(config.get(name) for name in OTHER_SIGMAS):
        return
    if config.get("interpolation_type") == "log_linear" or config.get("lambda_min_clipped", -math.inf) > -1e9:
        return
    got, wanted = np.array(case.path.timesteps), family.timesteps(config, case.steps)
    if len(got) != len(wanted):
        words = "There is another number of calls."
        yield Finding("timesteps", "", f"{len(wanted)}", f"{len(got)}", words, ((where, math.inf),))
        return
    slack = 0.5 + 1e-6 if np.all(got == np.round(got)) else 1e-3
    index = int(np.argmax(np.abs(got - wanted)))
    if not abs(got[index] - wanted[index]) <= slack:
        words = f"Timestep {index} of {case.steps} differs from the definition of its spacing."
        yield Finding("timesteps", "", f"{wanted[index]:.6g}", f"{got[index]:.6g}", words, ((where, math.inf),))
