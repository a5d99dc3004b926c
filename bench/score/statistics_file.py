"""Statistics of reference images in the files that others publish: `.npz` with `mu` and `sigma`, or `feats`.

pytorch-fid and clean-fid write mean (d,) and covariance (d, d) with divisor n − 1, as torch-fidelity computes them;
clean-fid writes the features (n, d) of its KID as `feats` beside them (`…_kid.npz`). Files that tcd-bench writes have
further members, which other readers ignore: `count`, `extractor` (its identity) and `protocol` (JSON).
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.records.errors import BenchError, check_path
from bench.score.frechet import Reference

_CLEAN_FID = re.compile(r"_(clean|legacy_pytorch|legacy_tensorflow)(_clip_vit_b_32)?_[^_]+_[^_]+?(?:_kid)?\.npz$")
"""The end of the names of clean-fid's files: how it resizes, another network than Inception, split, resolution."""
_ASYMMETRY, _NEGATIVE = 1e-6, 1e-4
"""What rounding may leave, as a share of the largest value."""
_UNREADABLE = (
    ValueError,
    KeyError,
    OSError,
    EOFError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
)


@dataclass(frozen=True)
class Statistics:
    """The content of a file: a reference, the number of its images, and what made it, as far as the file says it.

    `extractor` is an identity of tcd-bench. `resizer` and `network` are those that clean-fid's file name states.
    """

    reference: Reference
    count: int | None = None
    extractor: str | None = None
    protocol: Mapping[str, str] = field(default_factory=dict)
    resizer: str | None = None
    network: str | None = None


def read_statistics_file(path: str | Path) -> Statistics:
    """Return the statistics in a file; nothing in it is executed.

    Raises BenchError for a file that is missing, damaged, pickled, or holds something else.
    """
    place = Path(path).expanduser()
    check_path(f"{path}", place, "file", "give a file with mu and sigma, as clean-fid and pytorch-fid write it")
    try:
        if not zipfile.is_zipfile(place):
            raise ValueError("it is not an archive of arrays")
        with np.load(place, allow_pickle=False) as archive:
            known = ("mu", "sigma", "feats", "count", "extractor", "protocol")
            members = {name: archive[name] for name in known if name in archive.files}
            there = ", ".join(archive.files[:8]) or "nothing"
        if "feats" not in members and not {"mu", "sigma"} <= members.keys():
            raise ValueError(f"it holds {there} and not mu and sigma, or feats")
        return _to_statistics(place.name, members)
    except _UNREADABLE as error:
        reason = "it holds pickled objects" if "pickle" in str(error).lower() else " ".join(str(error).split())
        raise BenchError(
            f"{path} cannot be read as statistics ({reason or type(error).__name__}); give an .npz with mu (d,) and "
            "sigma (d, d), or feats (n, d), without pickled objects"
        ) from error


def write_statistics_file(
    path: str | Path,
    reference: Reference,
    extractor: str | None = None,
    protocol: Mapping[str, str] | None = None,
    count: int | None = None,
) -> None:
    """Write mean and covariance of a reference as `mu` and `sigma`; `read_statistics_file` returns them exactly.

    `extractor` is the identity of the features. Raises BenchError where the file cannot be written.
    """
    members: dict[str, Any] = {"mu": reference.moments.mean, "sigma": reference.moments.covariance}
    count = count or (len(reference.features) if reference.has_images else None)
    further = {"count": count, "extractor": extractor, "protocol": json.dumps(protocol) if protocol else None}
    members |= {name: np.array(value) for name, value in further.items() if value is not None}
    place = Path(path).expanduser()
    if place.suffix != ".npz":
        raise BenchError(f"{path} was given; the name of a file of statistics ends in .npz")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(place, allow_pickle=False, **members)
    except OSError as error:
        raise BenchError(f"{path} cannot be written ({error.strerror}); choose another place") from error


def _to_statistics(name: str, members: Mapping[str, NDArray[Any]]) -> Statistics:
    """Raises ValueError for arrays that are not statistics."""
    if "feats" in members:
        reference = Reference.of(members["feats"])
        count: int | None = len(reference.features)
    else:
        mean, covariance = (_numbers(members, member) for member in ("mu", "sigma"))
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or not len(mean):
            raise ValueError(f"mu has the shape {mean.shape} and sigma {covariance.shape}")
        largest = float(np.abs(covariance).max())
        if float(np.abs(covariance - covariance.T).max()) > _ASYMMETRY * largest:
            raise ValueError("sigma is not symmetric, so it is not a covariance")
        if float(np.diagonal(covariance).min()) < -_NEGATIVE * largest:
            raise ValueError("sigma has negative variances, so it is not a covariance")
        reference = Reference.of_moments(mean, covariance)
        count = int(members["count"]) if "count" in members else None
    extractor = str(members["extractor"]) if "extractor" in members else None
    protocol = json.loads(str(members["protocol"])) if "protocol" in members else {}
    named = _CLEAN_FID.search(name.lower())
    network = None if named is None else "CLIP ViT-B/32" if named[2] else "Inception"
    return Statistics(reference, count, extractor, protocol, named and named[1], network)


def _numbers(members: Mapping[str, NDArray[Any]], member: str) -> NDArray[np.float64]:
    values = members[member]
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"{member} holds {values.dtype} and not numbers")
    if not np.isfinite(values).all():
        raise ValueError(f"{member} holds NaN or infinity")
    return values.astype(np.float64)
