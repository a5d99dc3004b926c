"""Costs without weights: published sizes, random weights, and no quality scores for them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from peft import LoraConfig

from bench.__main__ import main
from bench.checkpoints.sources import name_weights, read_architecture
from bench.generate import random_weights
from bench.generate.random_weights import LORA_RANK, LORA_TARGETS, add_lora, build_pipeline
from bench.records.errors import BenchError
from bench.store.store import Store

PUBLISHED = {
    "sd15": (859_520_964, 83_653_863, 123_060_480),
    "sd21": (865_910_724, 83_653_863, 340_387_840),
    "sdxl": (2_567_463_684, 83_653_863, 123_060_480, 694_659_840),
}
"""Parameters of UNet, VAE and text encoders of the published checkpoints."""
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def shrink(models: dict[str, Any]) -> dict[str, Any]:
    """The same architecture, narrow."""
    small = json.loads(json.dumps(models))
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


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        random_weights, "read_architecture", lambda name: json.dumps(shrink(json.loads(read_architecture(name))))
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_architecture_has_as_many_parameters_as_the_published_checkpoint(name: str) -> None:
    models = json.loads(read_architecture(name))
    with torch.device("meta"):
        found = [count(UNet2DConditionModel(**models["unet"])), count(AutoencoderKL(**models["vae"]))]
        for role in ("text_encoder", "text_encoder_2"):
            if role in models:
                config = dict(models[role])
                kind = getattr(transformers, config.pop("kind"))
                found.append(count(kind(transformers.CLIPTextConfig(**config))))
    assert tuple(found) == PUBLISHED[name]


def test_the_lora_has_the_size_of_the_published_lora() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**json.loads(read_architecture("sdxl"))["unet"])
        unet.add_adapter(LoraConfig(r=LORA_RANK, target_modules=LORA_TARGETS))
    assert (
        sum(p.numel() for name, p in unet.named_parameters() if "lora_" in name) * 2 == 393_502_720
    )  # 394 MB, float16


@pytest.mark.parametrize(("name", "kind"), [("sd21", StableDiffusionPipeline), ("sdxl", StableDiffusionXLPipeline)])
def test_a_pipeline_of_random_weights_samples(narrow: None, name: str, kind: type) -> None:
    pipeline = build_pipeline(name, kind, SCHEDULE, torch.float32, "cpu")
    add_lora(pipeline, "tcd")
    pipeline.set_progress_bar_config(disable=True)
    call = {"guidance_scale": 0.0, "num_inference_steps": 1, "height": 64, "width": 64, "output_type": "pt"}
    images = pipeline(["a red circle", "a dog"], **call).images
    assert images.shape == (2, 3, 64, 64)
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
    with pytest.raises(BenchError, match="choose one of sd15, sd21, sdxl"):
        name_weights("architecture://sd9")


def test_the_doctor_requires_no_downloads_for_costs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor", "experiment=cost", f"results={tmp_path}"]) == 0
    assert "nothing to fetch" in capsys.readouterr().out
