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
    """A score. `title` is for people; `name(evaluator, n)` says the protocol, so that no bare "FID" is ever printed."""

    short: str
    title: str
    higher_is_better: bool
    needs: tuple[str, ...]
    estimate: Callable[[Features, RealImages | None], Estimate]
    digits: int
    needs_reference: bool = False

    def name(self, evaluator: str, n: int) -> str:
        """For instance `fid_mini_n512`."""
        return f"{self.short}_{evaluator}_n{n}"


def _accuracy(features: Features, _: RealImages | None) -> Estimate:
    named = features["attributes_named"]
    if not named.all():
        raise ValueError("a prompt names no attribute; attribute accuracy needs at least one in each")
    return mean_estimate(features["attributes_right"] / named)


def _fid(features: Features, real: RealImages | None) -> Estimate:
    return frechet_estimate(features["image"], _given(real).reference)


def _kid(features: Features, real: RealImages | None) -> Estimate:
    return kernel_estimate(features["image"], _given(real).reference.kernel)


def _given(real: RealImages | None) -> RealImages:
    if real is None:
        raise ValueError("there are no reference images; a distance needs them")
    return real


METRICS: dict[str, Metric] = {
    "fid": Metric("fid", "Fréchet distance", False, ("image",), _fid, 2, needs_reference=True),
    "kid": Metric("kid", "Kernel distance", False, ("image",), _kid, 3, needs_reference=True),
    "clip_score": Metric(
        "clip_score", "CLIP score", True, ("clip_score",), lambda f, _: mean_estimate(f["clip_score"]), 2
    ),
    "attribute_accuracy": Metric(
        "attribute_accuracy", "Attribute accuracy", True, ("attributes_named", "attributes_right"), _accuracy, 3
    ),
}
