"""Preference models equal their networks called directly, from checkpoints in the publishers' layout."""

from __future__ import annotations

import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch.nn.functional import cosine_similarity, interpolate, pad
from transformers import (
    BlipTextConfig,
    BlipVisionConfig,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    PreTrainedTokenizerFast,
    T5Config,
)
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from bench.checkpoints import manifest
from bench.checkpoints.manifest import MANIFEST, PREFERENCE_MODELS, Weights, check_file
from bench.features import preferences
from bench.features.icnet import ICNet, load_image_complexity
from bench.features.preferences import (
    REWARD_MEAN,
    REWARD_STD,
    load_aesthetic_score,
    load_hps_v2,
    load_image_reward,
    load_pick_score,
)
from bench.features.question_answering import load_vqa_score
from bench.mini import world
from bench.mini.training.vocabulary import build_tokenizer
from bench.records.errors import BenchError
from bench.score.metrics import METRICS, PIXELS

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


SMALL_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def test_hps_v2_is_the_cosine_of_its_clip_on_the_whole_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    (tmp_path / "small-hps.json").write_text(json.dumps(SMALL_CLIP))
    open_clip.add_model_config(tmp_path / "small-hps.json")
    monkeypatch.setattr(preferences, "HPS_ARCHITECTURE", "small-hps")
    model = open_clip.create_model("small-hps").eval()
    torch.save(
        {"state_dict": model.half().state_dict()}, tmp_path / "HPS.pt"
    )  # the published file is in half precision
    model.float()
    wide = np.random.default_rng(2).integers(0, 256, (2, 48, 96, 3)).astype(np.uint8)  # fits in once halved, by thirds
    small = interpolate(
        torch.from_numpy(wide).permute(0, 3, 1, 2).float() / 255,
        size=(16, SIZE),
        mode="bicubic",
        antialias=True,
        align_corners=False,
    )
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    given = (pad(small, (0, 0, 8, 8)) - mean[:, None, None]) / std[:, None, None]  # black above and below
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer("small-hps")(CAPTIONS)
        expected = 100 * cosine_similarity(model.encode_image(given), model.encode_text(tokens))
    found = load_hps_v2(tmp_path / "HPS.pt", "cpu")(wide, CAPTIONS)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


def save_instruct_blip(directory: Path) -> InstructBlipForConditionalGeneration:
    """A small InstructBLIP with T5, in the layout of Salesforce/instructblip-flan-t5-xl."""
    torch.manual_seed(5)
    text = " ".join(["Question : Does this figure show Please answer yes or no .", *CAPTIONS])
    for folder, specials in (
        (directory, ["<pad>", "</s>", "<unk>"]),
        (directory / "qformer_tokenizer", ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]),
    ):
        words = [*specials, '"', "?", *dict.fromkeys(re.findall(r"\w+|[^\w\s]", text))]
        words = list(dict.fromkeys(words))
        raw = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, specials[-1]))
        raw.pre_tokenizer = Whitespace()
        if folder == directory:
            raw.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        else:
            raw.post_processor = TemplateProcessing(
                single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
            )
        PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=specials[0]).save_pretrained(folder)
    vision = InstructBlipVisionConfig(image_size=SIZE, patch_size=8, **VISION)
    former = InstructBlipQFormerConfig(
        vocab_size=60, encoder_hidden_size=16, cross_attention_frequency=1, max_position_embeddings=140, **VISION
    )
    language = T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0)
    config = InstructBlipConfig(
        vision_config=vision.to_dict(),
        qformer_config=former.to_dict(),
        text_config=language.to_dict(),
        num_query_tokens=4,
        image_token_index=59,
    )
    model = InstructBlipForConditionalGeneration(config).eval()
    torch.nn.init.normal_(model.query_tokens)
    model.save_pretrained(directory)
    return model


def test_vqa_score_is_the_likelihood_of_yes_and_its_end_given_image_and_question(
    tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    model = save_instruct_blip(tmp_path)
    read, former = (
        PreTrainedTokenizerFast.from_pretrained(folder) for folder in (tmp_path, tmp_path / "qformer_tokenizer")
    )
    expected = []
    for image, caption in zip(images, CAPTIONS, strict=True):  # one by one, so that nothing is padded
        question = f'Question: Does this figure show "{caption}"? Please answer yes or no.'
        seen = model.vision_model(by_hand(image[None])).last_hidden_state
        asked, ids = former(question, return_tensors="pt").input_ids, read(question, return_tensors="pt").input_ids
        with torch.inference_mode():
            output = model.qformer(
                input_ids=asked,
                attention_mask=torch.ones(1, 4 + asked.shape[1], dtype=torch.long),
                query_embeds=model.query_tokens,
                encoder_hidden_states=seen,
            ).last_hidden_state[:, :4]
            given = torch.cat([model.language_projection(output), model.language_model.shared(ids)], dim=1)
            yes, end = read("yes").input_ids
            logits = model.language_model(inputs_embeds=given, decoder_input_ids=torch.tensor([[0, yes]])).logits[0]
            likelihood = logits.log_softmax(dim=-1)
        expected.append(float(((likelihood[0, yes] + likelihood[1, end]) / 2).exp()))
    score = load_vqa_score(tmp_path, "cpu")
    found = score(images, CAPTIONS)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert ((found > 0) & (found < 1)).all()
    assert score(images, CAPTIONS[::-1])[0] != pytest.approx(expected[0], rel=1e-6)


def test_vqa_score_keeps_the_end_of_a_long_question_and_refuses_a_model_without_image_token(
    tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    save_instruct_blip(tmp_path)
    score = load_vqa_score(tmp_path, "cpu")
    long = ["a red circle " * 80, "a small blue star"]
    assert np.isfinite(score(images, long)).all()
    assert score(images, long)[0] == pytest.approx(score(images[:1], ["a small " + long[0]])[0], rel=1e-5)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "image_token_index": None}))
    with pytest.raises(BenchError, match="has no image token"):
        load_vqa_score(tmp_path, "cpu")


def test_preference_models_of_half_precision_are_computed_in_float32(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    torch.manual_seed(6)
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(image_size=SIZE, patch_size=8, projection_dim=8, **VISION))
    tower.half().save_pretrained(tmp_path)
    torch.save(head_of(8, "")[0], tmp_path / "head.pth")
    given = load_aesthetic_score(tmp_path / "head.pth", tmp_path, "cpu")(images, CAPTIONS)
    tower.float().save_pretrained(tmp_path)
    np.testing.assert_array_equal(given, load_aesthetic_score(tmp_path / "head.pth", tmp_path, "cpu")(images, CAPTIONS))


def test_every_score_by_its_own_network_is_experimental() -> None:
    own = {short for short, metric in METRICS.items() if metric.features not in (None, PIXELS)}
    assert own == {*PREFERENCE_MODELS, "background_lpips", "pairwise_lpips"}
    assert own == {short for short, metric in METRICS.items() if metric.experimental}


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
