"""Scores without a run: from features or per-image values to a number with its interval.

    score = bench.frechet_distance(features, reference)
    score.value, score.debiased, score.interval, score.fallback

Intervals are at 95% and cover new prompts and new noise together, for a fixed reference and extractor. Where theory
gives no interval, `fallback` holds the reason and the kernel distance that
replaces it.
"""

from __future__ import annotations

from dataclasses import replace

from numpy.typing import ArrayLike

from bench.records.score import Score
from bench.score.estimate import Estimate, mean_estimate, paired_difference, unpaired_difference
from bench.score.frechet import Reference, frechet_estimate, kernel_fallback
from bench.score.groups import Groups
from bench.score.kernel import kernel_estimate
from bench.score.moments import as_floats


def frechet_distance(
    features: ArrayLike,
    reference: ArrayLike | Reference,
    reference_noise: bool = False,
    groups: ArrayLike | None = None,
) -> Score:
    """Squared Fréchet distance between features (n, d) and a reference: features (m, d), or `Reference.of` them.

    `value` equals that of torchmetrics, torch-fidelity and clean-fid; `debiased` estimates its limit for infinitely
    many images (Heusel et al. 2017, arXiv 1706.08500, eq. 6; delete-one jackknife). The reference is held fixed,
    including the contribution of its own size to the distance. With `reference_noise` its images are left out in turn:
    `debiased` is then without the bias of both sets, of which `reference_bias` is part, and the interval covers
    new reference images too. `groups` (n,) names the prompt of each image where prompts repeat; the interval then
    covers new prompts and new noise. Raises ValueError for fewer than two images, NaN, or different dimensions.

    >>> import numpy as np
    >>> draw = np.random.default_rng(0).normal
    >>> score = frechet_distance(draw(0.2, size=(500, 4)), draw(size=(5000, 4)))
    >>> low, high = score.interval
    >>> bool(low < score.debiased < high and score.debiased < score.value)
    True
    """
    return _frechet(features, reference, reference_noise, groups).to_score()


def frechet_difference(
    features_a: ArrayLike,
    features_b: ArrayLike,
    reference: ArrayLike | Reference,
    paired: bool = True,
    reference_noise: bool = False,
    groups: ArrayLike | None = None,
    groups_b: ArrayLike | None = None,
) -> Score:
    """Fréchet distance of features_a (n, d) minus that of features_b, same reference; negative where a is closer.

    `paired` means that row i of both sets came from the same prompt and latents, which makes the interval far narrower.
    `groups` are those of both sets where they are paired, else of features_a, and `groups_b` those of features_b.
    Raises ValueError as `frechet_distance` does, and where paired sets differ in size.

    >>> import numpy as np
    >>> draw = np.random.default_rng(0).normal
    >>> noise, reference = draw(size=(500, 4)), draw(size=(5000, 4))
    >>> low, high = frechet_difference(noise + 0.2, noise + 0.6, reference).interval
    >>> bool(high < 0)
    True
    """
    reference, of_b = _reference(reference), groups if paired else groups_b
    ours = _frechet(features_a, reference, reference_noise, groups)
    theirs = _frechet(features_b, reference, reference_noise, of_b)
    difference = _subtract(ours, theirs, paired)
    if difference.caveat and reference.has_images:
        our_kernel = ours.fallback or _fallback(features_a, reference, reference_noise, groups)
        their_kernel = theirs.fallback or _fallback(features_b, reference, reference_noise, of_b)
        difference = replace(difference, fallback=_subtract(our_kernel, their_kernel, paired))
    return difference.to_score()


def kernel_distance(
    features: ArrayLike,
    reference: ArrayLike | Reference,
    reference_noise: bool = False,
    groups: ArrayLike | None = None,
) -> Score:
    """Kernel distance (KID) between features (n, d) and a reference (m, d): unbiased MMD² with a cubic kernel.

    Over all pairs of images (Bińkowski et al. 2018, arXiv 1801.01401). There is no interval where the distance is too
    small for this many images; a difference has one all the same. With `groups` as in `frechet_distance`,
    `debiased` is over pairs of different prompts. Raises ValueError for fewer than two images, NaN, or different
    dimensions.

    >>> import numpy as np
    >>> draw = np.random.default_rng(0).normal
    >>> low, high = kernel_distance(draw(0.5, size=(500, 4)), draw(size=(5000, 4))).interval
    >>> bool(0 < low < high)
    True
    >>> print(kernel_distance(draw(size=(500, 4)), draw(size=(5000, 4))).interval)  # too close to the reference
    None
    """
    return _kernel(features, reference, reference_noise, groups).to_score()


