"""All tensors of a LoRA file arrive in the model, or the cell is refused with those that did not."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from standins import kohya
from test_sampling import images_of, make_cell

from bench.checkpoints.lora import lora_faults
from bench.generate import lora
from bench.generate.pipelines import load_pipeline
from bench.records.cell import Adapter, Cell
from bench.records.errors import BenchError

Tensors = dict[str, torch.Tensor]
LORA = "pytorch_lora_weights.safetensors"


def with_lora(models: Path, path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Cell:
    """A cell whose adapter is a file with these tensors."""
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    return replace(make_cell(models), adapters=(Adapter("x", str(path), path.name, "x"),))


@pytest.fixture
def published(models: Path) -> Tensors:
    return load_file(models / "tcd-lora" / LORA)


def test_a_whole_lora_arrives_as_a_file_of_any_name(models: Path, tmp_path: Path, published: Tensors) -> None:
    own = with_lora(models, tmp_path / "my v3.safetensors", published)
    assert (images_of(own) == images_of(make_cell(models))).all()


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


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "it could not be loaded .*memory"),
        (ValueError("PEFT backend is required for this method."), "it could not be loaded .*PEFT backend"),
        (RuntimeError("Error(s) in loading state_dict: size mismatch for to_q.lora_A"), "made for another base"),
        (ValueError("Target modules {'conv9'} not found in the base model."), "made for another base"),
    ],
)
def test_a_lora_is_called_that_of_another_base_only_where_shapes_or_keys_show_it(
    error: Exception, expected: str, models: Path, tmp_path: Path, published: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(StableDiffusionPipeline, "load_lora_weights", fail)
    with pytest.raises(BenchError, match=f"^adapter x .*{expected}") as refusal:
        load_pipeline(with_lora(models, tmp_path / "x.safetensors", published))
    assert ("another base" in str(refusal.value)) == ("another base" in expected)


def test_a_tensor_that_changes_on_its_way_is_noticed(
    models: Path, tmp_path: Path, published: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a message of the libraries: one element of one matrix."""
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
    plain = with_lora(models, tmp_path / "d.safetensors", published)
    plain = replace(plain, adapters=(replace(plain.adapters[0], scale=alpha / 2),))
    assert abs(images_of(cell).astype(int) - images_of(plain)).max() <= 1


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


Metadata = dict[str, str]


def diffusers_metadata(**said: object) -> Metadata:
    """As save_lora_weights writes it for the denoiser: fields of peft's LoraConfig."""
    return {"lora_adapter_metadata": json.dumps({f"unet.{name}": value for name, value in said.items()})}


def layers_of(tensors: Tensors) -> list[str]:
    """Modules of the denoiser that a LoRA in diffusers' form reaches."""
    return [key.removeprefix("unet.").removesuffix(".lora_A.weight") for key in tensors if "lora_A" in key]


def widen(tensors: Tensors, layer: str, rank: int) -> None:
    """Give a layer matrices of another rank."""
    noise = torch.Generator().manual_seed(1)
    first, second = (f"unet.{layer}.lora_{side}.weight" for side in "AB")
    shape_a, shape_b = tensors[first].shape, tensors[second].shape
    tensors[first] = torch.randn(rank, *shape_a[1:], generator=noise)
    tensors[second] = torch.randn(shape_b[0], rank, *shape_b[2:], generator=noise)


def product(tensors: Tensors, layer: str) -> torch.Tensor:
    """B·A by hand, in float64; a convolution's B is of 1 × 1."""
    first, second = (tensors[f"unet.{layer}.lora_{side}.weight"].double() for side in "AB")
    if first.ndim == 2:
        return second @ first
    return torch.einsum("or,rikl->oikl", second[:, :, 0, 0], first)


def fused_difference(cell: Cell, layer: str) -> torch.Tensor:
    """Return what fusing adds to a layer's weights."""
    with_adapter = load_pipeline(replace(cell, fused=True)).unet.get_submodule(layer).weight
    without = load_pipeline(replace(cell, adapters=())).unet.get_submodule(layer).weight
    return (with_adapter - without).detach().double()


Stated = tuple[Tensors, Metadata | None, list[float]]
"""Tensors, metadata, and alpha / rank of the first and of the last layer."""


def in_diffusers_form(
    *factors: float, wider: bool = False, first_rank: int = 0, first_alpha: int = 0, **said: object
) -> Callable[[Tensors, list[str]], Stated]:
    """What diffusers' metadata say, in which the first layer may be `wider`, and have its own rank and alpha."""

    def how(tensors: Tensors, layers: list[str]) -> Stated:
        if wider:
            widen(tensors, layers[0], 4)
        own = {"rank_pattern": {layers[0]: first_rank}} if first_rank else {}
        own |= {"alpha_pattern": {layers[0]: first_alpha}} if first_alpha else {}
        metadata = diffusers_metadata(r=2, target_modules=layers, **own, **said) if said else None
        return tensors, metadata, list(factors)

    return how


def in_kohya_s_form(tensors: Tensors, _: list[str]) -> Stated:
    return kohya(tensors, 1.0), {"ss_network_dim": "2", "ss_network_alpha": "1.0"}, [0.5, 0.5]


def with_an_alpha_of_its_own(tensors: Tensors, layers: list[str]) -> Stated:
    widen(tensors, layers[0], 4)
    found = kohya(tensors, 1.0)
    found[f"lora_unet_{layers[0].replace('.', '_')}.alpha"] = torch.tensor(3.0, dtype=torch.bfloat16)
    return found, {"ss_network_dim": "2", "ss_network_alpha": "1"}, [3 / 4, 1 / 2]


