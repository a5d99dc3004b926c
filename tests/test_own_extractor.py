"""A user's own class as extractor: found like own schedulers, hashed, and checked wherever it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bench
from bench.__main__ import main
from bench.checkpoints.extractors import name_extractor
from bench.experiment.config import check_experiment
from bench.experiment.extractors import ExtractorChoice, name_score
from bench.features.own import load_own_extractor
from bench.records.errors import BenchError

Overrides = Callable[..., list[str]]
CODE = """
import numpy as np

class Colours:
    def __init__(self, source, device):
        self.source, self.device = source, device

    def __call__(self, images):
        assert images.dtype == np.uint8 and images.ndim == 4 and images.shape[-1] == 3
        return images.reshape(len(images), -1, 3).mean(axis=1)
"""
FEW = ("method=[tcd]", "methods.tcd.steps=[2]", "methods.tcd.eta=[0.3]", "claim=[]")
QUIET = ("measure.latency=false", "measure.memory=false")
ADDED = "+extractors.colours={own: own_features.Colours}"


@pytest.fixture
def cwd(own_directory: Path) -> Path:
    """A current directory with own_features.py."""
    (own_directory / "own_features.py").write_text(CODE)
    return own_directory


def forget() -> None:
    sys.modules.pop("own_features", None)


def test_an_own_class_scores_a_run_here_and_in_worker_processes(
    cwd: Path, overrides: Overrides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = (ADDED, "scores=[fid@mini,fid@colours,kid@colours]")
    assert main(["run", *overrides(*FEW, *QUIET, *scores)]) == 0, capsys.readouterr().err
    here = bench.load(tmp_path / "run").set_index(["key", "score"])["value"]
    assert {score for _, score in here.index} == {"fid_mini_n6", "fid_colours_n6", "kid_colours_n6"}
    assert "own_features.Colours" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    elsewhere = ("executor.cell_timeout_s=3600", f"results={tmp_path}/workers")
    assert main(["run", *overrides(*FEW, *QUIET, *scores, *elsewhere)]) == 0, capsys.readouterr().err
    there = bench.load(tmp_path / "workers").set_index(["key", "score"])["value"]
    assert here.sort_index().equals(there.sort_index())


def test_its_code_and_source_are_part_of_the_identity(cwd: Path) -> None:
    choice = ExtractorChoice(own="own_features.Colours")
    first = name_extractor("colours", choice)
    assert name_extractor("other", choice) == first
    (cwd / "weights.npy").write_bytes(b"1")
    with_source = name_extractor("colours", ExtractorChoice(str(cwd / "weights.npy"), own="own_features.Colours"))
    assert with_source != first
    (cwd / "own_features.py").write_text(CODE + "# changed\n")
    forget()
    assert name_extractor("colours", choice) not in (first, with_source)
    installed = ExtractorChoice(own="torch.nn.Flatten")
    assert name_extractor("x", installed) not in (first, name_extractor("x", ExtractorChoice(own="torch.nn.Identity")))


def test_it_is_made_with_source_and_device_and_called_with_images(cwd: Path) -> None:
    (cwd / "weights.npy").write_bytes(b"1")
    path = str(cwd / "weights.npy")
    extractor = load_own_extractor("colours", "own_features.Colours", path, "cpu")
    own = extractor.encode.__self__.network  # type: ignore[attr-defined]
    assert (own.source, own.device) == (path, "cpu")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3)).astype(np.uint8)
    found = extractor.image_features(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, images.reshape(3, -1, 3).mean(axis=1), rtol=1e-6)
    with pytest.raises(BenchError, match="has no text encoder"):
        extractor.text_features(["a"])


@pytest.mark.parametrize(
    ("returns", "said"),
    [
        ("np.zeros((len(images),))", r"returned an array of shape \(2,\) and type float64 for 2 images"),
        ("np.zeros((1, 4))", r"shape \(1, 4\) and type float64 for 2 images"),
        ("np.zeros((len(images), 0))", r"shape \(2, 0\) and type float64 for 2 images"),
        ("np.zeros((len(images), 4), int)", r"shape \(2, 4\) and type int64 for 2 images"),
        ("np.full((len(images), 4), np.nan)", "returned values that are not finite"),
        ("[object()] * 2", r"shape \(2,\) and type object for 2 images"),
        ("1 / 0", "failed: ZeroDivisionError: division by zero"),
    ],
)
def test_features_that_cannot_be_used_are_refused_in_one_sentence(cwd: Path, returns: str, said: str) -> None:
    body = (
        f"class Bad:\n    def __init__(self, source, device): pass\n    def __call__(self, images): return {returns}\n"
    )
    (cwd / "own_features.py").write_text("import numpy as np\n" + body)
    extractor = load_own_extractor("bad", "own_features.Bad", "", "cpu")
    with pytest.raises(BenchError, match=rf"^extractors\.bad\.own=own_features\.Bad .*{said}") as refused:
        extractor.image_features(np.zeros((2, 4, 4, 3), np.uint8))
    assert "\n" not in str(refused.value)


def test_a_dimension_that_changes_between_batches_is_refused(cwd: Path) -> None:
    body = "class Bad:\n    def __init__(self, source, device): pass\n"
    body += "    def __call__(self, images): return np.zeros((len(images), len(images)))\n"
    (cwd / "own_features.py").write_text("import numpy as np\n" + body)
    extractor = load_own_extractor("bad", "own_features.Bad", "", "cpu")
    extractor.image_features(np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(BenchError, match=r"shape \(3, 3\) .* and 2 features each before"):
        extractor.image_features(np.zeros((3, 4, 4, 3), np.uint8))


@pytest.mark.parametrize(
    ("own", "code", "said"),
    [
        ("own_features.Nothing", CODE, r"cannot be imported \(.*has no attribute 'Nothing'\)"),
        ("nowhere.Colours", CODE, r"cannot be imported \(No module named 'nowhere'\)"),
        ("Colours", CODE, r"cannot be imported"),
        ("own_features.np", CODE, "is not a class whose instances can be called"),
        ("own_features.Plain", "class Plain: pass", "is not a class whose instances can be called"),
        ("own_features.Bad", "class Bad:\n def __call__(self, i): pass", r"Bad\('', 'cpu'\) failed: TypeError"),
    ],
)
def test_a_class_that_cannot_be_used_is_refused_before_anything_is_sampled(
    cwd: Path,
    overrides: Overrides,
    own: str,
    code: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (cwd / "own_features.py").write_text(code)
    choice = ExtractorChoice(own=own)

    def prepare() -> None:
        name_extractor("x", choice)
        load_own_extractor("x", own, "", "cpu")

    with pytest.raises(BenchError, match=said):
        prepare()
    if own != "own_features.Nothing":
        return
    added = f"+extractors.x={{own: {own}}}"
    assert main(["plan", *overrides(*FEW, *QUIET, added, "scores=[fid@x]")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_features_are_tried_at_the_runs_size_before_sampling(
    cwd: Path, overrides: Overrides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = "class Bad:\n    def __init__(self, source, device): pass\n    def __call__(self, images): return [1]\n"
    (cwd / "own_features.py").write_text(body)
    added = "+extractors.bad={own: own_features.Bad}"
    assert main(["run", *overrides(*FEW, *QUIET, added, "scores=[kid@bad]")]) == 2
    assert "extractors.bad.own=own_features.Bad returned an array of shape (1,)" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("cells/*/images/*"))


def test_settings_name_a_source_or_an_own_class() -> None:
    settings = {"name": "x", "results": "x", "models": {}, "methods": {}, "scores": []}
    with pytest.raises(BenchError, match=r"extractors\.x.*give source, or own"):
        check_experiment({**settings, "extractors": {"x": {}}})
    with pytest.raises(BenchError, match=r"extractors\.x.*kind.*own"):
        check_experiment({**settings, "extractors": {"x": {"own": "a.B", "kind": "clip"}}})
    with pytest.raises(BenchError, match="clip_score@x needs an extractor with a text encoder"):
        name_score("clip_score@x", {"x": ExtractorChoice(own="a.B")})
