"""Quantised weights: which models are quantised, what names the cell, and what is refused before anything is loaded."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from bench.__main__ import main
from bench.generate import quantized
from bench.generate.pipelines import load_pipeline
from bench.records import quantization
from bench.records.errors import BenchError

INDEX = {
    "_class_name": "StableDiffusion3Pipeline",
    "transformer": ("diffusers", "SD3Transformer2DModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "text_encoder_3": ("transformers", "T5EncoderModel"),
    "tokenizer_3": ("transformers", "T5TokenizerFast"),
    "image_encoder": (None, None),
}


@pytest.fixture
def mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations of libraries that are not installed, as their names."""
    monkeypatch.setattr(quantized, "_config", lambda option, _, library: (option, library.__name__))
    monkeypatch.setattr(quantized.diffusers, "PipelineQuantizationConfig", lambda quant_mapping: quant_mapping)


def test_denoisers_and_large_text_encoders_are_quantised_each_by_its_own_library(mapping: None) -> None:
    assert quantized.quantization_of("torchao_int8", INDEX, torch.bfloat16) == {
        "transformer": ("torchao_int8", "diffusers"),
        "text_encoder_3": ("torchao_int8", "transformers"),
    }
    without = {**INDEX, "text_encoder_3": (None, None)}
    assert [*quantized.quantization_of("quanto_int8", without, torch.bfloat16)] == ["transformer"]


def test_a_pipeline_is_loaded_with_the_configuration(
    mapping: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def loaded(*_: Any, **given: Any) -> Any:
        asked.update(given)
        raise BenchError("far enough")

    (tmp_path / "model_index.json").write_text(json.dumps(INDEX))
    monkeypatch.setattr(StableDiffusion3Pipeline, "from_pretrained", loaded)
    options = {"memory_options": {"quantization": "bitsandbytes_4bit"}, "source": str(tmp_path)}
    base = factories.make_base(pipeline="StableDiffusion3Pipeline", **options)
    with pytest.raises(BenchError, match="far enough"):
        load_pipeline(factories.make_cell(base=base))
    assert asked["quantization_config"]["text_encoder_3"] == ("bitsandbytes_4bit", "transformers")
    with pytest.raises(BenchError, match="far enough"):
        load_pipeline(factories.make_cell(base=replace(base, memory_options={})))


PLAN = ["plan", "experiment=smoke", "device=cpu"]
QUANTISED = "models.mini.memory_options.quantization=torchao_int8"


def test_a_library_that_is_not_installed_is_named_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise quantization.PackageNotFoundError(name)

    monkeypatch.setattr(quantization, "version", absent)
    assert main([*PLAN, QUANTISED, "methods.tcd.fused=false"]) == 2
    assert "quantization=torchao_int8 was given, but torchao is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "methods.tcd.fused=true merges its adapter into the weights"),
        (["weights=random", "scores=[]", "claim=[]"], "weights=random builds models that are not quantised"),
        (["models.mini.config=elsewhere"], "a single file is not quantised"),
    ],
)
def test_quantised_weights_that_cannot_be_are_refused(
    more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PLAN, QUANTISED, *more]) == 2
    assert said in capsys.readouterr().err


def test_the_library_s_version_is_part_of_a_cell_s_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "version", lambda _: "0.18.0")
    assert quantization.quantizer_version("models.x.memory_options", "bitsandbytes_8bit") == {"bitsandbytes": "0.18.0"}
