"""Scores are added to a finished run from stored data; nothing is sampled, and nothing is lost on failure."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

import bench
from bench.__main__ import main
from bench.generate.sampling import Sampler

Overrides = Callable[..., list[str]]


@pytest.fixture
def command_of_a_run(overrides: Overrides) -> list[str]:
    """The command of a run of two cells, which has finished once."""
    few = ["method=[tcd]", "methods.tcd.steps=[2]", "methods.tcd.eta=[0,0.3]", "claim=[]", "measure.latency=false"]
    command = ["run", *overrides(*few, "measure.memory=false", "scores=[fid,clip_score]")]
    assert main(command) == 0
    return command


@pytest.fixture
def finished(command_of_a_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its results; sampling is an error from now on."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image was sampled")

    monkeypatch.setattr(Sampler, "begin", refuse)
    return tmp_path / "run"


def scores(results: Path) -> pd.DataFrame:
    return bench.load(results).set_index(["key", "score"]).sort_index()


def test_scores_of_stored_features_are_added_without_reading_images(finished: Path) -> None:
    before = scores(finished)
    shutil.rmtree(next(finished.glob("cells/*/images")))
    assert main(["score", f"results={finished}", "scores=[cmmd,bits_per_pixel,precision]"]) == 0
    after = scores(finished)
    assert {name.split("_mini")[0].split("_pixels")[0] for _, name in after.index} == {
        *("fid", "clip_score", "cmmd", "bits_per_pixel", "precision")
    }
    pd.testing.assert_frame_equal(after.loc[before.index], before)
    assert "cmmd_mini_n6" in (finished / "report.html").read_text(encoding="utf-8")


def test_another_extractor_reads_the_kept_images_and_removes_nothing(finished: Path, other_extractor: Path) -> None:
    before = scores(finished)
    command = ["score", f"results={finished}", f"+extractors.other.source={other_extractor}"]
    assert main([*command, "scores=[fid@other,clip_score@other]", "device=cpu"]) == 0
    after = scores(finished)
    assert {name for _, name in after.index} == {
        f"{score}_{name}_n6" for score in ("fid", "clip_score") for name in ("mini", "other")
    }
    pd.testing.assert_frame_equal(after.loc[before.index], before)
    ours, theirs = (after.xs(name, level="score") for name in ("fid_mini_n6", "fid_other_n6"))
    assert set(ours["protocol"]).isdisjoint(theirs["protocol"]), "scores of different extractors are not comparable"
    pd.testing.assert_series_equal(ours["value"], theirs["value"], rtol=1e-4)
    assert not (finished / "earlier").exists()


def test_an_extractor_of_the_run_cannot_be_replaced(
    finished: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = scores(finished)
    other = f"+extractors.mini.source={models}/other"
    assert main(["score", f"results={finished}", other, "scores=[cmmd]", "device=cpu"]) == 2
    assert "give the other extractor another name" in capsys.readouterr().err
    pd.testing.assert_frame_equal(scores(finished), before)


HARMS: dict[str, Callable[[bytes], bytes]] = {
    "flipped": lambda content: content[:300] + bytes([content[300] ^ 4]) + content[301:],
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda content: content[:0],
}


def test_a_damaged_image_is_refused_by_score_regenerated_by_run_and_never_scored(
    command_of_a_run: list[str], other_extractor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, whole = tmp_path / "run", tmp_path / "whole"
    shutil.copytree(results, whole)
    other = (f"+extractors.other.source={other_extractor}", "scores=[fid@other]", "device=cpu")
    assert main(["score", f"results={whole}", *other]) == 0
    before = scores(results)
    image = sorted(results.glob("cells/*/images/00002.png"))[1]
    content = image.read_bytes()
    for harm in HARMS.values():
        image.write_bytes(harm(content))
        capsys.readouterr()
        assert main(["score", f"results={results}", *other]) == 2
        said = capsys.readouterr().err
        assert "00002.png is damaged" in said
        assert "images of mini tcd 2 steps" in said
        assert "start the same tcd-bench run again" in said
        pd.testing.assert_frame_equal(scores(results), before)
    assert main(command_of_a_run) == 0
    assert image.read_bytes() == content
    pd.testing.assert_frame_equal(scores(results), before)
    assert main(["score", f"results={results}", *other]) == 0
    pd.testing.assert_frame_equal(scores(results), scores(whole))


def test_a_damaged_image_does_not_block_scores_of_stored_features(
    command_of_a_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, whole = tmp_path / "run", tmp_path / "whole"
    shutil.copytree(results, whole)
    assert main(["score", f"results={whole}", "scores=[cmmd]"]) == 0
    image = sorted(results.glob("cells/*/images/00002.png"))[0]
    image.write_bytes(HARMS["flipped"](image.read_bytes()))
    capsys.readouterr()
    assert main(["score", f"results={results}", "scores=[cmmd]"]) == 0
    assert "00002.png is damaged" in capsys.readouterr().err, "the report shows it"
    pd.testing.assert_frame_equal(scores(results), scores(whole))


def test_a_run_without_images_is_refused_and_unchanged(
    finished: Path, other_extractor: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = scores(finished)
    for folder in finished.glob("cells/*/images"):
        shutil.rmtree(folder)
    other = f"+extractors.other.source={other_extractor}", "scores=[fid@other]"
    capsys.readouterr()
    assert main(["score", f"results={finished}", *other, "device=cpu"]) == 2
    assert "2 of 2 cells have neither the features nor their images" in capsys.readouterr().err
    pd.testing.assert_frame_equal(scores(finished), before)


def test_fetch_downloads_missing_files_only_and_no_code(
    overrides: Overrides, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    asked = []

    def download(repository: str, **options: Any) -> str:
        if options.get("local_files_only"):
            return whole(repository, **options)
        asked.append((repository, options["allow_patterns"]))
        if repository == "openai/clip-vit-large-patch14":
            raise OSError("no network")
        root = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (root / "refs").mkdir(parents=True, exist_ok=True)
        (root / "refs" / "main").write_text("a" * 40)
        for name in options["allow_patterns"]:
            path = root / "snapshots" / ("a" * 40) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".safetensors":
                save_file({"x": np.zeros(1)}, path)
            else:
                path.write_text("{}")
        return f"/cache/{repository}"

    whole = huggingface_hub.snapshot_download
    names = ["config.json", "model.safetensors", "pytorch_model.bin", "evil.py", "vocab.txt", "ImageReward.pt", "x.md"]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: names)
    command = ["fetch", *overrides("claim=[]", "scores=[fid,pick_score,image_reward,aesthetic_score]")]
    assert main(command) == 1
    assert dict(asked) == {
        "yuvalkirstain/PickScore_v1": ["config.json", "model.safetensors", "vocab.txt"],
        "THUDM/ImageReward": ["ImageReward.pt"],
        "google-bert/bert-base-uncased": ["vocab.txt"],
        "openai/clip-vit-large-patch14": ["config.json", "model.safetensors", "vocab.txt"],
    }
    said = capsys.readouterr().out
    assert "MISSING  aesthetic_score_tower" in said
    assert "sac+logos+ava1-l14-linearMSE.pth; fetch it with `curl -fLO 'https://" in said
    assert "ok       pick_score" in said
