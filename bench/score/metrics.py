"""Scores by name: required features, direction, and name with the protocol. numpy only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.records.score import split_score
from bench.score.diversity import mean_of_prompts, pairwise_distance_estimate, vendi_estimate
from bench.score.estimate import Estimate, mean_estimate
from bench.score.frechet import Reference, frechet_estimate, kernel_fallback
from bench.score.groups import Groups
from bench.score.kernel import KernelReference, cmmd_estimate, kernel_estimate
from bench.score.neighbours import (
    Neighbourhood,
    coverage_estimate,
    density_estimate,
    precision_estimate,
    recall_estimate,
)

_Features = Mapping[str, NDArray[Any]]
PIXELS = "pixels"
"""The set of features that no network computes."""


@dataclass(frozen=True)
class RealImages:
    """The reference images' embeddings (m, d) by one extractor, with an earlier result of `Reference.to_parts`.

    Of statistics alone there are no embeddings (0, d), and the parts hold mean and covariance.
    """

    embeddings: NDArray[np.floating]
    parts: Mapping[str, NDArray[np.float64]] | None = None

    @cached_property
    def reference(self) -> Reference:
        """The reference of the Fréchet and the kernel distance."""
        given = self.parts or {}
        return Reference(self.embeddings, given) if "covariance" in given else Reference.of(self.embeddings, given)

    @cached_property
    def directions(self) -> KernelReference:
        """The reference of CMMD."""
        return KernelReference.of_directions(self.embeddings)

    @cached_property
    def neighbourhood(self) -> Neighbourhood:
        """The reference of scores of nearest neighbours."""
        return Neighbourhood(self.embeddings)


@dataclass(frozen=True)
class Metric:
    """A score. `title` is for display; `name(n)` includes the protocol, so a bare "FID" is never printed.

    `needs` are features of the set `features`, which is None for scores of any extractor; `metric_of` then gives the
    `extractor`. `network` is what computes its features, in its name. `fallback` is the score that replaces it where it
    has no interval. `of_prompts` marks scores of the images of each prompt together. The numbers of an `experimental`
    score were never seen on its network's published weights.
    """

    short: str
    title: str
    higher_is_better: bool
    needs: tuple[str, ...]
    estimate: Callable[[_Features, RealImages | None, Groups | None], Estimate]
    digits: int
    needs_reference: bool = False
    features: str | None = None
    network: str | None = None
    fallback: Metric | None = None
    extractor: str = ""
    of_prompts: bool = False
    experimental: bool = False

    def of(self, features: _Features, real: RealImages | None, groups: Groups | None = None) -> Estimate:
        """Return the estimate from a cell's features; `groups` holds the prompt of each row (None: all different).

        Raises ValueError where features are missing or unsuitable.
        """
        if lacking := [name for name in self.needs if name not in features]:
            raise ValueError(f"the stored features lack {', '.join(lacking)}; add them with `tcd-bench score`")
        return self.estimate(features, real, groups)

    @property
    def score(self) -> str:
        """The name in settings and claims: `fid@mini`, `sharpness`."""
        return f"{self.short}@{self.extractor}" if self.extractor else self.short

    @property
    def feature_set(self) -> str:
        """The name of the set of features that it needs: an extractor, `pixels`, or its own network."""
        return self.features or self.extractor

    def name_over(self, counts: Iterable[int]) -> str:
        """Return the name for cells of one or several numbers of images, as in `fid_mini_n512 or n1024`."""
        found = sorted({*counts}) or [0]
        return " or ".join([self.name(found[0]), *(f"n{n}" for n in found[1:])])

    def name(self, n: int) -> str:
        """Return the name with the protocol, for instance `fid_mini_n512`."""
        return f"{self.short}_{'-'.join(filter(None, (self.network, self.extractor)))}_n{n}"


def _accuracy(features: _Features, _: RealImages | None, groups: Groups | None) -> Estimate:
    named = features["attributes_named"]
    if not named.all():
        raise ValueError("a prompt names no attribute; attribute accuracy needs at least one in each")
    return mean_estimate(features["attributes_right"] / named, groups, shares=True)


def _fid(features: _Features, real: RealImages | None, groups: Groups | None) -> Estimate:
    return frechet_estimate(features["image"], _given(real).reference, groups=groups)


def _kid(features: _Features, real: RealImages | None, groups: Groups | None) -> Estimate:
    return kernel_estimate(features["image"], _given(real).reference.kernel, groups=groups)


def _kid_instead(features: _Features, real: RealImages | None, groups: Groups | None) -> Estimate:
    return kernel_fallback(features["image"], _given(real).reference, groups=groups)


def _cmmd(features: _Features, real: RealImages | None, groups: Groups | None) -> Estimate:
    return cmmd_estimate(features["image"], _given(real).directions, groups)


def _masked_fid(features: _Features, _: RealImages | None, groups: Groups | None) -> Estimate:
    return frechet_estimate(features["image_masked"], Reference.of(features["real_masked"]), groups=groups)


def _masked_kid(features: _Features, _: RealImages | None, groups: Groups | None) -> Estimate:
    return kernel_fallback(features["image_masked"], Reference.of(features["real_masked"]), groups=groups)


def _mean_of(
    short: str,
    title: str,
    higher_is_better: bool,
    digits: int,
    features: str | None = None,
    network: str | None = None,
    shares: bool = False,
) -> Metric:
    """Return a score that is the mean of one number per image, or of one share from 0 to 1."""

    def found(features: _Features, _: RealImages | None, groups: Groups | None) -> Estimate:
        return mean_estimate(features[short], groups, shares)

    return Metric(
        *(short, title, higher_is_better, (short,), found, digits),
        features=features,
        network=network or features,
        experimental=features not in (None, PIXELS),
    )


def _pairwise_distance(features: _Features, _: RealImages | None, groups: Groups | None) -> Estimate:
    return pairwise_distance_estimate(features["image"], groups)


def _vendi(features: _Features, _: RealImages | None, groups: Groups | None) -> Estimate:
    return vendi_estimate(features["image"], groups)


def _pairwise_lpips(features: _Features, _: RealImages | None, groups: Groups | None) -> Estimate:
    return mean_of_prompts(features["pairwise_lpips"], groups)


def _among_real(
    short: str, title: str, estimate: Callable[[NDArray[Any], Neighbourhood, Groups | None], Estimate]
) -> Metric:
    """Return a score of the images' neighbourhoods among the real images."""

    def found(features: _Features, real: RealImages | None, groups: Groups | None) -> Estimate:
        return estimate(features["image"], _given(real).neighbourhood, groups)

    return Metric(short, title, True, ("image",), found, 3, needs_reference=True)


