"""Features are what open_clip gives when it is called by hand, image by image."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from bench.score.features import Evaluator, encode_captions, images_to_features, load_evaluator


@pytest.fixture(scope="module")
def evaluator(models: Path) -> Evaluator:
    return load_evaluator("mini", models / "evaluator", "cpu")


@pytest.mark.parametrize("size", [(64, 64), (96, 80)])
def test_image_features_and_clip_score_are_those_of_open_clip(
    evaluator: Evaluator, models: Path, size: tuple[int, int]
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
    features = images_to_features(evaluator, images, encode_captions(evaluator, texts, None), 0)
    np.testing.assert_allclose(features["image"], ours.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features["clip_score"], scores.numpy(), rtol=1e-4, atol=1e-4)


def test_an_attribute_is_right_when_the_own_caption_is_nearer_than_any_other(evaluator: Evaluator) -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    texts = ["a red circle", "a red circle"]
    unit = evaluator.image_features(images)
    both = encode_captions(evaluator, texts, [(("colour.0", ("a blue circle",)),), (("colour.0", ("a blue circle",)),)])
    features = images_to_features(evaluator, images, both, 0)
    own, other = both.own[0], both.wrong[0][0][0]  # type: ignore[index]
    assert features["attributes_named"].tolist() == [1, 1]
    assert features["attributes_right"].tolist() == [int(row @ own > row @ other) for row in unit]
