"""Preference models equal their networks called directly, from checkpoints in the publishers' layout."""

from __future__ import annotations

import hashlib
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import cosine_similarity
from transformers import (
    BlipTextConfig,
    BlipVisionConfig,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from bench.checkpoints import manifest
from bench.checkpoints.manifest import MANIFEST, Weights, check_file
from bench.features.icnet import ICNet, load_image_complexity
from bench.features.preferences import REWARD_MEAN, REWARD_STD, load_aesthetic_score, load_image_reward, load_pick_score
from bench.mini import world
from bench.mini.training.vocabulary import build_tokenizer
from bench.records.errors import BenchError

SIZE = 32
CAPTIONS = ["a red circle on a white background", "a small blue star"]
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture
def images() -> NDArray[np.uint8]:
    """Two images of the substitutes' input size, so that nothing is resized."""
    return np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)


def by_hand(images: NDArray[np.uint8]) -> torch.Tensor:
    """CLIP's normalisation only."""
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    return ((torch.from_numpy(images) / 255 - mean) / std).permute(0, 3, 1, 2)


def head_of(width: int, prefix: str) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """A linear head's checkpoint, and the one matrix and bias that all its layers make together."""
    weights, matrix, bias = {}, torch.eye(width), torch.zeros(width)
    widths = (width, 1024, 128, 64, 16, 1)
    for place, (before, after) in zip((0, 2, 4, 6, 7), pairwise(widths), strict=True):
        weight, shift = torch.randn(after, before) / before**0.5, torch.randn(after)
        weights |= {f"{prefix}layers.{place}.weight": weight, f"{prefix}layers.{place}.bias": shift}
        matrix, bias = weight @ matrix, weight @ bias + shift
    return weights, matrix, bias


def test_pick_score_is_the_scaled_cosine_of_its_clip(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(world.caption(world.scene(seed)) for seed in range(50))
    tokenizer.save_pretrained(tmp_path)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=77, eos_token_id=tokenizer.eos_token_id, **VISION
    )
    vision = CLIPVisionConfig(image_size=SIZE, patch_size=8, **VISION)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)).eval()
    model.save_pretrained(tmp_path)
    tokens = tokenizer(CAPTIONS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        output = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=by_hand(images))
        expected = model.logit_scale.exp() * cosine_similarity(output.image_embeds, output.text_embeds)
    found = load_pick_score(tmp_path, "cpu")(images, CAPTIONS)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4)


def test_aesthetic_score_is_the_linear_head_on_the_direction_of_the_embedding(
    tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    torch.manual_seed(1)
    config = CLIPVisionConfig(image_size=SIZE, patch_size=8, projection_dim=8, **VISION)
    tower = CLIPVisionModelWithProjection(config).eval()
    tower.save_pretrained(tmp_path)
    weights, matrix, bias = head_of(8, "")
    torch.save(weights, tmp_path / "head.pth")
    with torch.inference_mode():
        embeddings = tower(pixel_values=by_hand(images)).image_embeds
        expected = (embeddings / embeddings.norm(dim=-1, keepdim=True)) @ matrix.T + bias
    found = load_aesthetic_score(tmp_path / "head.pth", tmp_path, "cpu")(images, CAPTIONS)
    np.testing.assert_allclose(found, expected[:, 0].numpy(), rtol=1e-4)


PUBLISHED_NAMES = (
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.projection\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.", r"blocks.\1.attn."),
    (r"^encoder\.layers\.(\d+)\.layer_norm(\d)\.", r"blocks.\1.norm\2."),
    (r"^encoder\.layers\.(\d+)\.mlp\.", r"blocks.\1.mlp."),
    (r"^post_layernorm\.", "norm."),
)
"""From transformers' names of BLIP's vision tower to those of the published checkpoint."""


def published(name: str) -> str:
    for pattern, replacement in PUBLISHED_NAMES:
        if re.search(pattern, name):
            return re.sub(pattern, replacement, name)
    raise AssertionError(name)


def test_image_reward_is_the_head_on_the_first_token_of_a_text_that_sees_the_image(
    tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    torch.manual_seed(2)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(" ".join(CAPTIONS).split())]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1}
    vision = BlipVisionModel(BlipVisionConfig(image_size=SIZE, patch_size=8, layer_norm_eps=1e-6, **sizes)).eval()
    text = BlipTextModel(
        BlipTextConfig(vocab_size=len(words), encoder_hidden_size=64, max_position_embeddings=40, **sizes),
        add_pooling_layer=False,
    ).eval()
    head, matrix, bias = head_of(64, "mlp.")
    checkpoint = {
        **{f"blip.visual_encoder.{published(name)}": value for name, value in vision.state_dict().items()},
        **{f"blip.text_encoder.{name}": value for name, value in text.state_dict().items()},
        **head,
    }
    torch.save(checkpoint, tmp_path / "ImageReward.pt")
    ids = [[2, *(words.index(word) for word in caption.split()), 3] for caption in CAPTIONS]
    tokens = torch.tensor([row + [0] * (35 - len(row)) for row in ids])
    with torch.inference_mode():
        seen = vision(pixel_values=by_hand(images)).last_hidden_state
        read = text(
            input_ids=tokens,
            attention_mask=(tokens != 0).long(),
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long),
        ).last_hidden_state[:, 0]
        expected = ((read @ matrix.T + bias)[:, 0] - REWARD_MEAN) / REWARD_STD
    reward = load_image_reward(tmp_path / "ImageReward.pt", tmp_path / "vocab.txt", "cpu")
    np.testing.assert_allclose(reward(images, CAPTIONS), expected.numpy(), rtol=1e-3, atol=1e-5)
    assert reward(images, CAPTIONS[::-1])[0] != pytest.approx(float(expected[0]), rel=1e-6)


