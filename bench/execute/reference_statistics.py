"""A reference given by a file of statistics: what it can be used for, and its place in a run's store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bench.checkpoints.extractors import dimensions_of, find_kind
from bench.experiment.config import Experiment
from bench.records.errors import BenchError
from bench.score.metrics import metric_of
from bench.score.statistics_file import Statistics, read_statistics_file
from bench.store.store import Store

if TYPE_CHECKING:
    from bench.features.extractor import Extractor

_RESIZER = {"inception": "legacy_tensorflow"}
"""What clean-fid calls the way in which an extractor here resizes."""


def check_statistics(experiment: Experiment) -> Statistics:
    """Read the file of `reference.source`; raises BenchError where the requested scores cannot be had from it.

    Everything is compared that the file says of itself: whether it holds features, their dimension, and in the name of
    clean-fid's files the network and how it resizes.
    """
    source = experiment.reference.source
    found = read_statistics_file(source)
    given = f"reference.source={source}"
    metrics = [metric for score in experiment.scores if (metric := metric_of(score)).needs_reference]
    names = list(dict.fromkeys(metric.extractor for metric in metrics))
    if len(names) > 1:
        raise BenchError(
            f"{given} holds the statistics of one extractor, and scores by {', '.join(names)} were requested; request "
            "those of one, or give a folder of images"
        )
    if not found.reference.has_images and (others := [m.score for m in metrics if m.short != "fid"]):
        raise BenchError(
            f"{given} holds mean and covariance, which give fid alone; {', '.join(others)} take the features of "
            "reference images, so omit them, or give a folder of images or clean-fid's file of features (…_kid.npz)"
        )
    for name in names:
        choice = experiment.extractors[name]
        kind = find_kind(name, choice)
        dimensions = dimensions_of(choice, kind)
        if dimensions not in (None, found.reference.d):
            raise _other_dimension(source, found.reference.d, name, dimensions)
        if found.network is not None and (found.network != "Inception" or kind != "inception"):
            raise BenchError(
                f"{given} is named as clean-fid's statistics of {found.network}, and the extractor {name} is another "
                "network; choose the one that they are of, or give a folder of images"
            )
        if found.resizer is not None and found.resizer != _RESIZER.get(kind):
            raise BenchError(
                f"{given} is named as statistics of images that clean-fid resized by its mode {found.resizer}, and "
                f"{name} resizes as its mode {_RESIZER.get(kind)} does; give the file of that mode, or a folder of "
                "images"
            )
    return found


def _other_dimension(source: str, theirs: int, name: str, ours: int | None) -> BenchError:
    return BenchError(
        f"reference.source={source} has {theirs} dimensions, and the extractor {name} has {ours}; give statistics of "
        "its features, or choose the extractor that they are of"
    )


def check_extractor(experiment: Experiment, features: Mapping[str, str], names: list[str]) -> None:
    """Raise BenchError where the file says that another extractor than that of the scores computed it."""
    known = read_statistics_file(experiment.reference.source).extractor
    for name in names:
        if known not in (None, features[name]):
            raise BenchError(
                f"reference.source={experiment.reference.source} was computed by an extractor with the identity "
                f"{known}, and {name} is {features[name]}: its weights or preparation of images differ; give "
                "statistics by the same extractor, or a folder of images"
            )


def save_statistics(
    experiment: Experiment, store: Store, identities: Mapping[str, str], extractors: Mapping[str, Extractor]
) -> None:
    """Write the reference of the file into the store, under the identity of each extractor.

    Raises BenchError where a loaded extractor turns out to have another dimension.
    """
    reference = check_statistics(experiment).reference
    for name in identities:
        found = extractors[name].image_features(np.zeros((2, 64, 64, 3), np.uint8)).shape[1]
        if found != reference.d:
            raise _other_dimension(experiment.reference.source, reference.d, name, found)
    parts = {} if reference.has_images else {"mean": reference.moments.mean, "covariance": reference.moments.covariance}
    for identity in identities.values():
        store.save_reference(identity, reference.features, parts)
