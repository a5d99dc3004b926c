"""The whole of a LoRA file arrives in the model, or the cell is refused with what did not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from test_sampling import PROMPTS, make_cell

from bench.cell import Adapter, Cell
from bench.generate import lora
from bench.generate.pipelines import load_pipeline
from bench.generate.sampling import Sampler
from bench.records import BenchError

Tensors = dict[str, torch.Tensor]
LORA = "pytorch_lora_weights.safetensors"


def with_lora(models: Path, path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Cell:
    """A cell whose adapter is a file with these tensors."""
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    return replace(make_cell(models), adapters=(Adapter("x", str(path), path.name, "x"),))


def kohya(tensors: Tensors, alpha: float) -> Tensors:
    """The same in kohya's form, with an alpha for each layer."""
    found: Tensors = {}
    for key, value in tensors.items():
        module, _, side = key.removeprefix("unet.").removesuffix(".weight").rpartition(".")
        name = f"lora_unet_{module.replace('.', '_')}"
        found[f"{name}.{'lora_down' if side == 'lora_A' else 'lora_up'}.weight"] = value
        if side == "lora_A":
            found[f"{name}.alpha"] = torch.tensor(alpha)
    return found


@pytest.fixture
def published(models: Path) -> Tensors:
    return load_file(models / "tcd-lora" / LORA)


def test_a_whole_lora_arrives_as_a_file_of_any_name(models: Path, tmp_path: Path, published: Tensors) -> None:
    own = with_lora(models, tmp_path / "my v3.safetensors", published)
    images = Sampler(load_pipeline(own), own, PROMPTS).sample(0).images
    plain = make_cell(models)
    assert (images == Sampler(load_pipeline(plain), plain, PROMPTS).sample(0).images).all()


def test_half_precision_takes_the_file_s_tensors_rounded(models: Path, tmp_path: Path, published: Tensors) -> None:
    cell = with_lora(models, tmp_path / "x.safetensors", published)
    load_pipeline(replace(cell, base=replace(cell.base, dtype="bfloat16")))


def _drop(tensors: Tensors) -> None:
    del tensors[next(key for key in tensors if "lora_B" in key)]


def _rename(tensors: Tensors) -> None:
    for key in [key for key in tensors if "down_blocks.1" in key]:
        tensors[key.replace("down_blocks.1", "down_blocks.9")] = tensors.pop(key)


def _other_base(tensors: Tensors) -> None:
    for key in [key for key in tensors if "lora_A" in key]:
        tensors[key] = torch.ones(len(tensors[key]), tensors[key].shape[1] + 8)


def _stranger(tensors: Tensors) -> None:
    tensors["text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"] = torch.ones(2, 4)
    tensors["text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight"] = torch.ones(4, 2)


def _other_prefix(tensors: Tensors) -> None:
    key = next(key for key in tensors if "lora_A" in key)
    for side in "AB":
        own = key.replace("lora_A", f"lora_{side}")
        tensors[own.replace("unet.", "transformer.")] = tensors.pop(own)


SPOILT = {
    "one matrix dropped": _drop,
    "a renamed block": _rename,
    "another base": _other_base,
    "a part for a model that is not there": _stranger,
    "layers under another prefix": _other_prefix,
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_lora_that_is_only_partly_applied_is_refused(
    models: Path, tmp_path: Path, published: Tensors, how: str
) -> None:
    SPOILT[how](published)
    with pytest.raises(BenchError, match=r"^adapter x .*(made for another base|half of a LoRA)"):
        load_pipeline(with_lora(models, tmp_path / "x.safetensors", published))


def test_a_tensor_that_changes_on_its_way_is_noticed(
    models: Path, tmp_path: Path, published: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any message of the libraries: one element of one matrix."""
    cell = with_lora(models, tmp_path / "x.safetensors", published)
    layers = lora._layers

    def disturbed(pipeline: object, name: str) -> list[object]:
        found = list(layers(pipeline, name))
        with torch.no_grad():
            found[0].lora_B[name].weight[0, 0] += 1e-3
        return found

    monkeypatch.setattr(lora, "_layers", disturbed)
    with pytest.raises(BenchError, match="1 of its tensors did not reach the model"):
        load_pipeline(cell)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 8.0])
def test_kohya_s_form_is_applied_with_its_alphas(
    models: Path, tmp_path: Path, published: Tensors, alpha: float
) -> None:
    """Rank 2: alpha over rank is the scale of the same LoRA in diffusers' form."""
    cell = with_lora(models, tmp_path / "k.safetensors", kohya(published, alpha))
    images = Sampler(load_pipeline(cell), cell, PROMPTS).sample(0).images
    plain = with_lora(models, tmp_path / "d.safetensors", published)
    plain = replace(plain, adapters=(replace(plain.adapters[0], scale=alpha / 2),))
    wanted = Sampler(load_pipeline(plain), plain, PROMPTS).sample(0).images
    assert abs(images.astype(int) - wanted).max() <= 1


def test_alphas_that_are_not_applied_are_refused(
    models: Path, tmp_path: Path, published: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import StableDiffusionPipeline

    load = StableDiffusionPipeline.lora_state_dict.__func__  # type: ignore[attr-defined]

    def without_alphas(cls: type, *arguments: object, **more: object) -> tuple[object, ...]:
        state, _, *rest = load(cls, *arguments, **more)
        return (state, None, *rest)

    monkeypatch.setattr(StableDiffusionPipeline, "lora_state_dict", classmethod(without_alphas))
    with pytest.raises(BenchError, match="has alpha / rank = 4, but is applied with 1"):
        load_pipeline(with_lora(models, tmp_path / "k.safetensors", kohya(published, 8.0)))


def test_a_lora_of_the_text_encoder_counts_as_well(models: Path, tmp_path: Path, published: Tensors) -> None:
    pipeline = load_pipeline(make_cell(models, adapter=None))
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    pipeline.text_encoder.add_adapter(config, adapter_name="x")
    text = get_peft_model_state_dict(pipeline.text_encoder, adapter_name="x")
    both = {**published, **{f"text_encoder.{key}": value for key, value in text.items()}}
    load_pipeline(with_lora(models, tmp_path / "x.safetensors", both))
    key = next(key for key in both if key.startswith("text_encoder."))
    both[key.replace("layers.0", "layers.9")] = both.pop(key)
    with pytest.raises(BenchError, match="adapter x"):
        load_pipeline(with_lora(models, tmp_path / "x.safetensors", both))


def test_metadata_of_diffusers_is_read(models: Path, tmp_path: Path, published: Tensors) -> None:
    said: dict[str, object] = {"unet.r": 2, "unet.lora_alpha": 4, "unet.target_modules": ["to_q", "to_k", "to_v"]}
    load_pipeline(with_lora(models, tmp_path / "x.safetensors", published, {"lora_adapter_metadata": json.dumps(said)}))
