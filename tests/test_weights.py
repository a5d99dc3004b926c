"""Weights are identified by their content: any byte, any file name, or the commit in the hub's cache."""

import hashlib
import re
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from bench.checkpoints.sources import local_path, name_weights
from bench.records.errors import BenchError

COMMIT, OTHER_COMMIT = "0123456789abcdef" * 2 + "01234567", "f" * 40


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    (directory / "unet").mkdir(parents=True)
    (directory / "unet" / "weights.safetensors").write_bytes(bytes(range(256)))
    (directory / "model_index.json").write_text("{}")
    return directory


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds `owner/model` at COMMIT (main) and OTHER_COMMIT, and the tag `v1` of the latter."""
    repository = tmp_path / "hub" / "models--owner--model"
    for commit in (COMMIT, OTHER_COMMIT):
        (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "refs" / "v1").write_text(OTHER_COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_are_read_once_while_unchanged(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    digest = hashlib.file_digest

    def counted(file: Any, name: str) -> Any:
        read.append(Path(file.name).name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    name = name_weights(str(model))
    assert re.fullmatch(r"[0-9a-f]{16}", name)
    assert name_weights(str(model)) == name
    assert sorted(read) == ["model_index.json", "weights.safetensors"]
    (model / "model_index.json").write_text("[]")
    assert name_weights(str(model)) != name
    assert read[2:] == ["model_index.json"]


def test_the_name_does_not_depend_on_the_path_of_the_directory(model: Path) -> None:
    name = name_weights(str(model))
    assert name_weights(str(model.rename(model.with_name("moved")))) == name


@pytest.mark.parametrize("position", [0, 100, 255])
def test_any_changed_byte_changes_the_name(model: Path, position: int) -> None:
    before = name_weights(str(model))
    content = bytearray(range(256))
    content[position] ^= 1
    (model / "unet" / "weights.safetensors").write_bytes(bytes(content))
    assert name_weights(str(model)) != before


def test_a_file_renamed_moved_added_or_removed_changes_the_name(model: Path) -> None:
    names = [name_weights(str(model))]
    for change in (
        lambda: (model / "unet" / "weights.safetensors").rename(model / "unet" / "other.safetensors"),
        lambda: (model / "unet" / "other.safetensors").rename(model / "other.safetensors"),
        (model / "empty.txt").touch,
        (model / "model_index.json").unlink,
    ):
        change()
        names.append(name_weights(str(model)))
    assert len(set(names)) == 5


def test_bytes_that_move_from_one_file_to_the_next_change_the_name(tmp_path: Path) -> None:
    names = set()
    for contents in (("ab", "c"), ("a", "bc"), ("c", "ab"), ("abc", "")):
        for name, content in zip(("a", "b"), contents, strict=True):
            (tmp_path / name).write_text(content)
        names.add(name_weights(str(tmp_path)))
    assert len(names) == 4


def test_a_file_is_named_by_its_content_alone(model: Path) -> None:
    file = model / "unet" / "weights.safetensors"
    name = name_weights(str(file))
    assert name_weights(str(file.rename(model / "other.safetensors"))) == name


@pytest.mark.parametrize(
    "source",
    ["~/nowhere", "/no/where", "a/b/c", "./x", "models/x.safetensors", "two words", "x/", "bench://mini/nowhere"],
)
def test_sources_that_look_like_paths_are_never_searched_on_the_hub(source: str) -> None:
    said = f"^{source} does not exist; give a directory or file of weights, or a hub id$"
    with pytest.raises(BenchError, match=said):
        name_weights(source)


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    with pytest.raises(BenchError, match=f"^{tmp_path}: the directory is empty; it must hold a model"):
        name_weights(str(tmp_path))


def test_a_packaged_source_is_in_the_package() -> None:
    assert (local_path("bench://mini") / "world.py").is_file()


def test_a_hub_id_is_not_a_path_unless_such_a_directory_exists(cache: Path) -> None:
    assert local_path("owner/model") is None
    assert local_path("./owner/model") == Path("owner/model")
    (cache / "owner" / "model").mkdir(parents=True)
    assert local_path("owner/model") == Path("owner/model")


@pytest.mark.parametrize(
    ("revision", "commit"), [(None, COMMIT), ("main", COMMIT), ("v1", OTHER_COMMIT), (OTHER_COMMIT, OTHER_COMMIT)]
)
def test_a_cached_hub_model_is_named_by_its_commit(cache: Path, revision: str | None, commit: str) -> None:
    assert name_weights("owner/model", revision) == commit


def test_a_hub_model_that_is_not_cached_is_refused(cache: Path) -> None:
    message = "^owner/other: no such directory, and not in the local hub cache; .*`hf download owner/other`$"
    with pytest.raises(BenchError, match=message):
        name_weights("owner/other")


@pytest.mark.parametrize("revision", ["v2", "a" * 40])
def test_a_revision_that_is_not_cached_is_refused(cache: Path, revision: str) -> None:
    with pytest.raises(BenchError, match="not in the local hub cache"):
        name_weights("owner/model", revision)
