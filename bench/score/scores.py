"""The scores for people who use them alone: features or per-image values in, a number with its interval out.

    score = bench.frechet_distance(features, reference)
    score.value, score.debiased, score.interval, score.fallback

Where theory gives no interval the score says so in `fallback`, with the reason and the kernel distance that stands in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.records import Score
from bench.score.estimate import Estimate, mean_estimate, paired_difference, unpaired_difference
from bench.score.frechet import Reference, frechet_estimate
from bench.score.kernel import kernel_estimate


def frechet_distance(features: ArrayLike, reference: ArrayLike | Reference, reference_noise: bool = False) -> Score:
    """Squared Fréchet distance of features (n, d) from a reference: features (m, d), or `Reference.of` them.

    `value` equals torchmetrics', torch-fidelity's and clean-fid's; `debiased` is what it would be with endless images
    (Heusel et al. 2017, arXiv 1706.08500, eq. 6; delete-one jackknife, see bench.score.frechet). The reference is held
    fixed unless `reference_noise`. Raises ValueError for fewer than two images, NaN, or other dimensions.
    """
    return _frechet(features, reference, reference_noise).to_score()


def frechet_difference(
    features_a: ArrayLike,
    features_b: ArrayLike,
    reference: ArrayLike | Reference,
    paired: bool = True,
    reference_noise: bool = False,
) -> Score:
    """Fréchet distance of features_a (n, d) less that of features_b, from one reference; negative where a is nearer.

    `paired` means that row i of either came from the same prompt and latents: a far narrower interval. Raises
    ValueError as `frechet_distance` does, and where paired sets differ in size.
    """
    reference = _reference(reference)
    ours, theirs = (_frechet(features, reference, reference_noise) for features in (features_a, features_b))
    return _subtract(ours, theirs, paired).to_score()


def kernel_distance(features: ArrayLike, reference: ArrayLike | Reference, reference_noise: bool = False) -> Score:
    """KID of features (n, d) from a reference (m, d): unbiased MMD², cubic kernel, all pairs (arXiv 1801.01401).

    Raises ValueError for fewer than two images, NaN, or other dimensions.
    """
    return _kernel(features, reference, reference_noise).to_score()


def kernel_difference(
    features_a: ArrayLike,
    features_b: ArrayLike,
    reference: ArrayLike | Reference,
    paired: bool = True,
    reference_noise: bool = False,
) -> Score:
    """KID of features_a (n, d) less that of features_b, from one reference; as `frechet_difference`."""
    reference = _reference(reference)
    ours, theirs = (_kernel(features, reference, reference_noise) for features in (features_a, features_b))
    return _subtract(ours, theirs, paired).to_score()


def mean_score(values: ArrayLike) -> Score:
    """Mean of a per-image metric (n,), such as CLIP score. Raises ValueError for fewer than two values, or NaN."""
    return mean_estimate(_floats(values)).to_score()


def mean_difference(values_a: ArrayLike, values_b: ArrayLike, paired: bool = True) -> Score:
    """Mean of values_a (n,) less that of values_b; `paired` as in `frechet_difference`."""
    return _subtract(mean_estimate(_floats(values_a)), mean_estimate(_floats(values_b)), paired).to_score()


def _frechet(features: ArrayLike, reference: ArrayLike | Reference, reference_noise: bool) -> Estimate:
    return frechet_estimate(_floats(features), _reference(reference), reference_noise)


def _kernel(features: ArrayLike, reference: ArrayLike | Reference, reference_noise: bool) -> Estimate:
    return kernel_estimate(_floats(features), _reference(reference).kernel, reference_noise)


def _subtract(ours: Estimate, theirs: Estimate, paired: bool) -> Estimate:
    return paired_difference(ours, theirs) if paired else unpaired_difference(ours, theirs)


def _reference(reference: ArrayLike | Reference) -> Reference:
    return reference if isinstance(reference, Reference) else Reference.of(_floats(reference))


def _floats(values: ArrayLike) -> NDArray[np.floating[Any]]:
    """Float arrays as they are, so that nothing is copied; other numbers as float64."""
    array = np.asarray(values)
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)
