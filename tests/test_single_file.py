"""A model in one .safetensors file gives the images of the same model in a directory."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from standins import sd_pipeline
from test_checkpoints import experiment_on
from test_sampling import PROMPTS, make_cell

from bench.checkpoints.survey import settle_models, survey
from bench.generate.pipelines import load_pipeline
from bench.generate.sampling import Sampler
from bench.records import BenchError


def merge(directory: Path, path: Path, **more: torch.Tensor) -> Path:
    """A model's parts in one file, each tensor's name after its part's."""
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
    images = Sampler(load_pipeline(own), own, PROMPTS).sample(0).images
    assert (images == Sampler(load_pipeline(cell), cell, PROMPTS).sample(0).images).all()


def test_a_file_that_lacks_a_tensor_is_refused(models: Path, tmp_path: Path) -> None:
    path = merge(models / "teacher", tmp_path / "x.safetensors")
    tensors = load_file(path)
    del tensors[next(name for name in tensors if name.startswith("unet.mid_block"))]
    save_file(tensors, path)
    cell = make_cell(models)
    own = replace(cell, base=replace(cell.base, source=str(path), config=str(models / "teacher"), weights="x"))
    with pytest.raises(BenchError, match="does not fit the configuration"):
        load_pipeline(own)


def test_a_single_file_needs_a_configuration_and_says_which(models: Path, tmp_path: Path) -> None:
    path = merge(models / "teacher", tmp_path / "x.safetensors")
    shutil.copytree(models, tmp_path / "own")
    experiment = experiment_on(tmp_path / "own", f"models.mini.source={path}")
    with pytest.raises(
        BenchError, match=r"models.mini.config was not given; .* such as stable-diffusion-v1-5/"
    ) as said:
        settle_models(experiment, survey(experiment))
    assert "\n" not in str(said.value)
    described = experiment_on(
        tmp_path / "own", f"models.mini.source={path}", f"models.mini.config={tmp_path}/own/teacher"
    )
    settled = settle_models(described, survey(described))
    model = settled.experiment.models["mini"]
    assert (model.pipeline, model.height) == ("StableDiffusionPipeline", 64)
    assert model.noise_schedule["prediction_type"] == "v_prediction"
    before = settled.weights["models.mini"]
    scheduler = tmp_path / "own" / "teacher" / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"beta_end": 0.02}))
    assert settle_models(described, survey(described)).weights["models.mini"] != before


def test_a_file_that_predicts_v_does_not_take_a_configuration_of_epsilon(models: Path, tmp_path: Path) -> None:
    path = merge(models / "teacher", tmp_path / "x.safetensors", v_pred=torch.zeros(0))
    shutil.copytree(models, tmp_path / "own")
    scheduler = tmp_path / "own" / "teacher" / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"prediction_type": "epsilon"}))
    experiment = experiment_on(
        tmp_path / "own", f"models.mini.source={path}", f"models.mini.config={tmp_path}/own/teacher"
    )
    with pytest.raises(BenchError, match="says that it predicts v"):
        settle_models(experiment, survey(experiment))


def test_a_part_of_a_model_is_no_model(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models, tmp_path / "own")
    unet = tmp_path / "own" / "teacher" / "unet" / "diffusion_pytorch_model.safetensors"
    experiment = experiment_on(tmp_path / "own", f"models.mini.source={unet}")
    with pytest.raises(BenchError, match="holds no whole model"):
        survey(experiment).check()


def original_names(pipeline: object) -> dict[str, torch.Tensor]:
    raise NotImplementedError


_ = np, sd_pipeline