def test_image_complexity_is_between_zero_and_one_and_depends_on_the_image(
    tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    torch.manual_seed(3)
    network = ICNet()
    extra = {"to_map.to_map.0.weight": torch.zeros(1, 512, 1, 1)}  # the checkpoint has a second head, for maps
    torch.save({**network.state_dict(), **extra}, tmp_path / "ck.pth")
    found = load_image_complexity(tmp_path / "ck.pth", "cpu")(np.stack([images[0], 0 * images[0]]), CAPTIONS)
    assert ((found > 0) & (found < 1)).all()
    assert found[0] != found[1]
    assert {name.split(".")[0] for name in network.state_dict()} == {
        *("b1_1", "b1_2", "b2_1", "b2_2", "b2_3", "b2_4", "up1", "up2", "to_score_f", "head", "to_score_f_slam"),
        *("b1_1_slam", "b1_2_slam", "b2_1_slam", "b2_2_slam", "b2_3_slam", "b2_4_slam"),
    }


class Planted:
    """An effect that a pickle could have."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("planted code ran",)


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"layers.0.weight": Planted()}, tmp_path / "ck.pth")
    with pytest.raises(BenchError, match="holds more than tensors, or is damaged, and is not read"):
        load_image_complexity(tmp_path / "ck.pth", "cpu")
    assert "planted" not in capsys.readouterr().out


def test_a_checkpoint_of_another_network_is_refused_in_one_sentence(tmp_path: Path) -> None:
    torch.save({"layers.0.weight": torch.zeros(3, 4)}, tmp_path / "ck.pth")
    with pytest.raises(BenchError, match=r"ck\.pth does not fit its network \(\d+ tensors are missing, 0 have"):
        load_image_complexity(tmp_path / "ck.pth", "cpu")
    with pytest.raises(BenchError, match=r"ck\.pth is not an ImageReward checkpoint: it lacks"):
        load_image_reward(tmp_path / "ck.pth", tmp_path / "vocab.txt", "cpu")


def test_a_file_with_another_hash_than_the_manifests_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ck.pth"
    monkeypatch.setitem(manifest.MANIFEST, "own", Weights("https://x/ck.pth", "ck.pth", "0123"))
    with pytest.raises(
        BenchError, match=r"ck\.pth is missing, and own needs it; fetch it with `curl .*-o .* 'https://x"
    ):
        check_file(path, "own")
    path.write_bytes(b"weights")
    with pytest.raises(BenchError, match=r"ck\.pth has the hash .*…, but the manifest's begins with 0123; the file is"):
        check_file(path, "own")
    own = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setitem(manifest.MANIFEST, "own", Weights("https://x/ck.pth", "ck.pth", own))
    assert check_file(path, "own") == own[:16]


def test_the_manifest_lists_every_source() -> None:
    for name, weights in MANIFEST.items():
        assert weights.source.startswith("https://") or re.fullmatch(r"[\w.-]+/[\w.-]+", weights.source), name
        by_hand = name == "image_complexity"  # behind a link of a web page
        assert by_hand or weights.command().startswith(("`curl -fLO 'https://", "`hf download "))
        if weights.sha256 is not None:
            assert re.fullmatch(r"[0-9a-f]{8,64}", weights.sha256), name
