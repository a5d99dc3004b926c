"""Distances equal those of the common libraries, in usual dimensions and numbers of images."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from numpy.typing import NDArray
from PIL import Image
from torch_fidelity import feature_extractor_inceptionv3 as port
from torch_fidelity import metric_fid, metric_kid
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

import bench
from bench.__main__ import main
from bench.checkpoints.manifest import MANIFEST

Floats = NDArray[np.float64]
SHAPES = [
    *((16, 200), (16, 10), (64, 300), (64, 40), (256, 300), (256, 100), (768, 800), (768, 200)),
    pytest.param(2048, 200, marks=pytest.mark.slow),  # takes the others ten seconds
]
"""Dimension and number of images, on both sides of one another."""


def draw(n: int, d: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Floats:
    """Correlated, skewed features (n, d)."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(d).standard_normal((d, d)) / np.sqrt(d)
    mixed: Floats = (rng.exponential(1.0, (n, d)) - 1) @ mixing
    return shift + scale * mixed


def given(d: int) -> torch.nn.Module:
    """Replaces an Inception network and returns the given features."""
    extractor = torch.nn.Identity()
    extractor.num_features = d  # type: ignore[assignment]
    return extractor


def sets(d: int, n: int) -> tuple[Floats, Floats]:
    """Generated features, and a few more real ones."""
    return draw(n, d, 1, shift=0.2, scale=1.3), draw(n + 7, d, 2)


@pytest.mark.parametrize(("d", "n"), SHAPES)
def test_the_frechet_distance_is_torchmetrics_and_torch_fidelitys(d: int, n: int) -> None:
    ours, real = sets(d, n)
    value = bench.frechet_distance(ours, real).value
    metric = FrechetInceptionDistance(feature=given(d)).set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(ours), real=False)
    assert value == pytest.approx(float(metric.compute()), rel=1e-6)
    statistics = [metric_fid.fid_features_to_statistics(torch.from_numpy(features)) for features in (ours, real)]
    expected = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("d", "n"), [(64, 40), (64, 300)])
def test_the_distances_are_clean_fids(d: int, n: int) -> None:
    fid = pytest.importorskip(
        "cleanfid.fid", reason="clean-fid is not a dependency; pip install clean-fid compares with it"
    )
    ours, real = sets(d, n)
    assert bench.frechet_distance(ours, real).value == pytest.approx(fid.fid_from_feats(ours, real), rel=1e-6)
    expected = fid.kernel_distance(ours, real[:n], num_subsets=1, max_subset_size=n)
    assert bench.kernel_distance(ours, real[:n]).value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("d", "n"), SHAPES)
def test_the_kernel_distance_is_torchmetrics_and_torch_fidelitys_over_one_subset_of_all(d: int, n: int) -> None:
    ours, real = draw(n, d, 1, shift=0.2, scale=1.3), draw(n, d, 2)
    value = bench.kernel_distance(ours, real).value
    tensors = torch.from_numpy(ours), torch.from_numpy(real)
    found = metric_kid.kid_features_to_metric(*tensors, kid_subsets=1, kid_subset_size=n, verbose=False)
    assert value == pytest.approx(found["kernel_inception_distance_mean"], rel=1e-6)
    assert value == pytest.approx(float(poly_mmd(*reversed(tensors))), rel=1e-6)


@pytest.fixture
def inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights of the Inception network, where the published ones are looked for."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    path = tmp_path / "torch" / "hub" / "checkpoints" / MANIFEST["inception"].file
    path.parent.mkdir(parents=True)
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(port, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        network = port.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    for name, tensor in network.state_dict().items():
        if name.endswith("conv.weight"):  # else activations fade from layer to layer
            torch.nn.init.kaiming_normal_(tensor)
    torch.save(network.state_dict(), path)
    monkeypatch.setitem(MANIFEST, "inception", replace(MANIFEST["inception"], sha256=None))
    return path


@pytest.mark.slow
@torch.inference_mode()
def test_fid_and_kid_of_a_run_by_stored_weights_are_torch_fidelitys_of_its_images(
    inception: Path, overrides: Callable[..., list[str]], tmp_path: Path
) -> None:
    real, count = tmp_path / "real", 4
    real.mkdir()
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3)).astype(np.uint8)):
        Image.fromarray(image // 2).save(real / f"{i}.png")
    asked = ("extractor=[inception]", "scores=[fid,kid]", f"reference.source={real}", f"reference.count={count}")
    few = ("method=[tcd]", "methods.tcd.steps=[2]", "methods.tcd.eta=[0.3]", "claim=[]", f"prompts.count={count}")
    quiet = ("keep=all", "measure.latency=false", "measure.memory=false")
    given = [text for text in overrides(*few, *quiet, *asked) if "extractors.mini" not in text]
    assert main(["run", *given]) == 0
    values = bench.load(tmp_path / "run").set_index("score")["value"]
    (images,) = (tmp_path / "run").glob("cells/*/images")
    theirs = torch_fidelity.calculate_metrics(
        **{"input1": str(images), "input2": str(real), "fid": True, "kid": True, "cuda": False, "verbose": False},
        **{"kid_subsets": 1, "kid_subset_size": count, "batch_size": 4, "cache": False, "save_cpu_ram": True},
        feature_extractor_weights_path=str(inception),
    )
    assert values[f"fid_inception_n{count}"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    kid = values[f"kid_inception_n{count}"]
    assert kid == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-6)  # theirs in single precision
    network = port.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(inception)
    )
    ours, reference = (
        torch.cat([network(torch.from_numpy(np.asarray(Image.open(path))).permute(2, 0, 1)[None])[0] for path in paths])
        for paths in (images.iterdir(), real.iterdir())
    )
    exact = metric_kid.kid_features_to_metric(
        ours.double(), reference.double(), kid_subsets=1, kid_subset_size=count, verbose=False
    )
    assert kid == pytest.approx(exact["kernel_inception_distance_mean"], rel=1e-6)
