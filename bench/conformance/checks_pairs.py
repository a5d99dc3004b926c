"""Pairs of settings: every row of a covering array is run and judged, and a failing one is reduced to its cause."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np

from bench.conformance import covering
from bench.conformance.breakdown import passed_through, sources_of
from bench.conformance.checks_rounding import check_rounding
from bench.conformance.checks_schedule import check_initial_noise, check_levels
from bench.conformance.checks_steps import compare_landing, compare_steps, keeps_point, place, run_each
from bench.conformance.covering import Axis, Row, Values
from bench.conformance.families import allows
from bench.conformance.report import Finding, breakdown
from bench.conformance.subject import OTHER_SIGMAS, Case, Refusal, Subject
from bench.conformance.targets import GAUSSIAN, POINT

_ROUNDS = 3  # of rows: each holds the pairs that the last one could not, for what it found refused or deviating
_SPACING = ("timestep_spacing", "steps_offset")
_RUN = covering.LARGE  # beyond it the schedule alone is examined: a run of 1000 calls takes as long as all short ones
_THOROUGH = 4  # deviations for which all axes are searched for what cures them
_OF_STEPS = ("step", "predicted data")  # what differs from the published method alone
_AGAIN = 4  # deviations of one row, each of which is set back before it is run again


class PairChecks:
    """The rows of one class, with the parts of rows that are known to be refused or to deviate."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.axes = subject, covering.axes_of(subject)
        self.first = {name: axis.all[0] for name, axis in self.axes.items()}
        self.sources = sources_of(subject.cls)
        self.meaningless = list(_meaningless(subject, self.axes))
        self.parts: list[Values] = list(self.meaningless)
        self.judged: list[Row] = []
        self.scheduled: list[Row] = []  # rows of so many steps that none was made
        self.outcomes: dict[Values, Finding | str | None] = {}
        self.cures: dict[str, set[str]] = defaultdict(set)
        self.labels: dict[tuple[str, str], list[Values]] = defaultdict(list)
        self.refused: dict[Values, str] = {}
        self.unlike: list[Values] = []  # parts at which the steps differ from the published method

    def findings(self) -> Iterator[Finding]:
        """Yield deviations; each is labelled by the smallest part of its row that has it, and no label comes twice."""
        rows = list(covering.rows(self.axes))
        for _ in range(_ROUNDS):
            for row in rows:
                yield from self._judge(row)
            rows = covering.missing(self.axes, self.judged, self.parts, self.scheduled)

    def _judge(self, row: Row) -> Iterator[Finding]:
        for _ in range(_AGAIN):
            possible = covering.without(self.axes, row, self.parts)
            if possible is None:
                return
            row, found = possible, self._outcome(possible)
            if isinstance(found, str):
                part = self._smallest(row, "refused")
                self.parts.append(part)
                self.refused[part] = found
            elif found is None:
                (self.scheduled if row["steps"] > _RUN else self.judged).append(row)
                return
            else:
                yield from self._reduced(row, found)

    def _reduced(self, row: Row, finding: Finding) -> Iterator[Finding]:
        """Yield a deviation as that of the smallest part of its row, and remember the part."""
        cures = self.cures[finding.check] if sum(map(len, self.labels.values())) >= _THOROUGH else None
        part = self._smallest(row, finding.check, cures)
        label = self._label(part)
        bare = tuple((name, value) for name, value in part if value != self.first[name])
        self.cures[finding.check] |= {name for name, _ in part} - {name for name, _ in bare}
        known = self.labels[finding.check, label]
        if known:  # twice: its context is too narrow, or it depends on the number of steps
            others = tuple((name, value) for name, value in bare if name != "steps")
            steps = [n for n in self.axes["steps"].all[1:] if len(others) < len(bare)]
            added = [(*others, ("steps", n)) for n in steps] or [bare]
        else:
            added = [part]
        plain = {**self.first, **dict(part)}
        found = self._outcome(plain)
        shown = found if isinstance(found, Finding) else finding
        self.parts += added
        self.unlike += added if shown.check in _OF_STEPS and not shown.is_breakdown else []
        if not known:
            words = f"{shown.sentence} ({self._place(plain)})"
            yield Finding(shown.check, label, shown.expected, shown.got, words)
        known.append(part)

    def _outcome(self, row: Row) -> Finding | str | None:
        """Return a row's deviation, None where it has none, or why it says nothing."""
        key = tuple(row.items())
        if key not in self.outcomes:
            try:
                nothing = any(covering.holds(row, part) for part in self.meaningless)
                self.outcomes[key] = "it means nothing" if nothing else self._first(row)
            except Refusal as refusal:
                error = refusal.breakdown
                self.outcomes[key] = breakdown("step", "", error) if error else str(refusal)
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

        Values are set back to the configured ones, many at once and then one by one, as long as the row still fails;
        then configured values are added that another value would cure, for example an end at sigma 0 that only some
        solvers refuse. `cures` are the axes on which such values are looked for, by default all.
        """
        kept = self._set_back(dict(row), how)
        part = {name for name in kept if kept[name] != self.first[name]}
        for name, axis in self.axes.items():
            looked_for = name not in part and name not in covering.LAST and (cures is None or name in cures)
            if looked_for and any(self._cured({**kept, name: value}, how) for value in axis.all[1:3]):
                part.add(name)
        return tuple((name, kept[name]) for name in kept if name in part)

    def _set_back(self, kept: dict[str, Any], how: str) -> dict[str, Any]:
        known = [dict(part) for (check, _), parts in self.labels.items() if check == how for part in parts[:1]]
        last = {name: kept[name] for name in covering.LAST if name in kept}
        for part in ({}, *known):
            few = {**self.first, **{name: kept[name] for name in part}, **last}
            if few != kept and self._fails(few, how):
                kept = few
                break
        order = sorted((name for name in kept if kept[name] != self.first[name]), key=lambda n: n not in covering.LAST)
        size = max(1, len(order) // 2)
        while True:
            before = kept
            for begin in range(0, len(order), size):
                tried = {**kept, **{name: self.first[name] for name in order[begin : begin + size]}}
                if tried != kept and self._fails(tried, how):
                    kept = tried
            order = [name for name in order if kept[name] != self.first[name]]
            if size == 1 and kept == before:
                return kept
            size = max(1, size // 2)

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
            return breakdown("step", "", got)

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
            raise Refusal("its levels leave the curve")  # reported by another check
        if steps > _RUN:
            return
        lands = (case.family is None or case.family.method is None) and keeps_point(case)
        rounded = case.twin() if row["dtype"] != "float64" and steps <= covering.LARGE else None
        trace, *on_point = run_each(subject, case, eta, (GAUSSIAN, POINT) if lands else (GAUSSIAN,), subject.brief)
        falling = [there.lam > here.lam for here, there in pairwise(case.path.levels)]
        judged = all(falling) or not _divides(case)
        before = trace if judged else replace(trace, calls=trace.calls[: falling.index(False)])
        if judged or np.isfinite(trace.final).all():  # a last step without length is reported by another check
            yield from compare_steps(case, before, "", where, eta)
        for point in on_point:
            yield from compare_landing(case, point, "", eta)
        if judged and rounded is not None:
            yield from check_rounding(subject, rounded, trace, row["dtype"], "", where, eta, subject.brief)

    def _label(self, part: Values) -> str:
        overrides = covering.overrides_of(self.axes, dict(part))
        if "sigmas" in dict(part):  # only the one that is switched on
            overrides = {name: value for name, value in overrides.items() if value or name not in OTHER_SIGMAS}
        shown = [f"{name}={'[…]' if isinstance(value, list) else value}" for name, value in overrides.items()]
        dtype = dict(part).get("dtype", self.first["dtype"])
        return ", ".join([*(shown or ["as configured"]), *([dtype] if dtype != self.first["dtype"] else [])])

    def _place(self, row: Row) -> str:
        dtype = "" if row["dtype"] == "float64" else f"{row['dtype']}, "
        return f"{dtype}{place(row['steps'], row.get('eta'))}"


class PointChecks(PairChecks):
    """The pairs of a value at which the steps are known to differ from the published method.

    There a comparison of steps says nothing new, which would hide another fault. Whatever its method, a consistent run
    lands on the level of the next timestep when its data is a point, and is the same in any dtype.
    """

    def __init__(self, pairs: PairChecks) -> None:
        super().__init__(pairs.subject)
        self.labels = pairs.labels
        self.parts = [part for part in pairs.parts if part not in pairs.unlike]
        changed = [tuple((n, v) for n, v in part if n != "steps" and v != self.first[n]) for part in pairs.unlike]
        self.values = dict.fromkeys(part for part in changed if len(part) <= 1)

    def findings(self) -> Iterator[Finding]:
        """Yield deviations of rows in which every value of every other axis occurs beside each value.

        Where the value alone does not land either, that is the known deviation.
        """
        for part in self.values:
            own = self._label(part)
            alone = ({**self.first, **dict(part), "steps": steps} for steps in (5, 7))
            if any(isinstance(self._outcome(row), Finding) for row in alone):
                continue
            for number in range(max(len(axis.all) for axis in self.axes.values())):
                cycled = {name: axis.all[number % len(axis.all)] for name, axis in self.axes.items()}
                row = covering.without(self.axes, {**cycled, **dict(part)}, self.parts, dict(part))
                if row is not None and covering.holds(row, part):
                    yield from (one for one in self._judge(row) if not part or own in one.setting)

    def _run(self, row: Row) -> Iterator[Finding]:
        subject, steps, eta = self.subject, row["steps"], row.get("eta")
        case = subject.prepare(steps, covering.overrides_of(self.axes, row))
        clips = case.config.get("clip_sample") and float(case.config.get("clip_sample_range", 1.0)) < 1
        curve = case.path.curve
        if steps > _RUN or clips or not (curve is None or all(curve.holds(u) for u in case.path.positions)):
            return
        rounded = case.twin()
        targets = (GAUSSIAN, POINT) if keeps_point(case) else (GAUSSIAN,)
        exact, *on_point = run_each(subject, case, eta, targets, subject.brief)
        if np.isfinite(exact.final).all():
            for point in on_point:
                yield from compare_landing(case, point, "", eta)
            if row["dtype"] != "float64":
                where = place(steps, eta)
                yield from check_rounding(subject, rounded, exact, row["dtype"], "", where, eta, subject.brief)


def check_pairs(subject: Subject, known: Collection[tuple[str, str]] = ()) -> Iterator[Finding]:
    """Check all pairs of the values that a class accepts, in about 130 runs; `known` checks and settings are left out.

    Which numbers of steps and which dtypes a deviation is found at depends on the rows and does not belong to it.
    """
    pairs = PairChecks(subject)
    yield from (one for one in pairs.findings() if (one.check, one.setting) not in known)
    yield from (one for one in PointChecks(pairs).findings() if (one.check, one.setting) not in known)


def _meaningless(subject: Subject, axes: Mapping[str, Axis]) -> Iterator[Values]:
    """Yield what says nothing: too many steps, noise that is to be read from pure noise, two tables, two ends."""
    deciding = [name for name in ("num_train_timesteps", "original_inference_steps", *_SPACING) if name in axes]
    for values in product(*(axes[name].all for name in deciding)):
        part = tuple(zip(deciding, values, strict=True))
        config = {**subject.config, **covering.overrides_of(axes, dict(part))}
        yield from ((*part, ("steps", n)) for n in covering.STEPS if not allows(subject.family, config, n))
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
