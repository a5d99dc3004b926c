"""What weights a source holds: named by content, found without loading them. No torch."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from importlib import resources
from pathlib import Path

from bench.records import BenchError

PACKAGED = "bench://"
ARCHITECTURE = "architecture://"
LORA = "architecture://lora"
"""Random weights: a pipeline's, as in architecture://sdxl, and a LoRA's."""
INCEPTION = "inception://"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""The network of published FIDs, where torch-fidelity and torchmetrics keep it: among torch's own downloads."""


def local_path(source: str) -> Path | None:
    """The directory that a source names, or None for a hub id; `bench://x` is the package's own data."""
    if source.startswith(PACKAGED):
        return Path(str(resources.files("bench"))) / source.removeprefix(PACKAGED)
    path = Path(source)
    return path if path.is_absolute() or source.startswith(".") or path.is_dir() else None


def is_at_hand(source: str) -> bool:
    """Whether a source is no hub id, whose content another could change."""
    return source.startswith(ARCHITECTURE) or local_path(source) is not None


def weights_directory(source: str, revision: str | None = None) -> Path:
    """The directory that a source's files lie in, a hub repository's in the local cache; of Inception the file.

    Raises BenchError when there is nothing there.
    """
    if source == INCEPTION:
        return _inception()
    path = local_path(source)
    return path if path is not None else _repository(source) / "snapshots" / _cached_commit(source, revision)


def name_weights(source: str, revision: str | None = None) -> str:
    """A hash over all files of a local directory, or the commit of a cached hub repository.

    Raises BenchError when there is nothing there.
    """
    if source.startswith(ARCHITECTURE):
        return _name_architecture(source)
    if source == INCEPTION:
        return hashlib.sha256(weights_directory(source).read_bytes()).hexdigest()[:16]
    path = local_path(source)
    if path is None:
        return _cached_commit(source, revision)
    if not path.is_dir():
        raise BenchError(f"{source}: there is no such directory; give a directory with a model, or a hub id")
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if not files:
        raise BenchError(f"{source}: the directory is empty; it must hold a model as save_pretrained writes it")
    digest = hashlib.sha256()
    for file in files:
        state = file.stat()
        digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        digest.update(_hash_file(file, state.st_size, state.st_mtime_ns))
    return digest.hexdigest()[:16]


@cache
def _hash_file(path: Path, size: int, changed_ns: int) -> bytes:
    """Once, as long as a file stays as it is: a command names its weights more than once, and they are gigabytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def is_tower(directory: Path) -> bool:
    """Whether a directory holds a DINOv2 in the layout of transformers, which knows no captions."""
    config = directory / "config.json"
    return config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("model_type") == "dinov2"


def torch_checkpoints() -> Path:
    """Where torch keeps the single files that it fetches."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def _inception() -> Path:
    path = torch_checkpoints() / INCEPTION_FILE
    if not path.is_file():
        raise BenchError(
            f"evaluator.source={INCEPTION}: {path} is not there; fetch it with "
            '`python -c "import torchmetrics.image as t; t.FrechetInceptionDistance()"`'
        )
    return path


def _name_architecture(source: str) -> str:
    """`random-` and a hash of the configuration; a LoRA's is the code's own."""
    if source == LORA:
        return "random-lora"
    path = Path(__file__).parent / "architectures" / f"{source.removeprefix(ARCHITECTURE)}.json"
    try:
        return f"random-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.json")))
        raise BenchError(f"{source}: there is no such architecture; choose one of {known}") from error


def _repository(source: str) -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / f"models--{source.replace('/', '--')}"


def _cached_commit(source: str, revision: str | None) -> str:
    repository = _repository(source)
    reference = repository / "refs" / (revision or "main")
    if revision and (repository / "snapshots" / revision).is_dir():
        return revision
    if not reference.is_file():
        wanted = f" --revision {revision}" if revision else ""
        raise BenchError(
            f"{source}: neither a directory nor in the local hub cache; give a directory that exists, or fetch it with "
            f"`hf download {source}{wanted}`"
        )
    commit = reference.read_text().strip()
    if not (repository / "snapshots" / commit).is_dir():
        raise BenchError(f"{source}: the local hub cache names commit {commit} and lacks it; fetch it again")
    return commit
