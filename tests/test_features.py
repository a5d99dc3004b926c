"""Features are those of open_clip called directly, image by image."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from bench.checkpoints.manifest import MANIFEST
from bench.checkpoints.sources import name_weights, weights_directory
from bench.features.extractor import Extractor, encode_captions, find_cut, images_to_features
from bench.features.inception import load_inception
from bench.features.openclip import load_open_clip
from bench.records.errors import BenchError


@pytest.fixture(scope="module")
def extractor(models: Path) -> Extractor:
    return load_open_clip("mini", models / "evaluator", "cpu")


@pytest.mark.parametrize("size", [(64, 64), (96, 80)])
def test_image_features_and_clip_score_are_those_of_open_clip(
    extractor: Extractor, models: Path, size: tuple[int, int]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    texts = ["a red circle", "a small blue star on a black background", "a ring"]
    source = f"local-dir:{models}/evaluator"
    model, _, transform = open_clip.create_model_and_transforms(source)
    model.eval()
    with torch.inference_mode():
        ours = torch.cat([model.encode_image(transform(Image.fromarray(image))[None]) for image in images])
        theirs = model.encode_text(open_clip.get_tokenizer(source)(texts))
        scores = 100 * torch.nn.functional.cosine_similarity(ours, theirs)
    features = images_to_features(extractor, images, encode_captions(extractor, texts, None), 0)
    np.testing.assert_allclose(features["image"], ours.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features["clip_score"], scores.numpy(), rtol=1e-4, atol=1e-4)


def test_an_attribute_is_right_when_the_own_caption_is_nearer_than_any_other(extractor: Extractor) -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    texts = ["a red circle", "a red circle"]
    unit = extractor.image_features(images)
    both = encode_captions(extractor, texts, [(("colour.0", ("a blue circle",)),), (("colour.0", ("a blue circle",)),)])
    features = images_to_features(extractor, images, both, 0)
    own, other = both.own[0], both.wrong[0][0][0]  # type: ignore[index]
    assert features["attributes_named"].tolist() == [1, 1]
    assert features["attributes_right"].tolist() == [int(row @ own > row @ other) for row in unit]


def test_inception_equals_torch_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fidelity import feature_extractor_inceptionv3 as port

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(BenchError, match=r"inception://.* is missing; fetch it with"):
        name_weights("inception://")
    torch.manual_seed(0)
    monkeypatch.setattr(port, "load_state_dict_from_url", lambda *_, **__: network_state)
    network_state: dict[str, torch.Tensor] = {}
    with pytest.raises(RuntimeError, match="Missing key"):
        port.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
    network = port.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / MANIFEST["inception"].file
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)
    own = load_inception("inception-v3", weights_directory("inception://"), "cpu")
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), np.uint8)
    found = own.image_features(images)
    assert found.shape == (2, 2048)
    np.testing.assert_array_equal(found, network(torch.from_numpy(images).permute(0, 3, 1, 2))[0].numpy())
    assert set(images_to_features(own, images, None, 0)) == {"image"}
    with pytest.raises(BenchError, match="has no text encoder"):
        own.text_features(["a cat"])
    assert len(name_weights("inception://")) == 16


def test_prompts_that_are_cut_are_counted_and_keep_the_token_of_their_end() -> None:
    tokenize = open_clip.get_tokenizer("ViT-B-32")
    extractor: Any = SimpleNamespace(tokenize=tokenize)
    texts = ["a red circle", "a red circle " * 60, "word " * 75, "word " * 76]
    assert find_cut(extractor, texts).tolist() == [False, True, False, True]
    tokens = tokenize(texts)
    assert tokens.shape == (4, 77)
    assert tokens[1, -1] == tokens[0].max() == tokenize.eot_token_id


def test_the_extractors_own_tokenizer_cuts_too(extractor: Extractor) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    captions = encode_captions(extractor, ["a red circle", "a red circle " * 60], None)
    assert images_to_features(extractor, images, captions, 0)["caption_cut"].tolist() == [False, True]
