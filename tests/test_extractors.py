"""Several extractors in one run: names of scores, features by set, and what is computed when some are added."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

import bench
from bench.__main__ import main
from bench.checkpoints.extractors import find_kind
from bench.execute import feature_extraction
from bench.execute.feature_extraction import FeatureSets
from bench.experiment.config import check_experiment
from bench.experiment.extractors import ExtractorChoice, name_score
from bench.features import openclip
from bench.features.extractor import Extractor
from bench.features.openclip import load_open_clip
from bench.generate.sampling import Sampler
from bench.records.errors import BenchError

Overrides = Callable[..., list[str]]
FEW = ("method=[tcd]", "methods.tcd.steps=[2,4]", "methods.tcd.eta=[0.3]", "claim=[]")
QUIET = ("measure.latency=false", "measure.memory=false")
SCORES = "fid@mini,fid@a,kid@b,clip_score@mini,clip_score@a,sharpness"


def perturbed(source: Path, place: Path, seed: int) -> Path:
    """Another OpenCLIP model: the same architecture with other weights."""
    shutil.copytree(source, place)
    weights = place / "open_clip_model.safetensors"
    torch.manual_seed(seed)
    tensors = {
        name: tensor + 0.02 * torch.randn_like(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(weights).items()
    }
    save_file(tensors, weights)
    return place


@pytest.fixture
def home(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of a user with conf/extractor/{a,b,c}.yaml for their OpenCLIP models."""
    (tmp_path / "conf" / "extractor").mkdir(parents=True)
    for seed, name in enumerate("abc"):
        perturbed(models / "evaluator", tmp_path / name, seed)
        (tmp_path / "conf" / "extractor" / f"{name}.yaml").write_text(f"source: {tmp_path / name}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def values(results: Path) -> pd.Series:
    """Values by cell and score."""
    return bench.load(results).set_index(["key", "score"])["value"].sort_index()


def claim(name: str, metrics: str) -> list[str]:
    sides = f"{{method: tcd, steps: {2}}}", f"{{method: tcd, steps: {4}}}"
    return [f"+claims.{name}={{text: {name}, subject: {sides[0]}, object: {sides[1]}, metrics: {metrics}}}"]


def test_one_command_scores_by_three_extractors_and_a_fourth_is_added_without_sampling(
    home: Path, overrides: Overrides, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = claim("both", "[fid@a,clip_score@mini,sharpness]")
    command = ["run", *overrides(*FEW, *QUIET, "extractor=[mini,a,b]", f"scores=[{SCORES}]", *both)]
    assert main(command) == 0
    results = home / "run"
    found = values(results)
    named = ("fid_mini", "fid_a", "kid_b", "clip_score_mini", "clip_score_a", "sharpness_pixels")
    assert {score for _, score in found.index} == {f"{name}_n6" for name in named}
    page = (results / "report.html").read_text(encoding="utf-8")
    assert all(f"{name}_n6" in page for name in named)
    assert "fid@a" in page
    for name, score in (("mini", "fid"), ("a", "clip_score"), ("b", "kid")):
        alone = overrides(*FEW, *QUIET, f"extractor=[{name}]", f"scores=[{score}]", f"results={name}-alone")
        assert main(["run", *(text for text in alone if name == "mini" or "extractors.mini" not in text)]) == 0
        of_one = values(home / f"{name}-alone")
        pd.testing.assert_series_equal(found.loc[of_one.index], of_one, check_exact=True)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image was sampled")

    monkeypatch.setattr(Sampler, "begin", refuse)
    computed: list[str] = []
    extract = FeatureSets.extract

    def noted(self: FeatureSets, images: NDArray[np.uint8], start: int, wanted: list[str]) -> object:
        computed.extend(wanted)
        return extract(self, images, start, wanted)

    monkeypatch.setattr(FeatureSets, "extract", noted)
    assert main(["score", f"results={results}", "extractor=[c]", "scores=[kid@c]", "device=cpu"]) == 0
    more = values(results)
    pd.testing.assert_series_equal(more.loc[found.index], found, check_exact=True)
    assert {score for _, score in more.index.difference(found.index)} == {"kid_c_n6"}
    assert len(set(computed)) == 1, "only what was missing is computed"
    computed.clear()
    capsys.readouterr()
    less = overrides(*FEW, *QUIET, "extractor=[mini,b]", "scores=[precision@b]")
    assert main(["run", *less]) == 0  # a run that asks for less keeps everything
    assert {score for _, score in values(results).index} == {*more.index.get_level_values(1), "precision_b_n6"}
    assert computed == []
    assert "they stay" in capsys.readouterr().err


def test_a_half_done_cell_keeps_the_features_that_it_has(
    home: Path, overrides: Overrides, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["run", *overrides(*FEW, *QUIET, "batch_size=2", "extractor=[mini]", "scores=[fid]")]
    begin, sampled = Sampler.begin, list[int]()

    def once(self: Sampler, start: int) -> object:
        sampled.append(start)
        if len(sampled) == 3:
            raise KeyboardInterrupt
        return begin(self, start)

    monkeypatch.setattr(Sampler, "begin", once)
    assert main(command) != 0
    assert main([*command, "extractor=[mini,a]", "scores=[fid@mini,fid@a]"]) == 0
    assert len(sampled) - 3 == 2 * 3 - 2, "batches that were finished are not sampled again"
    whole = ["run", *overrides(*FEW, *QUIET, "batch_size=2", "extractor=[mini,a]", "scores=[fid@mini,fid@a]")]
    assert main([*whole, "results=whole"]) == 0
    pd.testing.assert_series_equal(values(home / "run"), values(home / "whole"), check_exact=True)


def test_extractors_share_what_they_prepare_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[str] = []

    def make(name: str, preparation: str) -> Extractor:
        def preprocess(images: NDArray[np.uint8]) -> torch.Tensor:
            prepared.append(name)
            return torch.from_numpy(images).float()

        def encode(pixels: torch.Tensor) -> torch.Tensor:
            return pixels.mean(dim=(1, 2))

        return Extractor(name, encode, preprocess, torch.device("cpu"), preparation)

    shared: dict[str, object] = {}
    images = np.zeros((2, 4, 4, 3), np.uint8)
    for name, preparation in (("a", "224"), ("b", "224"), ("c", "299"), ("d", ""), ("e", "")):
        make(name, preparation).image_features(images, shared)
    assert prepared == ["a", "c", "d", "e"]


def test_a_run_prepares_images_and_reference_once_for_extractors_of_equal_preparation(
    home: Path, overrides: Overrides, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[tuple[str, bytes]] = []

    def noted(name: str, directory: Path, device: str) -> Extractor:
        extractor = load_open_clip(name, directory, device)

        def preprocess(images: NDArray[np.uint8]) -> torch.Tensor:
            prepared.append((name, images.tobytes()))
            found: torch.Tensor = extractor.preprocess(images)
            return found

        return replace(extractor, preprocess=preprocess)

    monkeypatch.setattr(openclip, "load_open_clip", noted)
    chosen = ("extractor=[mini,a]", "scores=[fid@mini,fid@a]")
    assert main(["run", *overrides(*FEW, *QUIET, *chosen)]) == 0
    assert len(prepared) >= 2 * 2 + 1  # two cells of two batches, and the reference
    assert {name for name, _ in prepared} == {"mini"}
    assert len({images for _, images in prepared}) == len(prepared)
    config = home / "a" / "open_clip_config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps({**said, "preprocess_cfg": {**said.get("preprocess_cfg", {}), "mean": [0.1] * 3}}))
    prepared.clear()
    assert main(["run", *overrides(*FEW, *QUIET, *chosen, "results=other")]) == 0
    assert [name for name, _ in prepared].count("a") == [name for name, _ in prepared].count("mini")


CHOICES = {
    "inception": ExtractorChoice("inception://"),
    "clip": ExtractorChoice("x/clip"),
    "dino": ExtractorChoice("x/dino", "dinov2"),
    "other": ExtractorChoice("x/other", "openclip"),
}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("fid", "fid@inception"),
        ("clip_score", "clip_score@clip"),
        ("clip_score@other", "clip_score@other"),
        ("kid@dino", "kid@dino"),
        ("sharpness", "sharpness"),
        ("pick_score", "pick_score"),
    ],
)
def test_a_score_is_by_the_first_extractor_that_can_give_it(given: str, named: str) -> None:
    assert name_score(given, CHOICES) == named


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (
            ["fid@nobody"],
            "scores: fid@nobody was given, and the chosen extractors are: mini; choose one of them, or add",
        ),
        (["fid@minni"], "the chosen extractors are: mini; did you mean fid@mini?"),
        (["sharpness@mini"], "scores.0=sharpness@mini was given; sharpness needs no extractor; write sharpness"),
        (["fdi@mini"], "scores.0=fdi@mini was given; did you mean fid?"),
        (["fid", "fid@mini"], "fid@mini occurs twice"),
        (["fid@"], "scores: fid@ was given"),
    ],
)
def test_a_score_that_no_extractor_gives_is_refused(scores: list[str], said: str) -> None:
    settings = {"name": "x", "results": "x", "models": {}, "methods": {}, "scores": scores}
    with pytest.raises(BenchError) as refused:
        check_experiment(settings)
    assert said in str(refused.value)


def test_scores_of_captions_need_a_text_encoder() -> None:
    with pytest.raises(BenchError, match="clip_score@dino needs an extractor with a text encoder"):
        name_score("clip_score@dino", CHOICES)
    with pytest.raises(BenchError, match="needs an extractor, and none was chosen"):
        name_score("fid", {})


def test_a_kind_that_contradicts_the_files_is_refused(models: Path) -> None:
    assert find_kind("x", ExtractorChoice(str(models / "evaluator"))) == "openclip"
    with pytest.raises(
        BenchError, match=r"extractors.x.kind=dinov2 was given, but the files of .* are those of openclip"
    ):
        find_kind("x", ExtractorChoice(str(models / "evaluator"), "dinov2"))


def test_a_run_of_pixel_scores_loads_no_extractor(
    overrides: Overrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an extractor was loaded")

    monkeypatch.setattr(feature_extraction, "_load_extractor", refuse)
    own = [name for name in overrides(*FEW, *QUIET, "extractor=[]", "scores=[sharpness]") if "extractors." not in name]
    assert main(["run", *own]) == 0
    assert {score for _, score in values(tmp_path / "run").index} == {"sharpness_pixels_n6"}
