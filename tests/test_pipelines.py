"""Parts that do not fit a base model are refused, memory_options take effect, and lack of memory is handled."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from standins import build_hub, sd_pipeline
from test_sampling import PROMPTS, make_cell

from bench.generate.pipelines import load_pipeline
from bench.generate.sampling import Sampler
from bench.generate.task_inputs import Inputs
from bench.records.cell import Adapter, Cell, Part, Task
from bench.records.errors import BenchError, CellError

IDS = ("stabilityai/stable-diffusion-xl-base-1.0", "h1t/TCD-SD15-LoRA", "diffusers/controlnet-canny-sdxl-1.0")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_hub(tmp_path_factory.mktemp("hub"), IDS)


def snapshot(hub: Path, repository: str) -> str:
    return str(next((hub / f"models--{repository.replace('/', '--')}" / "snapshots").iterdir()))


@pytest.fixture(scope="module")
def sdxl(hub: Path, models: Path) -> Cell:
    cell = make_cell(models, adapter=None)
    source = snapshot(hub, IDS[0])
    return replace(cell, base=replace(cell.base, source=source, pipeline="StableDiffusionXLPipeline"))


def test_a_lora_of_another_base_is_refused(sdxl: Cell, hub: Path) -> None:
    adapter = Adapter("tcd", snapshot(hub, IDS[1]), "pytorch_lora_weights.safetensors", "x")
    with pytest.raises(BenchError, match=r"adapter tcd .*it was made for another base"):
        load_pipeline(replace(sdxl, adapters=(adapter,)))


def test_a_lora_whose_keys_match_nothing_is_an_error_that_lists_them(models: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    keys = {f"unet.elsewhere.0.to_q.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    save_file(keys, tmp_path / "x.safetensors")
    cell = make_cell(models)
    with pytest.raises(BenchError, match="another base"):
        load_pipeline(replace(cell, adapters=(Adapter("x", str(tmp_path), "x.safetensors", "x"),)))


def test_a_lora_some_of_whose_keys_match_nothing_is_an_error_that_lists_them(models: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    own = load_file(models / "tcd-lora" / "pytorch_lora_weights.safetensors")
    name = next(key for key in own if "to_q.lora_A" in key)
    own[name.replace("lora_A", "lora_C")] = own[name].clone()
    save_file(own, tmp_path / "x.safetensors")
    with pytest.raises(BenchError, match="lora_C"):
        load_pipeline(replace(make_cell(models), adapters=(Adapter("x", str(tmp_path), "x.safetensors", "x"),)))


def test_a_controlnet_of_another_family_is_refused(models: Path, hub: Path) -> None:
    cell = make_cell(models, adapter=None)
    parts = (Part("controlnet", snapshot(hub, IDS[2]), "x"),)
    base = replace(cell.base, pipeline="StableDiffusionControlNetPipeline", parts=parts)
    with pytest.raises(BenchError, match="made for another family of models"):
        load_pipeline(replace(cell, base=base))


@pytest.mark.parametrize("option", ["vae_slicing", "vae_tiling", "compile"])
def test_a_memory_option_changes_images_by_rounding_only(
    models: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(torch, "compile", lambda call, mode: compiled.append(mode) or call)  # it takes a minute
    cell = make_cell(models, batch_size=2)
    value = "default" if option == "compile" else True
    pulled = replace(cell, base=replace(cell.base, memory_options={option: value}))
    assert pulled.key != cell.key
    assert pulled.pipeline_key != cell.pipeline_key
    loaded: Any = load_pipeline(pulled)
    if option == "vae_slicing":
        assert loaded.vae.use_slicing
    if option == "vae_tiling":
        assert loaded.vae.use_tiling
    if option == "compile":
        assert compiled == ["default"] * 2, "denoiser and decoder"
    plain = Sampler(load_pipeline(cell), cell, PROMPTS).sample(0).images
    assert np.abs(Sampler(loaded, pulled, PROMPTS).sample(0).images.astype(int) - plain).max() <= 1


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
def test_offloading_needs_a_gpu(models: Path, offload: str) -> None:
    cell = make_cell(models)
    with pytest.raises(BenchError, match=rf"memory_options.offload={offload} was given but the device is cpu"):
        load_pipeline(replace(cell, base=replace(cell.base, memory_options={"offload": offload})))


def test_an_unavailable_attention_backend_is_refused(models: Path) -> None:
    cell = make_cell(models)
    with pytest.raises(BenchError, match=r"memory_options.attention=flash_9 cannot be used here"):
        load_pipeline(replace(cell, base=replace(cell.base, memory_options={"attention": "flash_9"})))


class Cramped:
    """A UNet on a device whose memory holds so many rows."""

    def __init__(self, pipeline: Any, rows: int) -> None:
        self.calls: list[int] = []
        forward = pipeline.unet.forward

        def checked(sample: torch.Tensor, *arguments: Any, **more: Any) -> Any:
            self.calls.append(len(sample))
            if len(sample) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(sample, *arguments, **more)

        pipeline.unet.forward = checked


def test_a_batch_that_does_not_fit_is_halved_and_the_record_says_so(models: Path) -> None:
    pipeline: Any = load_pipeline(make_cell(models))
    whole = Sampler(pipeline, make_cell(models), PROMPTS).sample(0)
    assert whole.calls.batch_size == 7
    cramped = Cramped(pipeline, rows=2)
    sampler = Sampler(pipeline, make_cell(models), PROMPTS)
    batch = sampler.sample(0)
    assert batch.calls.batch_size == 1
    assert cramped.calls[:3] == [7, 3, 1]
    assert np.abs(batch.images.astype(int) - whole.images).max() <= 1
    assert batch.calls.denoiser_evaluations == whole.calls.denoiser_evaluations, "what did not fit is not counted"
    assert batch.calls.scheduler_steps == 7 * whole.calls.scheduler_steps
    cramped.calls.clear()
    sampler.sample(0)
    assert set(cramped.calls) == {1}, "the next batch does not try again"


def test_one_image_that_does_not_fit_names_the_memory_options(models: Path) -> None:
    pipeline: Any = load_pipeline(make_cell(models))
    Cramped(pipeline, rows=0)
    with pytest.raises(CellError, match=r"memory_options.offload=model, memory_options.vae_tiling=true"):
        Sampler(pipeline, make_cell(models), PROMPTS).sample(0)


def test_an_inpainted_image_depends_on_neither_batch_size_nor_order(models: Path) -> None:
    from diffusers import StableDiffusionInpaintPipeline

    torch.manual_seed(0)
    own = sd_pipeline()
    pipeline = StableDiffusionInpaintPipeline(
        **{**own.components, "image_encoder": None}, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    task = Task("inpainting", {"strength": 0.9})
    cell = make_cell(models, adapter=None, task=task, steps=4)
    inputs = Inputs(task, "world", len(PROMPTS), 64, 64)
    together = Sampler(pipeline, cell, PROMPTS, inputs=inputs).sample(0).images
    alone = Sampler(pipeline, replace(cell, batch_size=1), PROMPTS, inputs=inputs)
    for row in (5, 0):
        assert np.abs(alone.sample(row).images[0].astype(int) - together[row]).max() <= 1
