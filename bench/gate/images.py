"""Images before and after, one by one: the sharpest question, where the same noise was used.

An image's displacement is how far its features moved, in units of the median distance between features of different
prompts' images: 0 for the same image, about 1 for another one. It separates a changed trajectory from rounding, on any
machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bench.analysis.scoring import ScoredRun
from bench.gate.outcome import Outcome
from bench.gate.pairing import Pair
from bench.records.run import Movement


def compare_images(pairs: Sequence[Pair], baseline: ScoredRun, candidate: ScoredRun, limit: Movement) -> list[Outcome]:
    """An outcome for each pair: changed when more images moved farther than the limit lets pass."""
    return [_compare_pair(pair, baseline, candidate, limit) for pair in pairs]


def _compare_pair(pair: Pair, baseline: ScoredRun, candidate: ScoredRun, limit: Movement) -> Outcome:
    outcome = partial(Outcome, "images", pair.label, "displacement")
    if not pair.same_noise:
        return outcome("not comparable", note="other initial latents, so images differ by design")
    if pair.images_equal:
        return outcome("equal", 0.0, 0.0, limit=limit.share, note="every pixel is equal")
    moved = displacements(pair, baseline, candidate)
    if moved is None:
        note = "pixels differ, and the runs were made without an extractor in common, which says by how much"
        return outcome("not comparable", note=note)
    beyond, worst = float(np.mean(moved > limit.displacement)), int(np.argmax(moved))
    note = (
        f"images differ; {beyond:.1%} of them moved by more than {limit.displacement:g}; image {worst} moved most, "
        f"by {moved[worst]:.2g}; the median is {np.median(moved):.2g}"
    )
    return outcome("changed" if beyond > limit.share else "unchanged", 0.0, beyond, limit=limit.share, note=note)


def displacements(pair: Pair, baseline: ScoredRun, candidate: ScoredRun) -> NDArray[np.float64] | None:
    """Return each image's displacement (n,), in units of the median distance between neighbours in the baseline.

    Where a prompt has several images, between one and the same image of the next prompt.

    By the first extractor of both; None where the runs were made without an extractor in common.
    """
    for name in (name for name in baseline.run.features if name in candidate.run.features):
        before = baseline.store.features_of(pair.before.record, baseline.run.features[name]).get("image")
        if before is not None:
            after = candidate.store.features_of(pair.after.record, candidate.run.features[name])["image"]
            old, new = before.astype(np.float64), after.astype(np.float64)
            apart = np.linalg.norm(old - np.roll(old, baseline.run.images_per_prompt % len(old) or 1, axis=0), axis=1)
            moved: NDArray[np.float64] = np.linalg.norm(new - old, axis=1) / (float(np.median(apart)) or 1.0)
            return moved
    return None