def in_an_old_form(tensors: Tensors, _: list[str]) -> Stated:
    found = {key: value for key, value in kohya(tensors, 1.0).items() if not key.endswith("alpha")}
    return found, {"ss_network_dim": "Dynamic", "ss_network_alpha": "None"}, [1.0, 1.0]


STATED = {
    "plain": in_diffusers_form(1.0, 1.0),
    "plain ranks": in_diffusers_form(1.0, 1.0, wider=True),
    "one alpha": in_diffusers_form(2.5, 2.5, lora_alpha=5),
    "patterns": in_diffusers_form(6 / 4, 3 / 2, wider=True, first_rank=4, first_alpha=6, lora_alpha=3),
    "a rank pattern alone": in_diffusers_form(3 / 4, 3 / 2, wider=True, first_rank=4, lora_alpha=3),
    "rank-stabilised": in_diffusers_form(2 * 2**0.5, 2 * 2**0.5, lora_alpha=4, use_rslora=True),
    "kohya": in_kohya_s_form,
    "kohya, an alpha per layer": with_an_alpha_of_its_own,
    "kohya without alphas": in_an_old_form,
}


@pytest.mark.parametrize("how", STATED)
def test_a_lora_is_added_by_the_factor_that_its_file_states(
    models: Path, tmp_path: Path, published: Tensors, how: str
) -> None:
    """W + scale × alpha / rank × B·A, by hand, for a layer with its own rank or alpha and for one of the others."""
    layers = layers_of(published)
    tensors, said, factors = STATED[how](published, layers)
    cell = with_lora(models, tmp_path / "x.safetensors", tensors, said)
    assert not lora_faults(tmp_path / "x.safetensors")
    cell = replace(cell, adapters=(replace(cell.adapters[0], scale=0.75),))
    for layer, factor in zip((layers[0], layers[-1]), factors, strict=True):
        wanted = 0.75 * factor * product(published, layer)
        torch.testing.assert_close(
            fused_difference(cell, layer), wanted, rtol=1e-4, atol=1e-6 + 1e-6 * wanted.abs().max()
        )


def test_a_layer_without_an_alpha_among_others_has_its_rank_for_one_or_is_refused(
    models: Path, tmp_path: Path, published: Tensors
) -> None:
    """diffusers gives it the most frequent alpha of the others, and kohya's own loader its rank."""
    tensors = kohya(published, 1.0)
    del tensors[next(key for key in tensors if key.endswith(".alpha"))]
    with pytest.raises(BenchError, match=r"has alpha / rank = 1, but is applied with 0\.5"):
        load_pipeline(with_lora(models, tmp_path / "k.safetensors", tensors))


CONTRADICTIONS = {
    "rank": (diffusers_metadata(r=4, lora_alpha=4), "give .* rank 4, its matrices have 2"),
    "rank of a pattern": (
        diffusers_metadata(r=2, lora_alpha=2, rank_pattern={"to_q": 8}),
        "give .*to_q rank 8, its matrices have 2",
    ),
    "DoRA": (diffusers_metadata(r=2, use_dora=True), "is a DoRA"),
    "a changed base": (diffusers_metadata(r=2, init_lora_weights="pissa"), "over a changed base model"),
    "no JSON": ({"lora_adapter_metadata": "{"}, "its lora_adapter_metadata cannot be read"),
    "no pattern": (diffusers_metadata(r=2, rank_pattern={"(": 4}), "its lora_adapter_metadata cannot be read"),
    "kohya's rank": ({"ss_network_dim": "16"}, "ss_network_dim is 16, its layers have rank 2"),
    "kohya's alpha": ({"ss_network_alpha": "8.0"}, "ss_network_alpha is 8, its layers have alpha 2"),
}


@pytest.mark.parametrize("which", CONTRADICTIONS)
def test_a_lora_whose_metadata_contradict_its_tensors_is_refused_by_its_header(
    models: Path, tmp_path: Path, published: Tensors, which: str
) -> None:
    said, sentence = CONTRADICTIONS[which]
    with_lora(models, tmp_path / "x.safetensors", published, said)
    (fault,) = lora_faults(tmp_path / "x.safetensors")
    assert re.search(sentence, fault)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_alphas_are_compared_in_every_type(
    models: Path, tmp_path: Path, published: Tensors, dtype: torch.dtype
) -> None:
    tensors = {key: value.to(dtype) if "alpha" in key else value for key, value in kohya(published, 6.0).items()}
    path = tmp_path / "x.safetensors"
    with_lora(models, path, tensors, {"ss_network_alpha": "6"})
    assert not lora_faults(path)
    with_lora(models, path, tensors, {"ss_network_alpha": "3"})
    assert "ss_network_alpha is 3, its layers have alpha 6" in lora_faults(path)[0]


def test_peft_s_own_form_is_refused_with_what_to_do(models: Path, tmp_path: Path, published: Tensors) -> None:
    """Its alpha is in another file, adapter_config.json, which diffusers does not read."""
    tensors = {key.replace("unet.", "base_model.model."): value for key, value in published.items()}
    with_lora(models, tmp_path / "adapter_model.safetensors", tensors)
    assert "adapter_config.json" in lora_faults(tmp_path / "adapter_model.safetensors")[0]
