"""The scores for people who use them alone: features or per-image values in, a number with its interval out.

    score = bench.frechet_distance(features, reference)
    score.value, score.debiased, score.interval, score.fallback

Intervals are at 95% and speak about new prompts and new noise together, with the reference and the extractor as they
are. Where theory gives no interval the score says so in `fallback`, with the reason and the kernel distance that stands
in.
"""

from __future__ import annotations

from numpy.typing import ArrayLike

from bench.records.score import Score
from bench.score.estimate import Estimate, mean_estimate, paired_difference, unpaired_difference
from bench.score.frechet import Reference, frechet_estimate
from bench.score.groups import Groups
from bench.score.kernel import kernel_estimate
from bench.score.moments import as_floats


def frechet_distance(
    features: ArrayLike,
    reference: ArrayLike | Reference,
    reference_noise: bool = False,
    groups: ArrayLike | None = None,
) -> Score:
    """Squared Fréchet distance of features (n, d) from a reference: features (m, d), or `Reference.of` them.

    `value` equals torchmetrics', torch-fidelity's and clean-fid's; `debiased` is what it would be with endless images
    (Heusel et al. 2017, arXiv 1706.08500, eq. 6; delete-one jackknife, see bench.score.frechet). The reference is
    held fixed, with what its own number of images adds to the distance, unless `reference_noise`: then its images
    are left out in turn too, `debiased` is without the bias of both sets, which `reference_bias` is part of, and
    the interval is for new reference images as well. `groups` (n,) names the prompt of each image where prompts
    repeat: the interval is for new prompts and new noise. Raises ValueError for fewer than two images, NaN, or
    other dimensions.
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
    """Fréchet distance of features_a (n, d) less that of features_b, from one reference; negative where a is nearer.

    `paired` means that row i of either came from the same prompt and latents: a far narrower interval. `groups` are
    those of both sets where they are paired, else of features_a, and `groups_b` those of features_b. Raises ValueError
    as `frechet_distance` does, and where paired sets differ in size.
    """
    reference, of_b = _reference(reference), groups if paired else groups_b
    ours = _frechet(features_a, reference, reference_noise, groups)
    return _subtract(ours, _frechet(features_b, reference, reference_noise, of_b), paired).to_score()


def kernel_distance(
    features: ArrayLike,
    reference: ArrayLike | Reference,
    reference_noise: bool = False,
    groups: ArrayLike | None = None,
) -> Score:
    """KID of features (n, d) from a reference (m, d): unbiased MMD², cubic kernel, all pairs (arXiv 1801.01401).

    With `groups` as in `frechet_distance`, `debiased` is over pairs of different prompts. Raises ValueError for fewer
    than two images, NaN, or other dimensions.
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
    """KID of features_a (n, d) less that of features_b, from one reference; as `frechet_difference`."""
    reference, of_b = _reference(reference), groups if paired else groups_b
    ours = _kernel(features_a, reference, reference_noise, groups)
    return _subtract(ours, _kernel(features_b, reference, reference_noise, of_b), paired).to_score()


def mean_score(
    values: ArrayLike, groups: ArrayLike | None = None, fixed_prompts: bool = False, shares: bool = False
) -> Score:
    """Mean of a per-image metric (n,), such as CLIP score; `groups` (n,) names the prompt of each image, if any repeat.

    The interval is for new prompts and new noise, or for the same prompts with new noise where `fixed_prompts`, which
    takes two or more images of each. `shares` says that values are from 0 to 1, or yes and no: their interval stays
    within these bounds, and needs some values that are not at the bound. Raises ValueError for fewer than two values,
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
) -> Score:
    """Mean of values_a (n,) less that of values_b; `paired` and groups as in `frechet_difference`.

    With `fixed_prompts` as in `mean_score`; differences within prompts are what counts then.
    """
    ours = _mean(values_a, groups, fixed_prompts)
    return _subtract(ours, _mean(values_b, groups if paired else groups_b, fixed_prompts), paired).to_score()


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


def _subtract(ours: Estimate, theirs: Estimate, paired: bool) -> Estimate:
    return paired_difference(ours, theirs) if paired else unpaired_difference(ours, theirs)


def _reference(reference: ArrayLike | Reference) -> Reference:
    return reference if isinstance(reference, Reference) else Reference.of(reference)
