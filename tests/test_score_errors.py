"""Failures to score are reported in one sentence, and nothing is lost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bench
from bench.__main__ import main
from bench.checkpoints.manifest import MANIFEST
from bench.features.inception import load_inception
from bench.records.errors import BenchError
from bench.store.store import Store

Overrides = Callable[..., list[str]]
FEW = ("method=[tcd]", "methods.tcd.steps=[2]", "methods.tcd.eta=[0.3]", "claim=[]", "measure.latency=false")
ONLY = (*FEW, "measure.memory=false", "scores=[fid,kid,cmmd,precision,clip_score]")


def test_a_missing_extra_is_named_with_the_command_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(BenchError, match=r"needs torch-fidelity; install it with `pip install tcd-bench\[inception\]`"):
        load_inception("inception-v3", tmp_path, "cpu")


def test_a_checkpoint_of_another_hash_is_refused_before_it_is_read(
    overrides: Overrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hub" / "checkpoints" / MANIFEST["inception"].file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other weights")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    command = overrides(*FEW, "measure.memory=false", "scores=[fid]", "extractors.mini.source='inception://'")
    assert main(["run", *command]) == 2
    said = capsys.readouterr().err
    assert "has the hash" in said
    assert "the manifest's begins with 6726825d" in said
    assert "Traceback" not in said


def test_a_reference_of_another_resolution_is_reported(
    overrides: Overrides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for i in range(16):
        Image.fromarray(rng.integers(0, 256, (48, 40, 3)).astype(np.uint8)).save(tmp_path / f"{i:02d}.png")
    assert main(["run", *overrides(*ONLY, f"reference.source={tmp_path}")]) == 0
    said = capsys.readouterr().err
    assert "holds images of 48×40 pixels, not the models' 64×64; both are resized for the extractors" in said


def test_one_image_per_cell_gives_its_mean_and_reports_missing_intervals_once(
    overrides: Overrides, tmp_path: Path
) -> None:
    assert main(["run", *overrides(*ONLY, "prompts.count=1", "batch_size=1")]) == 0
    frame = bench.load(tmp_path / "run")
    assert frame["status"].tolist() == ["ok"]
    assert frame["value"].notna().tolist() == frame["score"].str.contains("clip_score").tolist()
    assert frame["ci_low"].isna().all()
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert page.count("moments need at least 2 rows of features") <= 1
    assert "1 image is too few for an interval of their mean" in page


def test_nan_features_affect_only_their_score(overrides: Overrides, tmp_path: Path) -> None:
    assert main(["run", *overrides(*ONLY)]) == 0
    store = Store(tmp_path / "run")
    run = store.run()
    identity = run.features["mini"]
    features = store.cell(run.cells[0]).features(identity)
    features["image"][2, 3] = np.nan
    store.cell(run.cells[0]).save_features(identity, features)
    (tmp_path / "run" / "report.html").unlink()
    assert main(["report", f"results={tmp_path}/run"]) == 0
    frame = bench.load(tmp_path / "run")
    assert frame["score"].tolist() == ["clip_score_mini_n6"]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "features hold NaN or infinity; look for broken images" in page


@pytest.mark.parametrize("distance", [bench.frechet_distance, bench.kernel_distance])
@pytest.mark.parametrize(
    ("features", "sentence"),
    [
        (np.zeros((0, 4)), "features of shape (0, 4) were given; moments need at least 2 rows"),
        (np.zeros(4), "features of shape (4,) were given; moments need at least 2 rows"),
        (np.zeros((1, 4)), "features of shape (1, 4) were given; moments need at least 2 rows"),
        (np.full((30, 4), np.nan), "features hold NaN or infinity; look for broken images"),
        (np.zeros((30, 3)), "features of 3 dimensions were given, the reference has 4; use one extractor for both"),
    ],
)
def test_features_that_cannot_be_scored_are_refused_in_one_sentence(
    distance: Callable[..., object], features: np.ndarray, sentence: str
) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as refusal:
        distance(features, np.random.default_rng(0).standard_normal((40, 4)))
    assert str(refusal.value).startswith(sentence)
