"""Costs without weights: published sizes, random weights, and no quality scores for them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig

from bench.__main__ import main
from bench.checkpoints.sources import name_weights, read_architecture
from bench.generate import random_weights
from bench.generate.denoisers import denoisers, text_encoders
from bench.generate.pipeline_calls import pipeline_class_of
from bench.generate.random_weights import LORA_RANK, LORA_TARGETS, add_lora, build_pipeline
from bench.records.errors import BenchError
from bench.store.store import Store

PUBLISHED = {
    "sd15": (859_520_964, 83_653_863, 123_060_480),
    "sd21": (865_910_724, 83_653_863, 340_387_840),
    "sdxl": (2_567_463_684, 83_653_863, 123_060_480, 694_659_840),
    "sd35_medium": (2_243_171_520, 83_819_683, 123_650_304, 694_659_840, 4_762_310_656),
    "flux1_schnell": (11_891_178_560, 83_819_683, 123_060_480, 4_762_310_656),
    "flux1_dev": (11_901_408_320, 83_819_683, 123_060_480, 4_762_310_656),
    "sana": (1_604_462_752, 312_250_275, 2_614_341_888),
    "sana_sprint": (1_610_237_472, 312_250_275, 2_614_341_888),
}
"""Parameters of denoiser, VAE and text encoders of the published checkpoints."""


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def shrink(models: dict[str, Any]) -> dict[str, Any]:
    """The same architecture, narrow."""
    small = json.loads(json.dumps(models))
    if "transformer" in small:
        return _shrink_transformer(small)
    small["unet"] |= {"block_out_channels": [width // 20 for width in models["unet"]["block_out_channels"]]}
    small["unet"] |= {"norm_num_groups": 4, "sample_size": 8}
    small["vae"] |= {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4}
    for role in ("text_encoder", "text_encoder_2"):
        if role in small:
            small[role] |= {"num_hidden_layers": 2, "intermediate_size": 32}
    if "transformer_layers_per_block" in small["unet"]:
        small["unet"]["transformer_layers_per_block"] = [1, 1, 2]
    small["unet"]["attention_head_dim"] = 4
    return small


def _shrink_transformer(small: dict[str, Any]) -> dict[str, Any]:
    """The same architecture with few, narrow layers."""
    kinds = {"T5EncoderModel": {"num_layers": 1, "d_model": 32, "d_kv": 8, "d_ff": 32, "num_heads": 4}}
    kinds["Gemma2Model"] = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "head_dim": 8}
    kinds["Gemma2Model"] |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    for role in small.keys() & {"text_encoder", "text_encoder_2", "text_encoder_3"}:
        small[role] |= kinds.get(small[role]["kind"], {})
    text = small.get("text_encoder_3", {})
    for role in ("text_encoder", "text_encoder_2"):
        if small.get(role, {}).get("kind", "").startswith("CLIP"):
            small[role] |= {"num_hidden_layers": 2, "intermediate_size": 32}
    denoiser = small["transformer"]
    denoiser |= {"num_layers": 1, "num_attention_heads": 2}
    if denoiser["kind"] == "SD3Transformer2DModel":
        text |= {"d_model": 2048}  # which CLIP's embeddings are padded to
        denoiser |= {"joint_attention_dim": 2048, "caption_projection_dim": 128, "dual_attention_layers": [0]}
    elif denoiser["kind"] == "FluxTransformer2DModel":
        denoiser |= {"joint_attention_dim": 32, "num_single_layers": 1}
    else:
        denoiser |= {"cross_attention_dim": 64, "cross_attention_head_dim": 32, "num_cross_attention_heads": 2}
        denoiser |= {"caption_channels": 32}
    narrow = [8] * 6 if small["vae"]["kind"] == "AutoencoderDC" else [8] * 4
    if small["vae"]["kind"] == "AutoencoderDC":
        small["vae"] |= {
            "encoder_block_out_channels": [*narrow[:5], 32],
            "decoder_block_out_channels": [*narrow[:5], 32],
        }
        small["vae"] |= {"attention_head_dim": 4}
    else:
        small["vae"] |= {"block_out_channels": narrow, "norm_num_groups": 4}
    return small


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        random_weights, "read_architecture", lambda name: json.dumps(shrink(json.loads(read_architecture(name))))
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_architecture_has_as_many_parameters_as_the_published_checkpoint(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_weights, "_fill", lambda *_: None)
    pipeline = build_pipeline(
        name, pipeline_class_of(json.loads(read_architecture(name))["pipeline"]), torch.float32, "cpu"
    )
    parts = [*denoisers(pipeline).values(), pipeline.vae, *text_encoders(pipeline).values()]
    assert tuple(map(count, parts)) == PUBLISHED[name]


def test_the_lora_has_the_size_of_the_published_lora() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**json.loads(read_architecture("sdxl"))["unet"])
        unet.add_adapter(LoraConfig(r=LORA_RANK, target_modules=LORA_TARGETS))
    assert (
        sum(p.numel() for name, p in unet.named_parameters() if "lora_" in name) * 2 == 393_502_720
    )  # 394 MB, float16


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_pipeline_of_random_weights_samples(narrow: None, name: str) -> None:
    kind = pipeline_class_of(json.loads(read_architecture(name))["pipeline"])
    pipeline = build_pipeline(name, kind, torch.float32, "cpu")
    if "unet" in pipeline.components:
        add_lora(pipeline, "tcd")
    pipeline.set_progress_bar_config(disable=True)
    call = {"guidance_scale": 0.0, "num_inference_steps": 1, "height": 64, "width": 64, "output_type": "pt"}
    if name == "sana_sprint":
        call |= {"intermediate_timesteps": None}
    if name.startswith("sana"):
        call |= {"use_resolution_binning": False}
    images = pipeline(["a red circle", "a dog"], **call).images
    assert images.shape == (2, 3, 64, 64)
    assert torch.isfinite(images).all()
    if not name.startswith("sana"):
        assert pipeline.tokenizer("a dog").input_ids == [49406, 320, 1929, 49407]


def test_cost_alone_is_measured_and_labelled_wherever_it_appears(
    narrow: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "cost"
    small = ["models.sd15.height=64", "models.sd15.width=64", "models.sd15.dtype=float32", "measure.repeats=2"]
    few = ["methods.tcd.steps=[2]", "methods.dpmpp_2s.steps=[2]", "device=cpu", f"results={results}"]
    assert main(["run", "experiment=cost", "model=[sd15]", *small, *few]) == 0
    records = list(Store(results, writable=False).records())
    assert len(records) == 2
    for record in records:
        assert record.cell.cost_only
        assert record.cell.label.endswith("(cost only)")
        assert len(record.latency.call_s) == 2
        assert record.memory is None, "a processor's memory is not measured"
    assert "(cost only)" in (results / "tables" / "costs.md").read_text()
    assert not (results / "tables" / "scores.md").exists()
    page = (results / "report.html").read_text()
    assert "Cost only:" in page
    assert "(cost only)" in page
    assert not (results / "grid.png").exists()


def test_costs_of_a_transformer_are_measured_with_its_loading_apart(narrow: None, tmp_path: Path) -> None:
    small = ["models.sana_sprint.height=64", "models.sana_sprint.width=64", "models.sana_sprint.dtype=float32"]
    small += ["models.sana_sprint.arguments={use_resolution_binning:false}", "measure.repeats=2", "measure.warmup=1"]
    results = tmp_path / "cost"
    assert main(["run", "experiment=cost_flow", "model=[sana_sprint]", *small, "device=cpu", f"results={results}"]) == 0
    records = list(Store(results, writable=False).records())
    assert sorted(record.calls.denoiser_evaluations for record in records) == [1, 2, 4]
    for record in records:
        assert record.load_s > 0
        assert len(record.latency.warmup_s) == 1
        assert all(min(part) > 0 for part in (record.latency.text_encoder_s, record.latency.denoiser_s))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["experiment=cost", "scores=[clip_score]"], "scores=[clip_score@mini]"),
        (["experiment=smoke", "weights=random", "scores=[]", "claim=[]"], "models.mini.architecture"),
        (["experiment=guide_canny", "weights=random", "scores=[]"], "task=canny"),
    ],
)
def test_settings_without_meaning_for_random_weights_are_refused(
    overrides: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *overrides]) == 2
    assert said in capsys.readouterr().err


def test_random_weights_are_named_by_their_configuration() -> None:
    names = [name_weights(f"architecture://{name}") for name in (*PUBLISHED, "lora")]
    assert len(set(names)) == len(names)
    assert all(name.startswith("random-") for name in names)
    with pytest.raises(BenchError, match=r"choose one of flux1_dev, .*sd15, sd21, sd35_medium, sdxl"):
        name_weights("architecture://sd9")


def test_the_doctor_requires_no_downloads_for_costs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor", "experiment=cost", f"results={tmp_path}"]) == 0
    assert "nothing to fetch" in capsys.readouterr().out
