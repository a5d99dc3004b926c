"""Weights of an experiment, fetched from the hub or from their publishers into the local caches."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from socket import gaierror
from urllib.parse import urlsplit

from bench.checkpoints.files import components_of, wanted_files
from bench.checkpoints.headers import read_json
from bench.checkpoints.hub_notes import note_of
from bench.checkpoints.inspect import Found, inspect
from bench.checkpoints.manifest import MANIFEST, check_file
from bench.checkpoints.preference_models import Needed
from bench.checkpoints.required import Required, is_random, required
from bench.checkpoints.sources import (
    NotFetchedError,
    is_at_hand,
    local_path,
    torch_checkpoints,
    weights_directory,
)
from bench.experiment.config import Experiment
from bench.experiment.extractors import INCEPTION
from bench.records.errors import BenchError


def fetch_needs(experiment: Experiment) -> Iterator[tuple[str, str, bool]]:
    """Fetch missing checkpoints one after another; yields subject, result, and whether it is complete now.

    Complete means that every file that will be read exists in full; an interrupted download is resumed.
    """
    unreachable: set[str] = set()
    for entry in required(experiment):
        try:
            state = _fetch(entry, unreachable)
        except BenchError as error:
            yield entry.subject, str(error), False
        except Exception as error:  # the hub raises errors of many kinds, which share no base
            if is_unreachable(error):
                unreachable.add(_host(entry))
                error = _no_connection(entry)
            elif type(error).__name__ == "GatedRepoError":
                error = BenchError(
                    f"{entry.source} is gated: accept its conditions on https://huggingface.co/{entry.source}, log in "
                    "with `hf auth login`, and run the same command again"
                )
            yield entry.subject, " ".join(str(error).split()) or type(error).__name__, False
        else:
            if state is not None:
                yield entry.subject, state, True


def is_unreachable(error: BaseException | None) -> bool:
    """Whether an error says that there is no connection to a host, or comes from one that does."""
    while error is not None:
        name = type(error).__name__
        if isinstance(error, ConnectionError | TimeoutError | gaierror) or name.startswith(("Connect", "OfflineMode")):
            return True
        reason = getattr(error, "reason", None)  # of urllib's URLError
        error = reason if isinstance(reason, BaseException) else error.__cause__ or error.__context__
    return False


def _host(entry: Required) -> str:
    address = MANIFEST[str(entry.manifest)].source if entry.manifest in MANIFEST else entry.source
    return urlsplit(address).hostname or "the hub"


def _no_connection(entry: Required) -> BenchError:
    return BenchError(
        f"{entry.source} is not on this machine, and there is no connection to {_host(entry)}; run the same command "
        "again where there is one, what is complete stays"
    )


def _fetch(entry: Required, unreachable: Collection[str]) -> str | None:
    """Return where the weights are now; None if they were available locally, or none are needed."""
    if entry.source in (INCEPTION, "lpips://"):
        return _fetch_file(entry, unreachable)
    if "://" in entry.source and entry.manifest is not None:
        return str(Needed(str(entry.manifest), entry.source).path())
    if local_path(entry.source) is not None:
        weights_directory(entry.source)  # raises where there is none
    return None if is_random(entry) or is_at_hand(entry.source) else _fetch_repository(entry, unreachable)


def _fetch_repository(entry: Required, unreachable: Collection[str]) -> str:
    """Raises BenchError or OSError where it cannot be fetched, or is incomplete afterwards."""
    try:
        return f"{entry.source} at {inspect(entry).identity[:12]}, already cached"
    except NotFetchedError:
        if _host(entry) in unreachable:
            raise _no_connection(entry) from None  # each attempt takes many seconds
    files = _files_on_hub(entry)
    from huggingface_hub import snapshot_download

    path = snapshot_download(entry.source, revision=entry.revision, allow_patterns=files)
    found: Found = inspect(entry)
    return f"{entry.source}, {len(files)} files in {path} ({note_of(entry.source)}), {found.identity[:12]}"


def _files_on_hub(entry: Required) -> list[str]:
    from huggingface_hub import HfApi, hf_hub_download

    names = HfApi().list_repo_files(entry.source, revision=entry.revision)
    parts = None
    if entry.kind in ("pipeline", "config") and "model_index.json" in names:
        index = hf_hub_download(entry.source, "model_index.json", revision=entry.revision)
        parts = components_of(read_json(Path(index)))
    if entry.manifest is not None and MANIFEST[entry.manifest].file:
        entry = replace(entry, file=MANIFEST[entry.manifest].file)
    return wanted_files(entry, names, parts)


def _fetch_file(entry: Required, unreachable: Collection[str]) -> str:
    name = str(entry.manifest)
    weights = MANIFEST[name]
    path = torch_checkpoints() / weights.file
    if path.is_file():
        return f"{path}, hash {check_file(path, name)}, already cached"
    if _host(entry) in unreachable:
        raise _no_connection(entry)
    from torch.hub import download_url_to_file

    path.parent.mkdir(parents=True, exist_ok=True)
    download_url_to_file(weights.source, str(path), hash_prefix=weights.sha256, progress=False)
    return f"{path}, fetched, hash {check_file(path, name)}"
