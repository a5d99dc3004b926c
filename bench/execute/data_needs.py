"""Data of an experiment that nothing downloads: prompts and reference images, what is missing and how to get it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from bench.checkpoints.data_sets import advice
from bench.experiment.config import Experiment
from bench.records.errors import BenchError
from bench.records.reference import LOOKS, WORLD, is_statistics, reference_in_words


def data_needs(experiment: Experiment) -> Iterator[tuple[str, str, bool]]:
    """Yield subject, state and whether it is complete, of all data but that of the package."""
    prompts, reference = experiment.prompts, experiment.reference
    needed = {}
    if prompts.source != WORLD:
        needed["prompts"] = prompts.source, f"{prompts.count} of {prompts.source}"
    if reference.source not in LOOKS and _needs_reference(experiment):
        needed["reference images"] = reference.source, reference_in_words(asdict(reference))
    for subject, (source, state) in needed.items():
        try:
            _look(experiment, subject)
            yield subject, state, True
        except BenchError as error:
            yield subject, "; ".join(filter(None, (str(error), advice(source)))), False


def _needs_reference(experiment: Experiment) -> bool:
    from bench.score.metrics import metric_of

    return any(metric_of(score).needs_reference for score in experiment.scores)


def _look(experiment: Experiment, subject: str) -> None:
    """Raise BenchError where the data is missing or holds too little; images are counted and not read."""
    from bench.execute.feature_extraction import prompts_of
    from bench.execute.reference_statistics import check_statistics
    from bench.generate.reference_images import real_image_files

    reference = experiment.reference
    if subject == "prompts":
        prompts_of(experiment, experiment.prompts.count)
    elif is_statistics(reference.source):
        check_statistics(experiment)
    else:
        real_image_files(reference.source, reference.count)
