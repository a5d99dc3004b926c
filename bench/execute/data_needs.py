"""Data of an experiment that nothing downloads: prompts and reference images, what is missing and how to get it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict

from bench.checkpoints.data_sets import advice
from bench.execute.feature_extraction import prompts_of
from bench.execute.reference_statistics import check_statistics
from bench.experiment.config import Experiment
from bench.generate.reference_images import real_image_files
from bench.mini.world import WORLD
from bench.records.errors import BenchError
from bench.records.reference import is_statistics, reference_in_words
from bench.score.metrics import metric_of


def data_needs(experiment: Experiment) -> Iterator[tuple[str, str, bool]]:
    """Yield subject, state and whether it is complete, of all data but that of the package."""
    prompts, reference = experiment.prompts, experiment.reference
    if prompts.source != WORLD:
        said = f"{prompts.count} of {prompts.source}"
        yield "prompts", *_look(lambda: prompts_of(experiment, prompts.count), said, prompts.source)
    if reference.source != WORLD and any(metric_of(score).needs_reference for score in experiment.scores):
        said = reference_in_words(asdict(reference))
        yield "reference images", *_look(lambda: _look_at_reference(experiment), said, reference.source)


def _look_at_reference(experiment: Experiment) -> object:
    if is_statistics(experiment.reference.source):
        return check_statistics(experiment)
    return real_image_files(experiment.reference.source, experiment.reference.count)


def _look(read: Callable[[], object], said: str, source: str) -> tuple[str, bool]:
    try:
        read()
    except BenchError as error:
        return "; ".join(filter(None, (str(error), advice(source)))), False
    return said, True
