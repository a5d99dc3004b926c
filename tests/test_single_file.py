"""A model in one .safetensors file gives the images of the same model in a directory."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from standins import sd_pipeline
from test_checkpoints import edit, experiment_on, settle
from test_sampling import images_of, make_cell

from bench.checkpoints.survey import survey_checkpoints
from bench.generate.pipelines import load_pipeline
from bench.records.errors import BenchError


def merge(directory: Path, path: Path, **more: torch.Tensor) -> Path:
    """A model's parts in one file, each tensor's name prefixed with its part's."""
    tensors = {
        f"{file.parent.name}.{name}": tensor
        for file in directory.glob("*/*.safetensors")
        for name, tensor in load_file(file).items()
    }
    save_file({**tensors, **more}, path)
    return path


def test_a_file_of_parts_gives_the_directory_s_images(models: Path, tmp_path: Path) -> None:
    path = merge(models / "teacher", tmp_path / "my model.safetensors")
    cell = make_cell(models)
    own = replace(cell, base=replace(cell.base, source=str(path), config=str(models / "teacher"), weights="x"))
    assert (images_of(own) == images_of(cell)).all()


def test_a_file_that_lacks_a_tensor_is_refused(models: Path, tmp_path: Path) -> None:
    path = merge(models / "teacher", tmp_path / "x.safetensors")
    tensors = load_file(path)
    del tensors[next(name for name in tensors if name.startswith("unet.mid_block"))]
    save_file(tensors, path)
    cell = make_cell(models)
    own = replace(cell, base=replace(cell.base, source=str(path), config=str(models / "teacher"), weights="x"))
    with pytest.raises(BenchError, match="does not fit the configuration"):
        load_pipeline(own)


def test_a_single_file_needs_a_configuration_and_the_error_names_one(models: Path, own: Path, tmp_path: Path) -> None:
    path = merge(models / "teacher", tmp_path / "x.safetensors")
    with pytest.raises(
        BenchError, match=r"models.mini.config was not given; .* such as stable-diffusion-v1-5/"
    ) as said:
        settle(own, f"models.mini.source={path}")
    assert "\n" not in str(said.value)
    described = f"models.mini.source={path}", f"models.mini.config={own}/teacher"
    settled = settle(own, *described)
    model = settled.experiment.models["mini"]
    assert (model.pipeline, model.height) == ("StableDiffusionPipeline", 64)
    assert model.noise_schedule["prediction_type"] == "v_prediction"
    before = settled.weights["models.mini"]
    edit(own / "teacher" / "scheduler" / "scheduler_config.json", beta_end=0.02)
    assert settle(own, *described).weights["models.mini"] != before


def test_a_file_that_predicts_v_does_not_take_a_configuration_of_epsilon(
    models: Path, own: Path, tmp_path: Path
) -> None:
    path = merge(models / "teacher", tmp_path / "x.safetensors", v_pred=torch.zeros(0))
    edit(own / "teacher" / "scheduler" / "scheduler_config.json", prediction_type="epsilon")
    with pytest.raises(BenchError, match="declares v prediction"):
        settle(own, f"models.mini.source={path}", f"models.mini.config={own}/teacher")


def test_a_part_of_a_model_is_not_a_model(own: Path) -> None:
    unet = own / "teacher" / "unet" / "diffusion_pytorch_model.safetensors"
    experiment = experiment_on(own, f"models.mini.source={unet}")
    with pytest.raises(BenchError, match="is not a complete model"):
        survey_checkpoints(experiment).check()


UNET = [
    (r"^time_embedding\.linear_(\d)", lambda m: f"time_embed.{2 * int(m[1]) - 2}"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^down_blocks\.(\d)\.(resnets|attentions)\.(\d)", lambda m: _at("input", m, 1)),
    (r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{2 * int(m[1]) + 2}.0.op"),
    (r"^up_blocks\.(\d)\.(resnets|attentions)\.(\d)", lambda m: _at("output", m, 0)),
    (r"^up_blocks\.0\.upsamplers\.0", "output_blocks.1.2"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
    *((r"\.norm1(?=\.\w+$)", ".in_layers.0"), (r"\.conv1", ".in_layers.2"), (r"\.time_emb_proj", ".emb_layers.1")),
    *((r"\.norm2(?=\.\w+$)", ".out_layers.0"), (r"\.conv2", ".out_layers.3"), (r"\.conv_shortcut", ".skip_connection")),
]
"""The original layout of a UNet of two blocks with one layer each, from diffusers' names."""
VAE = [
    (r"(en|de)coder\.(down|up)_blocks\.(\d)\.(?:resnets\.(\d)|(down|up)samplers\.0)", lambda m: _in_vae(m)),
    (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    *((r"group_norm", "norm"), (r"to_out\.0", "proj_out"), (r"to_([qkv])", r"\1")),
    *((r"conv_norm_out", "norm_out"), (r"conv_shortcut", "nin_shortcut")),
]


def _at(side: str, match: re.Match[str], first: int) -> str:
    return f"{side}_blocks.{2 * int(match[1]) + int(match[3]) + first}.{0 if match[2] == 'resnets' else 1}"


def _in_vae(match: re.Match[str]) -> str:
    block = int(match[3]) if match[2] == "down" else 3 - int(match[3])
    inside = f"block.{match[4]}" if match[4] else f"{match[5]}sample"
    return f"{match[1]}coder.{match[2]}.{block}.{inside}"


def renamed(model: torch.nn.Module, rules: list[tuple[str, object]], prefix: str) -> dict[str, torch.Tensor]:
    found = {}
    for name, tensor in model.state_dict().items():
        inside = re.search(r"transformer_blocks", name)
        for pattern, replacement in rules:
            if not (inside and pattern.startswith(r"\.")):
                name = re.sub(pattern, replacement, name)  # type: ignore[arg-type]
        if prefix.startswith("first") and re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name):
            tensor = tensor[..., None, None]
        found[prefix + name] = tensor.contiguous()
    return found


def test_a_file_in_the_original_layout_gives_the_directory_s_images(models: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    pipeline = sd_pipeline()
    pipeline.save_pretrained(tmp_path / "model")
    tensors = {
        **renamed(pipeline.unet, UNET, "model.diffusion_model."),
        **renamed(pipeline.vae, VAE, "first_stage_model."),
        **{
            f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}": tensor.contiguous()
            for name, tensor in pipeline.text_encoder.state_dict().items()
        },
    }
    path = tmp_path / "sd.safetensors"
    save_file(tensors, path)
    cell = make_cell(models, adapter=None)
    directory = replace(cell, base=replace(cell.base, source=str(tmp_path / "model"), weights="d"))
    single = replace(cell, base=replace(cell.base, source=str(path), config=str(tmp_path / "model"), weights="s"))
    assert (images_of(single) == images_of(directory)).all()
    del tensors[next(name for name in tensors if name.startswith("model.diffusion_model.middle_block.1"))]
    save_file(tensors, path)
    with pytest.raises(BenchError, match="does not fit the configuration"):
        load_pipeline(single)
