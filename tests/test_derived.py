"""Packaged weights that are stored as differences become complete directories."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bench.checkpoints import derived, sources
from bench.checkpoints.sources import local_path, name_weights

ORIGINAL = {
    "conv.weight": np.arange(24, dtype=np.float16).reshape(2, 3, 2, 2),
    "norm.weight": np.ones(3, np.float16),
    "up.weight": np.ones(2, np.float16),
}


@pytest.fixture
def below(tmp_path: Path) -> Path:
    """An original, a directory derived from it, and one derived from that."""
    (tmp_path / "teacher" / "unet").mkdir(parents=True)
    (tmp_path / "teacher" / "tokenizer").mkdir()
    (tmp_path / "teacher" / "tokenizer" / "words.json").write_text("[]")
    save_file(ORIGINAL, tmp_path / "teacher" / "unet" / "model.safetensors")
    changes = {
        "conv.weight.up": np.asarray([[0.5], [2]], np.float16),
        "conv.weight.down": np.ones((1, 12), np.float16),
        "norm.weight": np.zeros(5, np.float16),
    }
    derive(tmp_path / "ink", "teacher", changes, without=["up."])
    derive(tmp_path / "twice", "ink", {"norm.weight": np.full(2, 7, np.float16)})
    return tmp_path


def derive(directory: Path, original: str, changes: dict[str, np.ndarray], without: list[str] | None = None) -> None:
    (directory / "unet").mkdir(parents=True)
    (directory / "unet" / "config.json").write_text("{}")
    name = "unet/model.safetensors"
    index = {"copied": {"tokenizer": f"{original}/tokenizer"}, "changed": {name: f"{original}/{name}"}}
    (directory / derived.INDEX).write_text(json.dumps(index | {"without": without or []}))
    save_file(changes, directory / f"{name}{derived.CHANGES}")


def test_a_derived_directory_is_completed_and_an_ordinary_one_is_itself(below: Path) -> None:
    assert derived.completed(below / "teacher", below) == below / "teacher"
    whole = derived.completed(below / "ink", below)
    files = sorted(path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file())
    assert files == ["tokenizer/words.json", "unet/config.json", "unet/model.safetensors"]
    tensors = load_file(whole / "unet" / "model.safetensors")
    assert set(tensors) == {"conv.weight", "norm.weight"}
    expected = ORIGINAL["conv.weight"] + np.asarray([0.5, 2], np.float16)[:, None, None, None]
    assert np.array_equal(tensors["conv.weight"], expected)
    assert tensors["conv.weight"].dtype == np.float16
    assert tensors["norm.weight"].shape == (5,)


def test_what_is_derived_twice_has_both_changes(below: Path) -> None:
    tensors = load_file(derived.completed(below / "twice", below) / "unet" / "model.safetensors")
    assert tensors["conv.weight"][1, 0, 0, 0] == 14
    assert tensors["norm.weight"].tolist() == [7, 7]


def test_names_of_the_original_get_a_prefix_and_own_files_go_before_copied_ones(below: Path) -> None:
    derive(below / "long", "teacher", {"own.weight": np.ones(1, np.float16)})
    index = json.loads((below / "long" / derived.INDEX).read_text())
    (below / "long" / derived.INDEX).write_text(json.dumps(index | {"prefixes": {"unet/model.safetensors": "model."}}))
    (below / "long" / "tokenizer").mkdir()
    (below / "long" / "tokenizer" / "words.json").write_text("[1]")
    whole = derived.completed(below / "long", below)
    tensors = load_file(whole / "unet" / "model.safetensors")
    assert set(tensors) == {*(f"model.{name}" for name in ORIGINAL), "own.weight"}
    assert (whole / "tokenizer" / "words.json").read_text() == "[1]"


def test_a_file_without_an_original_is_stored_in_8_bits(below: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = np.logspace(-3, 1, 80)[:, None, None, None]  # rows differ in size
    given = {
        "conv.weight": (sizes * rng.normal(size=(80, 3, 3, 3))).astype(np.float16),
        "empty.weight": np.zeros((64, 64), np.float16),
        "first.weight": rng.normal(size=(24, 36)).astype(np.float16),
        "layer.lora_A.weight": np.ones((8, 40), np.float16),
        "norm.weight": rng.normal(size=300).astype(np.float16),
    }
    derive(below / "own", "teacher", {})
    index = json.loads((below / "own" / derived.INDEX).read_text())
    (below / "own" / derived.INDEX).write_text(json.dumps(index | {"changed": {"model.safetensors": ""}}))
    stored = derived.pack(given)
    in_8_bits = {name for name, value in stored.items() if value.dtype == np.int8}
    assert in_8_bits == {"conv.weight", "empty.weight", "layer.lora_A.weight"}
    save_file(stored, below / "own" / f"model.safetensors{derived.CHANGES}")
    found = load_file(derived.completed(below / "own", below) / "model.safetensors")
    assert set(found) == set(given)
    assert all(np.array_equal(found[name], given[name]) for name in ("norm.weight", "first.weight"))
    assert not found["empty.weight"].any()
    ours, theirs = (tensors["conv.weight"].astype(float).reshape(80, -1) for tensors in (found, given))
    assert (np.abs(ours - theirs).max(axis=1) < np.abs(theirs).max(axis=1) / 200).all()


def test_it_is_completed_once_and_named_by_all_that_it_holds(below: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.resources, "files", lambda _: below.parent)
    source, original = f"bench://{below.name}/ink", below / "teacher" / "unet" / "model.safetensors"
    monkeypatch.setattr(derived, "completed", lambda directory, _: completed(directory, below))
    assert local_path(source) == local_path(source)
    name = name_weights(source)
    derived._complete.cache_clear()
    assert name_weights(source) == name, "another copy has the same name"
    save_file({**ORIGINAL, "conv.weight": ORIGINAL["conv.weight"] + np.float16(1)}, original)
    derived._complete.cache_clear()
    assert name_weights(source) != name


completed = derived.completed
