"""The scores by name: what each needs, which way is better, what it is called with its protocol. numpy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.score.estimate import Estimate, mean_estimate
from bench.score.frechet import Reference, frechet_estimate
from bench.score.kernel import kernel_estimate

Features = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class RealImages:
    """The reference images' embeddings (m, d) by a named evaluator."""

    evaluator: str
    embeddings: NDArray[np.floating]

    @cached_property
    def reference(self) -> Reference:
        """What distances need of them."""
        return Reference.of(self.embeddings)


@dataclass(frozen=True)
class Metric:
    """A score. `title` is for people; `name(evaluator, n)` says the protocol, so that no bare "FID" is ever printed.

    `judge` is what looks at the images where the evaluator does not.
    """

    short: str
    title: str
    higher_is_better: bool
    needs: tuple[str, ...]
    estimate: Callable[[Features, RealImages | None], Estimate]
    digits: int
    needs_reference: bool = False
    judge: str | None = None

    def name(self, evaluator: str, n: int) -> str:
        """For instance `fid_mini_n512`."""
        return f"{self.short}_{self.judge or evaluator}_n{n}"


def _accuracy(features: Features, _: RealImages | None) -> Estimate:
    named = features["attributes_named"]
    if not named.all():
        raise ValueError("a prompt names no attribute; attribute accuracy needs at least one in each")
    return mean_estimate(features["attributes_right"] / named)


def _fid(features: Features, real: RealImages | None) -> Estimate:
    return frechet_estimate(features["image"], _given(real).reference)


def _kid(features: Features, real: RealImages | None) -> Estimate:
    return kernel_estimate(features["image"], _given(real).reference.kernel)


def _masked_fid(features: Features, _: RealImages | None) -> Estimate:
    return frechet_estimate(features["image_masked"], Reference.of(features["real_masked"]))


def _mean_of(short: str, title: str, higher_is_better: bool, digits: int, judge: str | None = None) -> Metric:
    """A score that is the mean of one number an image."""
    return Metric(short, title, higher_is_better, (short,), lambda f, _: mean_estimate(f[short]), digits, judge=judge)


def _given(real: RealImages | None) -> RealImages:
    if real is None:
        raise ValueError("there are no reference images; a distance needs them")
    return real


METRICS: dict[str, Metric] = {
    "fid": Metric("fid", "Fréchet distance", False, ("image",), _fid, 2, needs_reference=True),
    "kid": Metric("kid", "Kernel distance", False, ("image",), _kid, 3, needs_reference=True),
    "attribute_accuracy": Metric(
        "attribute_accuracy", "Attribute accuracy", True, ("attributes_named", "attributes_right"), _accuracy, 3
    ),
    "masked_fid": Metric(
        "masked_fid", "Fréchet distance, mask", False, ("image_masked", "real_masked"), _masked_fid, 2
    ),
    **{
        metric.short: metric
        for metric in (
            _mean_of("clip_score", "CLIP score", True, 2),
            _mean_of("sharpness", "Sharpness [levels]", True, 2, "pixels"),
            _mean_of("style_similarity", "Similarity to the style", True, 2),
            _mean_of("image_similarity", "Similarity to the image prompt", True, 2),
            _mean_of("background_psnr", "PSNR outside the mask [dB]", True, 2, "pixels"),
            _mean_of("background_lpips", "LPIPS outside the mask", False, 4, "alexnet"),
            _mean_of("edge_agreement", "Agreement of edges", True, 3, "canny"),
            _mean_of("depth_error", "Error of depth", False, 4, "dpt"),
            _mean_of("temporal_consistency", "Consistency in time", True, 2),
            _mean_of("flicker", "Flicker [levels]", False, 3, "pixels"),
        )
    },
}
