"""Images before and after, one by one: the sharpest question, where the same noise was used.

An image's displacement is how far its features moved, in units of the median distance between features of different
prompts' images: 0 for the same image, about 1 for another one. It tells a changed trajectory from rounding, on any
machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.judge.gate.cells import Pair, Side
from bench.judge.gate.outcome import Outcome
from bench.request import Movement


def compare_images(pairs: Sequence[Pair], baseline: Side, candidate: Side, limit: Movement) -> list[Outcome]:
    """An outcome for each pair: changed when more images moved farther than the limit lets pass."""
    outcomes = []
    for pair in pairs:
        if not pair.same_noise:
            note = "other initial latents, so images differ by design"
            outcomes.append(Outcome("images", pair.label, "displacement", "not comparable", note=note))
            continue
        if pair.images_equal:
            note = "every pixel is equal"
            outcomes.append(
                Outcome("images", pair.label, "displacement", "unchanged", 0.0, 0.0, None, limit.share, note)
            )
            continue
        moved = displacements(pair, baseline, candidate)
        beyond = float(np.mean(moved > limit.displacement))
        worst = int(np.argmax(moved))
        outcomes.append(
            Outcome(
                level="images",
                subject=pair.label,
                quantity="displacement",
                verdict="changed" if beyond > limit.share else "unchanged",
                before=0.0,
                after=beyond,
                limit=limit.share,
                note=f"{beyond:.1%} of the images moved by more than {limit.displacement:g}; image {worst} moved most, "
                f"by {moved[worst]:.2g}; the median is {np.median(moved):.2g}",
            )
        )
    return outcomes


def displacements(pair: Pair, baseline: Side, candidate: Side) -> NDArray[np.float64]:
    """How far each image's features moved (n,), in units of the median distance between neighbours in the baseline."""
    before = _features(baseline, pair.before.record.key)
    after = _features(candidate, pair.after.record.key)
    apart = np.linalg.norm(before - np.roll(before, 1, axis=0), axis=1)
    unit = float(np.median(apart)) or 1.0
    moved: NDArray[np.float64] = np.linalg.norm(after - before, axis=1) / unit
    return moved


def _features(side: Side, key: str) -> NDArray[np.float64]:
    features: NDArray[np.float64] = side.store.features(key, side.run.extractor)["image"].astype(np.float64)
    return features
