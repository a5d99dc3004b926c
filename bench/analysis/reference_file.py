"""References of Fréchet distances from and to the files of statistics that others publish."""

from __future__ import annotations

from pathlib import Path

from numpy.typing import ArrayLike

from bench.records.errors import BenchError
from bench.score.frechet import Reference
from bench.score.moments import as_floats
from bench.score.statistics_file import read_statistics_file, write_statistics_file
from bench.store.store import Store


def read_statistics(path: Path | str) -> Reference:
    """Return the reference in a `.npz` with `mu` and `sigma`, or `feats`, as pytorch-fid and clean-fid write them.

    It takes the place of features in `frechet_distance` and `frechet_difference`; of mean and covariance alone there is
    no kernel distance and no noise of the reference. Nothing in the file is executed. Raises BenchError for a file that
    is damaged, pickled, or holds something else.
    """
    return read_statistics_file(path).reference


def write_statistics(
    path: Path | str, reference: ArrayLike | Reference | Path | str, extractor: str | None = None
) -> None:
    """Write mean and covariance of a reference to a `.npz` with `mu` and `sigma`, in float64.

    `reference` is features (m, d), a `Reference`, or the directory or URL of a run, whose reference features by
    `extractor` (by default its only one) are taken; the file then says which extractor and preparation they are of.
    Raises BenchError where the run has no such features or the file cannot be written, ValueError for unfit features.
    """
    if isinstance(reference, Reference):
        write_statistics_file(path, reference)
    elif isinstance(reference, str | Path):
        _write_of_run(path, Store(reference, writable=False), extractor)
    else:
        write_statistics_file(path, Reference.of(as_floats(reference)))


def _write_of_run(path: Path | str, store: Store, extractor: str | None) -> None:
    run = store.run()
    names = [*run.references]
    if extractor not in names and not (extractor is None and len(names) == 1):
        given = "no extractor" if extractor is None else f"extractor={extractor}"
        raise BenchError(
            f"{given} was given, and results={store.location} has reference features by {', '.join(names) or 'none'}; "
            "name one of them"
        )
    name = extractor or names[0]
    features = store.load_reference(run.references[name])
    if features is None:
        raise BenchError(f"results={store.location} holds no reference features by {name}; start the same run again")
    parts = store.load_reference_parts(run.references[name])
    reference = Reference(features, parts)
    write_statistics_file(path, reference, run.features[name], run.protocols.get(name))
