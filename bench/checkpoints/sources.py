"""Sources of weights: identified by content, located without loading them. Imports no torch."""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache
from importlib import resources
from pathlib import Path

from bench.checkpoints import derived
from bench.checkpoints.manifest import MANIFEST
from bench.experiment.extractors import INCEPTION
from bench.records.errors import BenchError, check_path

PACKAGED = "bench://"
ARCHITECTURE = "architecture://"
LORA = "architecture://lora"
"""Random weights: of a pipeline, as in architecture://sdxl, and of a LoRA."""
WEIGHT_FILES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth")


class NotFetchedError(BenchError):
    """Weights of the hub that are missing from the local cache, even in part; `tcd-bench fetch` downloads them."""


def local_path(source: str) -> Path | None:
    """Return the directory or file that a source names, or None for a hub id; `bench://x` is the package's own data.

    A source that looks like a path is treated as a path, whether it exists or not.
    """
    if source.startswith(PACKAGED):
        package = Path(str(resources.files("bench")))
        return derived.completed(package / source.removeprefix(PACKAGED), package / "mini" / "weights")
    path = Path(source).expanduser()
    is_path = path.is_absolute() or source.startswith(".") or source.endswith((*WEIGHT_FILES, "/"))
    return path if is_path or not _HUB_ID.fullmatch(source) or path.exists() else None


_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


def is_at_hand(source: str) -> bool:
    """Whether a source is local, unlike a hub id, whose content may change."""
    return source.startswith(ARCHITECTURE) or local_path(source) is not None


def weights_directory(source: str, revision: str | None = None) -> Path:
    """Return the directory of a source's files, for a hub repository in the local cache; the file where it is one.

    Raises BenchError when nothing exists there, for a hub repository NotFetchedError.
    """
    if source == INCEPTION:
        file = torch_checkpoints() / MANIFEST["inception"].file
        if not file.is_file():
            raise NotFetchedError(f"{INCEPTION}: {file} is missing; fetch it with `tcd-bench fetch`")
        return file
    path = local_path(source)
    if path is None:
        return _snapshot(source, revision)
    return check_path(source, path, "any", "give a directory or file of weights, or a hub id")


def name_weights(source: str, revision: str | None = None) -> str:
    """Return a hash over all files of a local directory, or the commit of a cached hub repository.

    Of random weights it is `random-` and a hash of the configuration. Raises BenchError when nothing exists there.
    """
    if source == LORA:
        return "random-lora"  # defined in the code
    if source.startswith(ARCHITECTURE):
        return f"random-{hashlib.sha256(read_architecture(source.removeprefix(ARCHITECTURE))).hexdigest()[:16]}"
    if source == INCEPTION:
        return hashlib.sha256(weights_directory(source).read_bytes()).hexdigest()[:16]
    root = weights_directory(source, revision)
    if local_path(source) is None:
        return root.name
    if root.is_file():
        return name_files([root], root.parent)
    files = sorted(file for file in root.rglob("*") if file.is_file())
    if not files:
        raise BenchError(f"{source}: the directory is empty; it must hold a model as save_pretrained writes it")
    return name_files(files, root)


def name_files(files: list[Path], root: Path) -> str:
    """Return a hash over files and their names below `root`; for a single file over its content alone."""
    digest = hashlib.sha256()
    for file in files:
        state = file.stat()
        if len(files) > 1:
            digest.update(file.relative_to(root).as_posix().encode() + b"\0")
        digest.update(_hash_file(file, state.st_size, state.st_mtime_ns))
    return digest.hexdigest()[:16]


@cache
def _hash_file(path: Path, size: int, changed_ns: int) -> bytes:
    """Hash a file; cached while it is unchanged, since a command names its gigabytes of weights more than once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def torch_checkpoints() -> Path:
    """Return the folder of single files that torch downloads."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def read_architecture(name: str) -> bytes:
    """Return the configurations of a pipeline's models as JSON; raises BenchError for an unknown name."""
    path = Path(__file__).parent / "architectures" / f"{name}.json"
    try:
        return path.read_bytes()
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.json")))
        raise BenchError(f"{ARCHITECTURE}{name}: no such architecture; choose one of {known}") from error


def _snapshot(source: str, revision: str | None) -> Path:
    """Return a repository's files in the local hub cache; their directory is named by the commit."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(source, revision=revision, cache_dir=constants.HF_HUB_CACHE, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError) as error:
        wanted = f" --revision {revision}" if revision else ""
        raise NotFetchedError(
            f"{source}: no such directory, and not in the local hub cache; give a directory that exists, or fetch it "
            f"with `tcd-bench fetch`, or `hf download {source}{wanted}`"
        ) from error
    return Path(found)
