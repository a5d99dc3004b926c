"""The schedule: the noise table, the timesteps, their noise levels, and the end of the run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bench.conformance.checks_steps import FLOAT32
from bench.conformance.families import allows
from bench.conformance.noise import ZERO_SNR_FLOOR, Array, alpha_bars, betas
from bench.conformance.preconditioned import OwnLevels
from bench.conformance.report import Finding
from bench.conformance.subject import Case, Refusal, Subject
from bench.conformance.trace import numbers_of

_COUNTS = (*range(1, 52), *range(54, 260, 3), 333, 499, 500, 999, 1000)


def check_table(subject: Subject, setting: str, overrides: Mapping[str, Any] | None = None) -> Iterator[Finding]:
    """Check alpha_bar against its definition, within the roundings of a float32 product.

    Each of the t + 1 factors 1 - beta carries a few roundings relative to beta or 1, that is, of 2^-24 / (1 - beta).
    """
    scheduler = subject.fresh(overrides)
    config = {**subject.config, **(overrides or {})}
    own = getattr(scheduler, "alphas_cumprod", None)
    if own is None:
        return
    got, wanted = np.sqrt(np.asarray(own.double().numpy())), np.sqrt(alpha_bars(config))
    limit = wanted * 4 * FLOAT32 * np.cumsum(1 / (1 - betas(config)))
    if config.get("rescale_betas_zero_snr"):  # a difference of two roots, and a second product
        limit = 16 * FLOAT32 * np.cumsum(1 / (1 - betas(config))) * wanted[0] + math.sqrt(ZERO_SNR_FLOOR)
    if got.shape != wanted.shape:
        words = "The table has a different length."
        yield Finding("noise table", setting, f"{len(wanted)} timesteps", f"{len(got)}", words)
        return
    excess = np.abs(got - wanted) / limit
    if not excess.max() <= 1:
        t = int(np.argmax(~(excess <= 1)))
        words = f"alpha_bar differs from its definition at timestep {t} by more than rounding of a float32 product."
        places = (("", float(excess.max())),)
        yield Finding("noise table", setting, f"{wanted[t] ** 2:.9g}", f"{got[t] ** 2:.9g}", words, places)


def check_timesteps(subject: Subject, setting: str, overrides: Mapping[str, Any] | None = None) -> Iterator[Finding]:
    """Check count, order, range, repeats and values of the timesteps for every step count up to 51 and some beyond.

    A whole timestep may differ by half a timestep from the real number that its spacing defines, a float32 timestep by
    its rounding.
    """
    if subject.family is not None and subject.family.own is not None:
        return
    config = {**subject.config, **(overrides or {})}
    scheduler = subject.fresh(overrides)
    calls = subject.family.calls_per_step if subject.family else 1
    spacing = subject.family.timesteps if subject.family else None
    for steps in _COUNTS if spacing else _COUNTS[:12]:
        if not allows(subject.family, config, steps):
            continue
        where = ((f"{steps} steps", math.inf),)
        try:
            case = subject.prepare(steps, overrides, subject.fresh(overrides) if steps < 9 else scheduler)
        except Refusal as refusal:
            words = "The class refuses a number of steps that its training schedule allows."
            yield Finding("timesteps", setting, f"{steps} timesteps", "a refusal", f"{words} ({refusal})", where)
            continue
        got = np.array(case.path.timesteps)
        trouble = _disorder(got, steps, calls, int(config["num_train_timesteps"]), subject)
        if trouble:
            yield Finding("timesteps", setting, f"{steps} falling timesteps", trouble, f"{got[:6]} …", where)
            continue
        if spacing is None:
            continue
        wanted = spacing(config, steps)
        off = float(np.abs(got - wanted).max()) if len(got) == len(wanted) else math.inf
        slack = 0.5 + 1e-6 if np.all(got == np.round(got)) else 1e-3
        if not off <= slack:
            index = int(np.argmax(np.abs(got - wanted))) if len(got) == len(wanted) else 0
            words = f"Timestep {index} of {steps} differs from the definition of its spacing."
            yield Finding("timesteps", setting, f"{wanted[index]:.6g}", f"{got[index]:.6g}", words, where)


def _disorder(got: Array, steps: int, calls: int, trained: int, subject: Subject) -> str:
    """Describe what is wrong with a list of timesteps under any spacing; empty when it is valid."""
    known = subject.family is not None and subject.family.timesteps is not None
    if known and len(got) != (steps if calls == 1 else calls * steps - 1):
        return f"{len(got)} calls"
    if calls == 1 and known and np.any(np.diff(got) >= 0):
        return "repeats" if np.any(np.diff(got) == 0) else "no falling order"
    if got.min() < 0 or got.max() > trained - 1:
        return f"the range {got.min():g} to {got.max():g}"
    return ""


def check_levels(subject: Subject, setting: str, case: Case) -> Iterator[Finding]:
    """Check for sigma-based classes that each sigma is that of its timestep: the model is called at the solver's level.

    With Karras' or another spacing of sigmas the timestep is the nearest one: at most half a timestep off where it is
    whole, between its neighbours where it is not.
    """
    sigmas = getattr(case.scheduler, "sigmas", None)
    if sigmas is None or len(sigmas) != len(case.path.timesteps) + 1 or hasattr(case.scheduler, "sigmas_interpol"):
        return
    if case.family is not None and case.family.own is not None:
        yield from _check_own_levels(setting, case, case.family.own)
        return
    sigmas, where, table = numbers_of(sigmas), f"{case.steps} steps", case.path.table
    grid, ratios = np.arange(len(table.alpha_bar)), np.log(table.sigmas)
    least, most = float(table.sigmas.min()), float(table.sigmas.max())
    times = np.array(case.path.timesteps)
    slacks = np.where(times == np.round(times), 0.51, 0.05)
    lows, highs = (np.exp(np.interp(times + d * slacks, grid, ratios)) * (1 + d * 1e-4) for d in (-1, 1))
    for index, (t, sigma) in enumerate(zip(case.path.timesteps, sigmas, strict=False)):
        wanted = case.path.levels[index].sigma
        if table.alpha_bar[-1] > ZERO_SNR_FLOOR and abs(sigma - wanted) > 16 * FLOAT32 * wanted:
            words = f"Call {index} solves from a noise level that differs from that of timestep {t:g}."
            yield Finding("levels", setting, f"{wanted:.7g}", f"{sigma:.7g}", words, ((where, np.inf),))
            return
        if not lows[index] <= min(max(sigma, least), most) <= highs[index]:
            at = float(np.interp(np.log(sigma), ratios, grid))
            words = f"Call {index} passes the model a timestep that differs from the one of its noise level."
            yield Finding(
                "levels", setting, f"timestep {at:.2f}", f"{t:g}", words, ((where, abs(at - t) / float(slacks[index])),)
            )
            return
    end, last = case.path.levels[-1].sigma, sigmas[-1]
    if abs(last - end) > 16 * FLOAT32 * max(end, 1e-3):
        words = "The last call ends on a noise level that differs from the settings."
        yield Finding("levels", setting, f"{end:.7g} at the end", f"{last:.7g}", words, ((where, np.inf),))
    yield from _check_ramp(subject, setting, case, np.array(sigmas[:-1]))


def _check_own_levels(setting: str, case: Case, own: OwnLevels) -> Iterator[Finding]:
    """Check sigmas of a class without a noise table, the end, and what the model is told, by their definitions."""
    wanted = own.sigmas(case.config, case.steps)
    end = case.path.levels[-1].b
    rows = {
        "sigma": (np.array([float(sigma) for sigma in case.scheduler.sigmas]), np.append(wanted, end)),
        "timestep": (np.array(case.path.timesteps), own.told(wanted)),
    }
    for name, (got, expected) in rows.items():
        size = np.maximum(np.abs(expected), 1e-3 if name == "sigma" else 1.0)
        off = np.abs(got - expected) / size if got.shape == expected.shape else np.ones(1)
        if not off.max() <= 64 * FLOAT32:
            index = int(off.argmax())
            words = f"{name.capitalize()} {index} of {len(expected)} differs from the definition of its spacing."
            where = ((f"{case.steps} steps", float(off.max()) / (64 * FLOAT32)),)
            yield Finding("levels", setting, f"{expected[index]:.7g}", f"{got[index]:.7g}", words, where)


def _check_ramp(subject: Subject, setting: str, case: Case, sigmas: Array) -> Iterator[Finding]:
    """Check the spacing of sigmas, from the largest of the schedule to the smallest.

    Karras et al. 2022, eq. 5 with rho = 7; exponential: even in log sigma; beta: Lee et al. 2024, quantiles of
    Beta(0.6, 0.6); Lu et al. 2022: even in lambda.
    """
    from scipy.special import betaincinv  # slow to import

    table, count = case.path.table.sigmas, len(sigmas)
    if count < 2 or case.family is None or case.family.calls_per_step > 1:
        return
    high, low = (
        float(case.config.get(name) or value) for name, value in (("sigma_max", table[-1]), ("sigma_min", table[0]))
    )
    if case.config.get("timestep_spacing", "linspace") != "linspace":
        return
    ramp = np.linspace(0, 1, count)
    wanted = {
        "use_karras_sigmas": (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7,
        "use_exponential_sigmas": np.exp(math.log(high) + ramp * (math.log(low) - math.log(high))),
        "use_lu_lambdas": np.exp(math.log(high) + ramp * (math.log(low) - math.log(high))),
        "use_beta_sigmas": low + (high - low) * betaincinv(0.6, 0.6, 1 - ramp),
    }
    for name, values in wanted.items():
        if case.config.get(name):
            off = np.abs(sigmas / values - 1)
            if not off.max() <= 64 * FLOAT32:
                index = int(off.argmax())
                where = ((f"{case.steps} steps", float(off.max()) / (64 * FLOAT32)),)
                words = f"Sigma {index} of {count} differs from the definition of its spacing."
                yield Finding("levels", setting, f"{values[index]:.7g}", f"{sigmas[index]:.7g}", words, where)


def check_initial_noise(subject: Subject, setting: str, case: Case) -> Iterator[Finding]:
    """Check the scale of the initial noise: 1 or the first level's sigma (plain, or with unit-variance data added)."""
    got = float(case.scheduler.init_noise_sigma)
    first = case.path.levels[0].sigma
    exploding = case.rescaled or (case.family is not None and case.family.own is not None)
    allowed = (first, math.hypot(first, 1.0)) if exploding else (1.0,)
    if min(abs(got / wanted - 1) for wanted in allowed) > 16 * FLOAT32:
        words = "Pure noise of this scale differs from what the first timestep expects."
        where = ((f"{case.steps} steps", math.inf),)
        yield Finding("initial noise", setting, f"{allowed[0]:.7g}", f"{got:.7g}", words, where)
