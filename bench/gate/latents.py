"""Latents before and after, call by call: where two runs part, by how much, and what made them part.

Pixels of few-step models are unstable by nature; latents are compared at each call of the scheduler. An image's
displacement at a call is the norm of the difference of its latents relative to the norm of the old ones. At the first
call at which they differ beyond rounding, what went in before tells the cause: other initial latents, another network
(weights, adapters, prompts), another guidance, or another step of the scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bench.analysis.scoring import ScoredCell, ScoredRun
from bench.gate.completeness import UNREADABLE_FILE
from bench.gate.outcome import Outcome
from bench.gate.pairing import Pair
from bench.records.run import Movement
from bench.store.cell_folder import LATENTS

Trajectory = Mapping[str, NDArray[np.floating]]
LATENT_ROUNDING = {"float32": 512 * 2.0**-23, "float16": 16 * 2.0**-10, "bfloat16": 8 * 2.0**-7}
"""Relative differences of one network's output between machines and kernels, by precision; multiples of its epsilon."""

_SHOWN_CALLS = 9


def compare_latents(pairs: Sequence[Pair], before: ScoredRun, after: ScoredRun, limit: Movement) -> list[Outcome]:
    """An outcome for each pair of which either side kept latents: changed when more images moved farther than allowed.

    The limit is on top of the rounding of the precision.
    """
    found = (_compare(pair, before, after, limit) for pair in pairs)
    return [outcome for outcome in found if outcome is not None]


def _compare(pair: Pair, before: ScoredRun, after: ScoredRun, limit: Movement) -> Outcome | None:
    outcome = partial(Outcome, "latents", pair.label, "displacement")
    runs = (("baseline", before, pair.before), ("candidate", after, pair.after))
    kept = {name for name, run, cell in runs if run.store.cell(cell.record.key).has_features(LATENTS)}
    if not kept:
        return None
    if kept == {"candidate"}:
        return outcome("new", note="the baseline keeps no latents")
    if kept == {"baseline"}:
        return outcome("missing", note="the candidate was run without keep_latents, with which the baseline was")
    if not pair.same_noise:
        return outcome("not comparable", note="other initial latents, so trajectories differ by design")
    try:
        old, new = (_read(run, cell) for _, run, cell in runs)
    except UNREADABLE_FILE as error:
        return outcome("missing", note=str(error))
    return compare_trajectories(pair.label, old, new, limit, pair.before.record.cell.base.dtype)


def _read(run: ScoredRun, cell: ScoredCell) -> Trajectory:
    return run.store.features_of(cell.record, LATENTS)


def compare_trajectories(
    label: str, old: Trajectory, new: Trajectory, limit: Movement, dtype: str = "float32"
) -> Outcome:
    """The outcome of two trajectories, as `bench.generate.trajectory.trace_latents` returns them, of any origin."""
    outcome = partial(Outcome, "latents", label, "displacement")
    count = min(len(old["states"]), len(new["states"]))
    states = [arrays["states"][:count] for arrays in (old, new)]
    if states[0].shape != states[1].shape:
        (_, before, _), (_, after, _) = states[0].shape, states[1].shape
        why = f"{after - 1} calls instead of {before - 1}" if before != after else "latents of another size"
        return outcome("changed", note=f"the run has {why}")
    moved = relative(*states)
    if not moved.any() and np.array_equal(states[0], states[1]):
        return outcome(
            "equal", 0.0, 0.0, limit=limit.displacement, note=f"every kept latent of {count} images is equal"
        )
    allowed = limit.displacement + LATENT_ROUNDING[dtype]
    last = moved[:, -1]
    beyond = float(np.mean(~(last <= allowed)))  # NaN is beyond
    note = _in_words(old, new, moved, LATENT_ROUNDING[dtype])
    verdict = "changed" if beyond > limit.share else "unchanged"
    return outcome(verdict, 0.0, _plain(np.median(last)), limit=allowed, note=note)


def relative(old: NDArray[np.floating], new: NDArray[np.floating]) -> NDArray[np.float64]:
    """Norms of differences over the last axis, relative to those of `old`; infinite where it is not a number."""
    before, after = old.astype(np.float64), new.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.linalg.norm(after - before, axis=-1)
        share: NDArray[np.float64] = np.where(apart == 0, 0.0, apart / np.linalg.norm(before, axis=-1))
    return np.nan_to_num(share, nan=np.inf)


def _plain(value: float) -> float:
    return float(min(value, 1e300))  # JSON has no infinity


def _in_words(old: Trajectory, new: Trajectory, moved: NDArray[np.float64], rounding: float) -> str:
    """Where two trajectories part, how far, and by what."""
    median, most = np.median(moved, axis=0), moved.max(axis=0)
    shown = median if len(median) <= _SHOWN_CALLS else np.append(median[: _SHOWN_CALLS - 1], median[-1])
    path = " → ".join(f"{value:.2g}" for value in shown)
    path = path if len(shown) == len(median) else " → … → ".join(path.rsplit(" → ", 1))
    said = f"relative displacement by call {path} (median of {len(moved)} images)"
    apart = np.flatnonzero(most > rounding)
    if not apart.size:
        first = int(np.flatnonzero(most)[0]) if most.any() else 0
        return f"they differ by rounding, {_at(first)}; {said}"
    return f"they part {_at(int(apart[0]))}: {_cause(old, new, int(apart[0]), rounding)}; {said}"


def _at(state: int) -> str:
    return "before the first call" if state == 0 else f"at call {state}"


def _cause(old: Trajectory, new: Trajectory, state: int, rounding: float) -> str:
    """What differs first of all that leads to a state, which is the result of the call before it."""
    if state == 0:
        return "the initial latents differ"

    def differ(name: str, at: int | slice) -> float:
        return float(np.max(relative(*(arrays[name][:count, at] for arrays in (old, new)))))

    count = min(len(old["states"]), len(new["states"]))
    call = state - 1
    if "outputs" not in old or "outputs" not in new:
        return f"by {differ('states', state):.2g} (without model outputs the cause is unknown)"
    outputs = differ("outputs", call)
    if outputs <= rounding:
        size = differ("states", state)
        digits = _digits(new["states"][:count, state], old["states"][:count, state])
        return f"from equal model outputs the scheduler's step makes other latents, by {size:.2g}{digits}"
    if call == 0 and "denoised" in old and "denoised" in new:
        if old["denoised"].shape[1:] != new["denoised"].shape[1:]:
            return "the denoiser is called in another way"
        raw = differ("denoised", slice(None))
        if raw <= rounding:
            return f"the denoiser's outputs are equal, and what guidance makes of them differs by {outputs:.2g}"
        return f"the denoiser's own output differs by {raw:.2g} (weights, adapters, prompt embeddings, or its input)"
    return f"the model's output at this call differs by {outputs:.2g} (weights, adapters, guidance, or its input)"


def _digits(new: NDArray[np.floating], old: NDArray[np.floating]) -> str:
    """Say where the new values, and not the old ones, are numbers of half precision."""
    with np.errstate(over="ignore"):
        half = [v.dtype != np.float16 and np.array_equal(v, v.astype(np.float16)) for v in (new, old)]
    if half == [True, False]:
        return "; they are rounded to float16"
    coarse = [np.array_equal(_to_bfloat16(values), values) for values in (new, old)]
    return "; they are rounded to bfloat16" if coarse == [True, False] else ""


def _to_bfloat16(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Values cut to the 16 bits of bfloat16, which keeps those that are such numbers."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)
