"""Extractors in the layout of transformers equal that library's own processors and models, image by image."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from bench.__main__ import main
from bench.checkpoints.extractors import describe_preparation, find_kind, kinds_of_files, name_extractor
from bench.checkpoints.inspect import inspect
from bench.checkpoints.required import Required
from bench.experiment.extractors import ExtractorChoice
from bench.features.extractor import Extractor, encode_captions, find_cut, images_to_features
from bench.features.openclip import load_open_clip
from bench.features.towers import load_tower
from bench.mini import world
from bench.mini.training.vocabulary import build_tokenizer
from bench.records.errors import BenchError

CAPTIONS = ["a red circle on a white background", "A small, blue star."]
NETWORK = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZE = 32


@pytest.fixture
def images() -> NDArray[np.uint8]:
    """Two images that have to be resized and cropped."""
    return np.random.default_rng(0).integers(0, 256, (2, 75, 50, 3)).astype(np.uint8)


def save_clip(directory: Path) -> tuple[CLIPModel, Any]:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(world.caption(world.scene(seed)) for seed in range(50))
    tokenizer.save_pretrained(directory)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=24, eos_token_id=tokenizer.eos_token_id, **NETWORK
    )
    vision = CLIPVisionConfig(image_size=SIZE, patch_size=8, **NETWORK)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)).eval()
    model.save_pretrained(directory)
    old = {"crop_size": SIZE, "size": SIZE, "resample": 3, "feature_extractor_type": "CLIPFeatureExtractor"}
    mean = {"image_mean": [0.48, 0.45, 0.4], "image_std": [0.26, 0.26, 0.27], "do_center_crop": True}
    (directory / "preprocessor_config.json").write_text(json.dumps({**old, **mean}))  # as OpenAI's repositories have it
    return model, tokenizer


def save_siglip(directory: Path) -> tuple[SiglipModel, Any]:
    torch.manual_seed(1)
    words = ["<pad>", "</s>", "<unk>", *dict.fromkeys(" ".join(CAPTIONS).lower().replace(",", "").split())]
    words += ["star", "word"]
    raw = Tokenizer(models.WordLevel({word: place for place, word in enumerate(dict.fromkeys(words))}, "<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **special)
    tokenizer.save_pretrained(directory)
    config = directory / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tokenizer_class": "SiglipTokenizer"}))
    text = SiglipTextConfig(vocab_size=len(words), max_position_embeddings=8, **NETWORK)
    vision = SiglipVisionConfig(image_size=SIZE, patch_size=8, **NETWORK)
    model = SiglipModel(SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())).eval()
    model.save_pretrained(directory)
    SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(directory)
    return model, tokenizer


def save_dinov2(directory: Path) -> Dinov2Model:
    torch.manual_seed(2)
    model = Dinov2Model(Dinov2Config(image_size=28, patch_size=14, mlp_ratio=2, **NETWORK)).eval()
    model.save_pretrained(directory)
    processor = BitImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 28, "width": 28})
    processor.save_pretrained(directory)
    return model


def pixels(processor: Any, images: NDArray[np.uint8]) -> torch.Tensor:
    return processor([Image.fromarray(image) for image in images], return_tensors="pt").pixel_values


@torch.inference_mode()
def test_a_clip_of_transformers_gives_its_embeddings_and_score(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    model, tokenizer = save_clip(tmp_path)
    extractor = load_tower("clip", "clip", tmp_path, "cpu")
    tokens = tokenizer(CAPTIONS, padding=True, return_tensors="pt")
    output = model(**tokens, pixel_values=pixels(CLIPImageProcessorPil.from_pretrained(tmp_path), images))
    captions = encode_captions(extractor, CAPTIONS, None)
    np.testing.assert_allclose(captions.own, output.text_embeds.numpy(), rtol=1e-4, atol=1e-6)
    features = images_to_features(extractor, images, captions, 0)
    unit = features["image"] / np.linalg.norm(features["image"], axis=-1, keepdims=True)
    np.testing.assert_allclose(unit, output.image_embeds.numpy(), rtol=1e-4, atol=1e-6)
    cosines = (output.image_embeds * output.text_embeds).sum(dim=-1)
    np.testing.assert_allclose(features["clip_score"], 100 * cosines.numpy(), rtol=1e-4)
    assert find_kind("clip", ExtractorChoice(str(tmp_path))) == "clip"
    assert describe_preparation("clip", ExtractorChoice(str(tmp_path)))["resizer"] == "bicubic, shortest side to 32"


@torch.inference_mode()
def test_a_siglip_of_transformers_gives_its_embeddings_of_canonical_captions(
    tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    model, tokenizer = save_siglip(tmp_path)
    extractor = load_tower("siglip", "siglip", tmp_path, "cpu")
    canonical = [caption.lower().replace(",", "").replace(".", "") for caption in CAPTIONS]
    tokens = tokenizer(canonical, padding="max_length", truncation=True, max_length=8, return_tensors="pt").input_ids
    output = model(input_ids=tokens, pixel_values=pixels(SiglipImageProcessorPil.from_pretrained(tmp_path), images))
    captions = encode_captions(extractor, CAPTIONS, None)
    np.testing.assert_allclose(captions.own, output.text_embeds.numpy(), rtol=1e-4, atol=1e-6)
    found = torch.nn.functional.normalize(torch.from_numpy(extractor.image_features(images)), dim=-1)
    np.testing.assert_allclose(found.numpy(), output.image_embeds.numpy(), rtol=1e-4, atol=1e-6)
    choice = ExtractorChoice(str(tmp_path))
    assert find_kind("siglip", choice) == "siglip"
    assert describe_preparation("siglip", choice)["resizer"] == "bicubic, to 32 × 32"
    assert describe_preparation("siglip", choice)["crop"] == "none"


@torch.inference_mode()
def test_dinov2_embeds_by_its_class_token_after_its_own_preparation(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    model = save_dinov2(tmp_path)
    extractor = load_tower("dinov2", "dinov2", tmp_path, "cpu")
    given = pixels(BitImageProcessorPil.from_pretrained(tmp_path), images)
    assert given.shape == (2, 3, 28, 28)
    expected = model(pixel_values=given).last_hidden_state[:, 0]
    np.testing.assert_allclose(extractor.image_features(images), expected.numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(BenchError, match="extractor dinov2 has no text encoder"):
        extractor.text_features(["a cat"])
    assert describe_preparation("dinov2", ExtractorChoice(str(tmp_path))) == {
        "resizer": "bicubic, shortest side to 40",
        "antialias": "yes",
        "crop": "centre",
        "size": "28",
        "dtype": "float32, scores in float64",
    }


def test_captions_longer_than_the_limit_are_found_by_every_kind(tmp_path: Path) -> None:
    save_clip(tmp_path / "clip")
    clip = load_tower("clip", "clip", tmp_path / "clip", "cpu")
    texts = ["a red circle", "circle " * 22, "circle " * 23, "circle " * 500]
    assert find_cut(clip, texts).tolist() == [False, False, True, True]
    save_siglip(tmp_path / "siglip")
    siglip = load_tower("siglip", "siglip", tmp_path / "siglip", "cpu")  # 8 tokens, the padding is the end token
    texts = ["a red circle", "word " * 7, "word " * 8, "word " * 9]
    assert find_cut(siglip, texts).tolist() == [False, False, True, True]


def test_weights_of_half_precision_are_computed_in_float32(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    model, _ = save_clip(tmp_path)
    model.half().save_pretrained(tmp_path)
    extractor = load_tower("clip", "clip", tmp_path, "cpu")
    given = pixels(CLIPImageProcessorPil.from_pretrained(tmp_path), images)
    with torch.inference_mode():
        expected = model.float().get_image_features(given).pooler_output
    np.testing.assert_allclose(extractor.image_features(images), expected.numpy(), rtol=1e-4, atol=1e-6)


def test_weights_that_are_missing_are_not_drawn_at_random(tmp_path: Path) -> None:
    save_clip(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(BenchError, match=r"extractors\.x\.source=.* lacks 1 .*visual_projection\.weight"):
        load_tower("x", "clip", tmp_path, "cpu")


def test_an_end_token_that_the_tokenizer_does_not_set_is_refused(tmp_path: Path) -> None:
    save_siglip(tmp_path)
    raw = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**raw, "post_processor": None}))
    with pytest.raises(BenchError, match=r"extractors\.x\.source=.*: its tokenizer does not end a caption with"):
        load_tower("x", "siglip", tmp_path, "cpu")


@pytest.mark.parametrize(
    ("removed", "said"),
    [
        ("preprocessor_config.json", "holds no preprocessor_config.json"),
        ("tokenizer.json", "holds no tokenizer.json"),
        ("model.safetensors", "model.safetensors"),
    ],
)
def test_files_that_are_missing_are_named(tmp_path: Path, removed: str, said: str) -> None:
    save_siglip(tmp_path)
    (tmp_path / removed).unlink()
    with pytest.raises(BenchError, match=said):
        load_tower("x", "siglip", tmp_path, "cpu")
    if removed != "model.safetensors":  # found by the inspection before anything is loaded
        with pytest.raises(BenchError, match=said):
            name_extractor("x", ExtractorChoice(str(tmp_path)))
    else:
        with pytest.raises(BenchError, match=said):
            inspect(Required("extractors.x", "extractor x", "extractor", str(tmp_path)))


def test_files_of_an_unknown_network_are_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip2"}))
    with pytest.raises(BenchError, match=r"extractors\.x\.source=.* is a siglip2 .*; give an OpenCLIP model, or"):
        find_kind("x", ExtractorChoice(str(tmp_path)))


def test_a_directory_of_both_layouts_is_read_as_openclip_unless_a_kind_is_given(tmp_path: Path, models: Path) -> None:
    save_clip(tmp_path)
    shutil.copy(models / "evaluator" / "open_clip_config.json", tmp_path)
    assert kinds_of_files(tmp_path) == ("openclip", "clip")
    assert find_kind("x", ExtractorChoice(str(tmp_path))) == "openclip"
    assert find_kind("x", ExtractorChoice(str(tmp_path), "clip")) == "clip"
    assert name_extractor("x", ExtractorChoice(str(tmp_path), "clip")) != name_extractor(
        "x", ExtractorChoice(str(tmp_path))
    )
    with pytest.raises(BenchError, match=r"kind=siglip was given, but the files of .* are those of openclip or clip"):
        find_kind("x", ExtractorChoice(str(tmp_path), "siglip"))


SIGLIP_IN_OPENCLIP = {
    "model_cfg": {
        "embed_dim": 16,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 224,
            "timm_model_name": "vit_tiny_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
        },
        "text_cfg": {
            "context_length": 8,
            "vocab_size": 20,
            "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": 16,
            "heads": 2,
            "layers": 2,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
        },
    },
    "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
}


def test_a_siglip_in_openclips_layout_is_an_extractor_with_its_own_limit(
    tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    save_siglip(tmp_path / "hf")
    directory = tmp_path / "siglip"
    directory.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "hf" / name, directory)
    config = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(
        json.dumps({**config, "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    (directory / "open_clip_config.json").write_text(json.dumps(SIGLIP_IN_OPENCLIP))
    torch.manual_seed(3)
    tower = open_clip.model.CustomTextCLIP(
        **{name: value for name, value in SIGLIP_IN_OPENCLIP["model_cfg"].items() if name != "custom_text"}
    )
    save_file(tower.state_dict(), directory / "open_clip_model.safetensors")
    extractor: Extractor = load_open_clip("siglip", directory, "cpu")
    assert extractor.image_features(images).shape == (2, 16)
    texts = ["A red circle!", "word " * 7, "word " * 8]
    assert find_cut(extractor, texts).tolist() == [False, False, True]
    assert extractor.text_features(texts).shape == (3, 16)
    assert describe_preparation("siglip", ExtractorChoice(str(directory)))["crop"] == "none"


def test_a_text_that_ends_with_the_padding_token_beyond_the_limit_is_cut() -> None:
    def tokenize(texts: list[str], context_length: int = 4) -> torch.Tensor:
        rows = [[*map(int, text.split())] for text in texts]
        kept = [[*row, 1] if len(row) < context_length else [*row[: context_length - 1], 1] for row in rows]
        return torch.tensor([row + [1] * (context_length - len(row)) for row in kept])

    extractor: Any = SimpleNamespace(tokenize=tokenize)
    assert find_cut(extractor, ["5 6", "5 6 7", "5 6 7 8", "5 6 7 8 9"]).tolist() == [False, False, True, True]


def test_scores_of_captions_by_files_without_a_text_encoder_are_refused(
    tmp_path: Path, overrides: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    save_dinov2(tmp_path / "dino")
    added = f"+extractors.dino={{source: {tmp_path}/dino}}"
    for verb in ("plan", "run"):
        assert main([verb, *overrides("claim=[]", added, "scores=[fid@mini,clip_score@dino]")]) == 2
        said = capsys.readouterr().err
        assert "clip_score@dino needs an extractor with a text encoder, which dino has not: it is a dinov2" in said
    assert not (tmp_path / "run" / "cells").exists()