def kernel_difference(
    features_a: ArrayLike,
    features_b: ArrayLike,
    reference: ArrayLike | Reference,
    paired: bool = True,
    reference_noise: bool = False,
    groups: ArrayLike | None = None,
    groups_b: ArrayLike | None = None,
) -> Score:
    """Kernel distance of features_a (n, d) minus that of features_b, to the same reference; as `frechet_difference`."""
    reference, of_b = _reference(reference), groups if paired else groups_b
    ours = _kernel(features_a, reference, reference_noise, groups)
    return _subtract(ours, _kernel(features_b, reference, reference_noise, of_b), paired).to_score()


def mean_score(
    values: ArrayLike, groups: ArrayLike | None = None, fixed_prompts: bool = False, shares: bool = False
) -> Score:
    """Mean of a per-image metric (n,), such as the CLIP score; `groups` (n,) names the prompts where they repeat.

    The interval covers new prompts and new noise, or with `fixed_prompts` the same prompts with new noise, which needs
    two or more images per prompt. `shares` marks values from 0 to 1, or yes and no: their interval stays
    within these bounds, and needs some values that are not at a bound. Raises ValueError for fewer than two values,
    NaN, or shares beyond 0 and 1.

    >>> score = mean_score([1.0, 2.0, 3.0, 4.0] * 25)
    >>> score.value, score.n, round(score.standard_error, 3)
    (2.5, 100, 0.112)
    """
    return _mean(values, groups, fixed_prompts, shares).to_score()


def mean_difference(
    values_a: ArrayLike,
    values_b: ArrayLike,
    paired: bool = True,
    groups: ArrayLike | None = None,
    groups_b: ArrayLike | None = None,
    fixed_prompts: bool = False,
    shares: bool = False,
) -> Score:
    """Mean of values_a (n,) minus that of values_b; `paired` and groups as in `frechet_difference`.

    With `fixed_prompts` as in `mean_score`, only differences within prompts count. Where most of fewer than 50 pairs
    are equal there is no interval, unless both are `shares` as in `mean_score`.
    """
    ours = _mean(values_a, groups, fixed_prompts, shares)
    return _subtract(ours, _mean(values_b, groups if paired else groups_b, fixed_prompts, shares), paired).to_score()


def _mean(values: ArrayLike, groups: ArrayLike | None, fixed_prompts: bool, shares: bool = False) -> Estimate:
    rows = as_floats(values)
    estimate = mean_estimate(rows, Groups.of(groups, len(rows)), shares)
    return estimate.within_prompts() if fixed_prompts else estimate


def _frechet(
    features: ArrayLike, reference: ArrayLike | Reference, reference_noise: bool, groups: ArrayLike | None
) -> Estimate:
    rows = as_floats(features)
    return frechet_estimate(rows, _reference(reference), reference_noise, Groups.of(groups, len(rows)))


def _kernel(
    features: ArrayLike, reference: ArrayLike | Reference, reference_noise: bool, groups: ArrayLike | None
) -> Estimate:
    rows = as_floats(features)
    return kernel_estimate(rows, _reference(reference).kernel, reference_noise, Groups.of(groups, len(rows)))


def _fallback(features: ArrayLike, reference: Reference, reference_noise: bool, groups: ArrayLike | None) -> Estimate:
    rows = as_floats(features)
    return kernel_fallback(rows, reference, reference_noise, Groups.of(groups, len(rows)))


def _subtract(ours: Estimate, theirs: Estimate, paired: bool) -> Estimate:
    return paired_difference(ours, theirs) if paired else unpaired_difference(ours, theirs)


def _reference(reference: ArrayLike | Reference) -> Reference:
    return reference if isinstance(reference, Reference) else Reference.of(reference)