def _given(real: RealImages | None) -> RealImages:
    if real is None:
        raise ValueError("reference images are missing; a distance needs them")
    return real


_KID = Metric("kid", "Kernel distance", False, ("image",), _kid, 3, needs_reference=True)
_KID_INSTEAD = replace(_KID, estimate=_kid_instead)
_MASK = ("image_masked", "real_masked")
_MASKED_KID = Metric("kid", "Kernel distance, mask", False, _MASK, _masked_kid, 3)

METRICS: dict[str, Metric] = {
    "fid": Metric("fid", "Fréchet distance", False, ("image",), _fid, 2, needs_reference=True, fallback=_KID_INSTEAD),
    "kid": _KID,
    "cmmd": Metric("cmmd", "CMMD", False, ("image",), _cmmd, 3, needs_reference=True),
    "attribute_accuracy": Metric(
        "attribute_accuracy", "Attribute accuracy", True, ("attributes_named", "attributes_right"), _accuracy, 3
    ),
    "pairwise_distance": Metric(
        *("pairwise_distance", "Distance within a prompt", True, ("image",), _pairwise_distance, 4), of_prompts=True
    ),
    "vendi_score": Metric("vendi_score", "Vendi score of a prompt", True, ("image",), _vendi, 3, of_prompts=True),
    "pairwise_lpips": Metric(
        *("pairwise_lpips", "LPIPS within a prompt", True, ("pairwise_lpips",), _pairwise_lpips, 4),
        features="pairwise_lpips",
        experimental=True,
        network="alexnet",
        of_prompts=True,
    ),
    "masked_fid": Metric("masked_fid", "Fréchet distance, mask", False, _MASK, _masked_fid, 2, fallback=_MASKED_KID),
    **{
        metric.short: metric
        for metric in (
            _among_real("precision", "Precision", precision_estimate),
            _among_real("recall", "Recall", recall_estimate),
            _among_real("density", "Density", density_estimate),
            _among_real("coverage", "Coverage", coverage_estimate),
            _mean_of("clip_score", "CLIP score", True, 2),
            _mean_of("sharpness", "Sharpness [levels]", True, 2, PIXELS),
            _mean_of("bits_per_pixel", "Lossless coding [bits per pixel]", True, 2, PIXELS),
            _mean_of("high_frequency", "High frequencies [levels]", True, 2, PIXELS),
            _mean_of("gradient_entropy", "Entropy of gradients [bits]", True, 3, PIXELS),
            _mean_of("pick_score", "PickScore", True, 2, "pick_score", "pickscore"),
            _mean_of("image_reward", "ImageReward", True, 3, "image_reward", "imagereward"),
            _mean_of("aesthetic_score", "Aesthetic score", True, 2, "aesthetic_score", "laion"),
            _mean_of("image_complexity", "Image complexity", True, 4, "image_complexity", "icnet"),
            _mean_of("hps_v2", "HPSv2.1", True, 2, "hps_v2", "hpsv21"),
            _mean_of("vqa_score", "VQAScore", True, 3, "vqa_score", "instructblip", shares=True),
            _mean_of("style_similarity", "Similarity to the style", True, 2),
            _mean_of("image_similarity", "Similarity to the image prompt", True, 2),
            _mean_of("background_psnr", "PSNR outside the mask [dB]", True, 2, PIXELS),
            _mean_of("background_lpips", "LPIPS outside the mask", False, 4, "background_lpips", "alexnet"),
            _mean_of("edge_agreement", "Agreement of edges", True, 3, PIXELS, "canny", shares=True),
            _mean_of("depth_error", "Error of depth", False, 4, PIXELS, "dpt"),
            _mean_of("temporal_consistency", "Consistency in time", True, 2),
            _mean_of("flicker", "Flicker [levels]", False, 3, PIXELS),
            _mean_of("path_error", "Distance from a straight path [pixels]", False, 3, PIXELS),
            _mean_of("speed", "Speed [pixels per frame]", True, 3, PIXELS),
        )
    },
}


@cache
def metric_of(score: str) -> Metric:
    """Return the score of a name in settings, with its extractor and its fallback's: `fid@mini`, `sharpness`."""
    short, extractor = split_score(score)
    metric = METRICS[short]
    if extractor is None:
        return metric
    fallback = metric.fallback and replace(metric.fallback, extractor=extractor)
    return replace(metric, extractor=extractor, fallback=fallback)
