"""LoRA files of transformers: multiplied by alpha or split by their loaders, they arrive as stated or are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from standins_flow import FLUX_LATENTS, flux_pipeline, lightning_lora, qwen_pipeline

from bench.checkpoints.lora import lora_faults
from bench.generate import lora
from bench.generate.lora import load_lora
from bench.records.errors import BenchError

Tensors = dict[str, torch.Tensor]
NAME = "lightning.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Tensors:
    """The tensors of a Lightning LoRA for Qwen-Image, with alpha / rank = 1/2."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("lora")
    lightning_lora(place, NAME)
    return load_file(place / NAME)


def in_float32() -> Any:
    """Qwen-Image's layout, the same at each call."""
    torch.manual_seed(1)
    return qwen_pipeline()


def loaded(pipeline: Any, path: Path, tensors: Tensors) -> Any:
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    assert not lora_faults(path)
    load_lora(pipeline, path, "x", "adapter x")
    return pipeline


PREFIXES = {"plain": "", "diffusion_model": "diffusion_model."}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("alpha", [2.0, 3.0, 8.0])
def test_alpha_that_a_loader_multiplies_into_the_matrices_counts(
    tmp_path: Path, published: Tensors, prefix: str, dtype: torch.dtype, alpha: float
) -> None:
    tensors = {
        f"{PREFIXES[prefix]}{key}": torch.tensor(alpha) if key.endswith("alpha") else value
        for key, value in published.items()
    }
    pipeline = loaded(in_float32().to(dtype), tmp_path / NAME, tensors)
    layer, inner = "transformer_blocks.0.attn.to_q", pipeline.transformer.transformer_blocks[0].attn.to_q
    pair = [inner.lora_B["x"].weight.double(), inner.lora_A["x"].weight.double()]
    stated = published[f"{layer}.lora_up.weight"].double() @ published[f"{layer}.lora_down.weight"].double()
    applied = inner.scaling["x"] * pair[0] @ pair[1]
    exact = dtype == torch.float32 and alpha != 3  # the file is in bfloat16, and so is what its loader multiplies
    precision = 1e-6 if exact else 2e-2
    torch.testing.assert_close(applied, alpha / 4 * stated, rtol=precision, atol=precision * float(stated.abs().max()))


def test_diffusers_own_form_arrives_bit_for_bit(tmp_path: Path, published: Tensors) -> None:
    names = {".lora_down.": ".lora_A.", ".lora_up.": ".lora_B."}
    tensors = {
        f"transformer.{key.replace(old, new)}": value
        for key, value in published.items()
        for old, new in names.items()
        if old in key
    }
    inner = loaded(in_float32(), tmp_path / NAME, tensors).transformer.transformer_blocks[0].attn.to_q
    assert torch.equal(
        inner.lora_A["x"].weight, tensors["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"].float()
    )
    assert inner.scaling["x"] == 1


@pytest.mark.parametrize("times", [2, 3])
def test_a_loader_that_applies_another_alpha_is_noticed(
    tmp_path: Path, published: Tensors, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice alpha / rank = 1/2 leaves the matrices as they are in the file, three times does not."""

    load = type(qwen_pipeline()).lora_state_dict.__func__

    def with_another(cls: type, *arguments: object, **more: object) -> Any:
        state, metadata = load(cls, *arguments, **more)
        return {key: value * times if "lora_A" in key else value for key, value in state.items()}, metadata

    monkeypatch.setattr(type(qwen_pipeline()), "lora_state_dict", classmethod(with_another))
    with pytest.raises(
        BenchError, match=rf"^adapter x: .* has alpha / rank = 0\.5, but is applied with {times / 2:g}; convert"
    ):
        loaded(in_float32(), tmp_path / NAME, published)


def _rename(tensors: Tensors) -> None:
    for key in [key for key in tensors if "blocks.1" in key]:
        tensors[key.replace("blocks.1", "blocks.9")] = tensors.pop(key)


def _other_width(tensors: Tensors) -> None:
    for key in [key for key in tensors if "lora_down" in key]:
        tensors[key] = torch.ones(4, tensors[key].shape[1] + 8)


def _stranger(tensors: Tensors) -> None:
    tensors["text_encoder.layers.0.q_proj.lora_A.weight"] = torch.ones(2, 4)
    tensors["text_encoder.layers.0.q_proj.lora_B.weight"] = torch.ones(4, 2)


def _wrong_prefix(tensors: Tensors) -> None:
    for key in [*tensors]:
        tensors[f"unet.{key}"] = tensors.pop(key)


SPOILT: dict[str, Callable[[Tensors], None]] = {
    "a renamed block": _rename,
    "another base": _other_width,
    "a part for a model that takes none": _stranger,
    "the prefix of a UNet": _wrong_prefix,
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_lora_that_is_only_partly_applied_is_refused(tmp_path: Path, published: Tensors, how: str) -> None:
    tensors = dict(published)
    SPOILT[how](tensors)
    with pytest.raises(BenchError, match=r"^adapter x: .*(another base|half of a LoRA|could not be loaded)"):
        loaded(in_float32(), tmp_path / NAME, tensors)


@pytest.mark.parametrize("side", ["lora_A", "lora_B"])
def test_one_changed_element_is_noticed(
    tmp_path: Path, published: Tensors, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = lora._layers

    def disturbed(pipeline: object, name: str) -> list[Any]:
        found = list(layers(pipeline, name))
        with torch.no_grad():
            getattr(found[0], side)[name].weight[0, 0] += 1e-3
        return found

    monkeypatch.setattr(lora, "_layers", disturbed)
    with pytest.raises(BenchError, match="did not reach the model"):
        loaded(in_float32(), tmp_path / NAME, published)


# Joint layers


def kohya_flux(alpha: float) -> Tensors:
    """Kohya's form for FLUX.1, whose queries, keys and values are one layer there."""
    noise = torch.Generator().manual_seed(2)
    tensors: Tensors = {}
    for layer, width in {"img_attn_qkv": 96, "txt_attn_qkv": 96, "img_attn_proj": 32}.items():
        key = f"lora_unet_double_blocks_0_{layer}"
        tensors[f"{key}.lora_down.weight"] = torch.randn(4, 32, generator=noise)
        tensors[f"{key}.lora_up.weight"] = torch.randn(width, 4, generator=noise)
        tensors[f"{key}.alpha"] = torch.tensor(alpha)
    return tensors


def flux() -> Any:
    assert FLUX_LATENTS
    torch.manual_seed(1)
    return flux_pipeline(embeds_guidance=False)


@pytest.mark.parametrize("alpha", [1.0, 3.0, 4.0])
def test_joint_layers_arrive_split(tmp_path: Path, alpha: float) -> None:
    tensors = kohya_flux(alpha)
    attention = loaded(flux(), tmp_path / NAME, tensors).transformer.transformer_blocks[0].attn
    up = tensors["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"]
    down = tensors["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"]
    for i, layer in enumerate((attention.to_q, attention.to_k, attention.to_v)):
        applied = layer.scaling["x"] * layer.lora_B["x"].weight @ layer.lora_A["x"].weight
        torch.testing.assert_close(applied, alpha / 4 * up[32 * i : 32 * i + 32] @ down)


def test_a_part_of_a_joint_layer_that_is_lost_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = lora._layers
    monkeypatch.setattr(lora, "_layers", lambda pipeline, name: [*layers(pipeline, name)][1:])
    with pytest.raises(BenchError, match=r"did not reach the model|half of a LoRA"):
        loaded(flux(), tmp_path / NAME, kohya_flux(2.0))
