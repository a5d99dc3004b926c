"""Pipelines of transformers and flow matching are sampled as by hand, image by image, and what they did is counted."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from numpy.typing import NDArray
from test_sampling import PROMPTS
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from bench.generate.denoiser_cache import SharedEvaluations, room_on
from bench.generate.denoisers import denoisers
from bench.generate.embeddings import Embeddings
from bench.generate.guidance import check_arguments
from bench.generate.noise import refuse_shared_noise
from bench.generate.pipelines import load_pipeline
from bench.generate.sampling import Sampler, image_generator
from bench.generate.schedulers import expected_evaluations, make_scheduler, try_scheduler
from bench.mini import world
from bench.mini.training.vocabulary import build_tokenizer
from bench.records.cell import Cell, SchedulerSpec
from bench.records.errors import BenchError, CellError

EULER = SchedulerSpec("diffusers.FlowMatchEulerDiscreteScheduler", {"shift": 3.0})
STOCHASTIC = SchedulerSpec("diffusers.FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "stochastic_sampling": True})
LCM = SchedulerSpec("diffusers.FlowMatchLCMScheduler", {"shift": 3.0})
HEUN = SchedulerSpec("diffusers.FlowMatchHeunDiscreteScheduler", {"shift": 3.0})
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "shift": 3.0}
SOLVERS = [
    EULER,
    HEUN,
    SchedulerSpec("diffusers.DPMSolverMultistepScheduler", FLOW),
    SchedulerSpec("diffusers.UniPCMultistepScheduler", FLOW),
]


def build_sd3() -> Any:
    """Stable Diffusion 3 with two small text encoders, and no T5."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(world.caption(world.scene(seed)) for seed in range(100))
    tokenizer.model_max_length = 77
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 8), norm_num_groups=2, latent_channels=4, sample_size=32, shift_factor=0.1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32,
    )  # fmt: skip
    pipeline: Any = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_cell(scheduler: SchedulerSpec = EULER, base: Any = None, **changes: Any) -> Cell:
    """Two steps of a scheduler on Stable Diffusion 3, all prompts in one batch."""
    given = {"pipeline": "StableDiffusion3Pipeline", "height": 32, "width": 32, "arguments": {"max_sequence_length": 8}}
    own = {"base": factories.make_base(**given, **(base or {})), "scheduler": scheduler, "steps": 2, "eta": None}
    return factories.make_cell(len(PROMPTS), **{**own, "batch_size": len(PROMPTS), **changes})


@pytest.fixture(scope="module")
def sd3() -> Any:
    return build_sd3()


def by_hand(pipeline: Any, cell: Cell, **given: Any) -> tuple[NDArray[np.uint8], int]:
    """The images of a pipeline's own call, and the rows of its denoiser per image."""
    pipeline.scheduler = make_scheduler(cell.scheduler)
    rows = []
    (denoiser,) = denoisers(pipeline).values()
    hook = denoiser.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(args[0] if args else kwargs["hidden_states"])), with_kwargs=True
    )
    try:
        output = pipeline(
            prompt=[*PROMPTS],
            num_inference_steps=cell.steps,
            height=cell.base.height,
            width=cell.base.width,
            generator=[image_generator(cell.seed, row) for row in range(len(PROMPTS))],
            output_type="pt",
            **given,
        )
    finally:
        hook.remove()
    pixels = (output.images.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return pixels.numpy(), sum(rows) // len(PROMPTS)


@pytest.mark.parametrize("guidance", [0.0, 5.0])
@pytest.mark.parametrize("scheduler", SOLVERS, ids=lambda spec: spec.target)
def test_images_are_those_of_the_pipeline_called_by_hand(sd3: Any, scheduler: SchedulerSpec, guidance: float) -> None:
    cell = make_cell(scheduler, guidance_scale=guidance, steps=3)
    expected, evaluations = by_hand(sd3, cell, guidance_scale=guidance, max_sequence_length=8)
    batch = Sampler(sd3, cell, PROMPTS).sample(0)
    assert np.array_equal(batch.images, expected)
    assert batch.calls.denoiser_evaluations == evaluations
    tried = try_scheduler(cell.scheduler, cell.steps, cell.eta, cell.base)
    assert expected_evaluations(cell, tried) == evaluations
    assert tuple(float(t) for t in tried.timesteps) == batch.calls.timesteps
    assert batch.calls.arguments["max_sequence_length"] == 8


@pytest.mark.parametrize("scheduler", [EULER, STOCHASTIC, LCM], ids=["euler", "stochastic", "lcm"])
def test_an_image_depends_on_its_seed_and_row_alone(sd3: Any, scheduler: SchedulerSpec) -> None:
    together = Sampler(sd3, make_cell(scheduler, steps=4), PROMPTS).sample(0).images
    torch.manual_seed(5)
    for size in (1, 3):
        sampler = Sampler(sd3, make_cell(scheduler, steps=4, batch_size=size), PROMPTS)
        for start in (6, 0, 3):
            images = sampler.sample(start).images
            assert np.abs(images.astype(int) - together[start : start + len(images)]).max() <= 1
    backwards = Sampler(sd3, make_cell(scheduler, steps=4), PROMPTS).call(range(6, -1, -1))
    assert np.abs(backwards[::-1].astype(int) - together).max() <= 1


def test_the_noise_of_a_step_changes_the_image(sd3: Any) -> None:
    images = [
        Sampler(sd3, make_cell(scheduler, steps=4), PROMPTS).sample(0).images for scheduler in (EULER, STOCHASTIC)
    ]
    assert not np.array_equal(*images)


def test_embeddings_and_evaluations_are_shared_and_change_no_bit(sd3: Any) -> None:
    own = build_sd3()
    seen: list[int] = []
    own.text_encoder.register_forward_pre_hook(lambda *_: seen.append(1))
    cells = [make_cell(scheduler, guidance_scale=5.0) for scheduler in (EULER, LCM, EULER)]
    plain = [Sampler(own, cell, PROMPTS).call(range(len(PROMPTS))) for cell in cells]
    assert len(seen) == 2 * len(cells), "with a prompt and without"
    seen.clear()
    embeddings, shared = Embeddings(), SharedEvaluations(denoisers(own).values(), room_on("cpu"))
    served = [Sampler(own, cell, PROMPTS, embeddings, shared).sample(0) for cell in cells]
    assert len(seen) == 2
    assert shared.used == 1 + 2, "the first evaluation of the second cell, and all of the third"
    assert all(np.array_equal(batch.images, images) for batch, images in zip(served, plain, strict=True))


def test_all_methods_start_from_the_same_noise(sd3: Any) -> None:
    firsts = []
    for scheduler in (*SOLVERS, LCM, STOCHASTIC):
        seen: list[torch.Tensor] = []

        def note(_: Any, __: Any, given: Any, seen: list[torch.Tensor] = seen) -> None:
            seen.append(given["hidden_states"].clone())

        hook = sd3.transformer.register_forward_pre_hook(note, with_kwargs=True)
        try:
            Sampler(sd3, make_cell(scheduler), PROMPTS).sample(0)
        finally:
            hook.remove()
        firsts.append(seen[0])
    assert all(torch.equal(first, firsts[0]) for first in firsts)


def test_a_scheduler_that_a_pipeline_cannot_use_is_refused_before_anything_is_loaded() -> None:
    unet = factories.make_base()
    with pytest.raises(BenchError, match=r"FlowMatchEulerDiscreteScheduler has no init_noise_sigma, which StableDiff"):
        try_scheduler(EULER, 2, None, unet)
    flux = factories.make_base(pipeline="FluxPipeline", height=32, width=32)
    with pytest.raises(
        BenchError, match=r"FluxPipeline gives its scheduler sigmas and mu, which .*Heun.* does not take"
    ):
        try_scheduler(HEUN, 2, None, flux)
    moving = SchedulerSpec(HEUN.target, {"use_dynamic_shifting": True})
    with pytest.raises(BenchError, match=r"Heun.* has no use_dynamic_shifting, and the model's noise schedule has"):
        try_scheduler(moving, 2, None, make_cell().base)


def test_a_shift_is_written_in_each_scheduler_s_own_names() -> None:
    schedule = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.4, "max_shift": 1.1, "shift_terminal": None}
    solver = make_scheduler(SchedulerSpec("diffusers.DPMSolverMultistepScheduler", {**FLOW, **schedule}))
    assert solver.config.flow_shift == 3.0
    assert (solver.config.base_shift, solver.config.max_shift) == (0.4, 1.1), "which pipelines read"
    euler = make_scheduler(SchedulerSpec(EULER.target, {"use_flow_sigmas": True, "flow_shift": 2.0}))
    assert euler.config.shift == 2.0


FORKED = """
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, TCDScheduler
from diffusers.utils.torch_utils import randn_tensor


class Forgets(FlowMatchEulerDiscreteScheduler):
    def step(self, model_output, timestep, sample, generator=None, return_dict=True):
        noisy = sample + {noise}
        return super().step(model_output, timestep, noisy, generator=generator, return_dict=return_dict)
"""
NOISES = {
    "of the global generator": "torch.randn_like(sample)",
    "of one seed": "torch.randn(sample.shape, generator=torch.Generator().manual_seed(0))",
    "of the batch": "sample.mean()",
}


@pytest.mark.parametrize("noise", NOISES)
def test_noise_that_is_not_an_image_s_own_is_refused_before_anything_is_loaded(own_directory: Path, noise: str) -> None:
    (own_directory / "forgets.py").write_text(FORKED.replace("{noise}", NOISES[noise]))
    with pytest.raises(BenchError, match=r"forgets\.Forgets draws noise that is not each image's own"):
        refuse_shared_noise(make_cell(SchedulerSpec("forgets.Forgets", {"shift": 3.0})))


def test_noise_of_the_generators_that_a_step_is_given_is_accepted(own_directory: Path) -> None:
    given = "randn_tensor(sample.shape, generator=generator)"
    (own_directory / "forgets.py").write_text(FORKED.replace("{noise}", given))
    before = torch.get_rng_state()
    for scheduler in (SchedulerSpec("forgets.Forgets", {"shift": 3.0}), STOCHASTIC, LCM, *SOLVERS):
        refuse_shared_noise(make_cell(scheduler))
    unet = factories.make_base()
    for target, eta in (("TCDScheduler", 1.0), ("EulerAncestralDiscreteScheduler", None), ("SASolverScheduler", None)):
        refuse_shared_noise(factories.make_cell(scheduler=SchedulerSpec(f"diffusers.{target}"), base=unet, eta=eta))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_eta_reaches_the_step_of_a_pipeline_that_has_none(sd3: Any, own_directory: Path) -> None:
    (own_directory / "with_eta.py").write_text(
        "from diffusers import FlowMatchEulerDiscreteScheduler\nSEEN = []\n\n\n"
        "class WithEta(FlowMatchEulerDiscreteScheduler):\n"
        "    def step(self, model_output, timestep, sample, eta=0.3, generator=None, return_dict=True):\n"
        "        SEEN.append((eta, len(generator)))\n"
        "        return super().step(model_output, timestep, sample, return_dict=return_dict)\n"
    )
    cell = make_cell(SchedulerSpec("with_eta.WithEta", {"shift": 3.0}), eta=0.7)
    calls = Sampler(sd3, cell, PROMPTS).sample(0).calls
    assert calls.arguments["eta"] == 0.7
    assert [(0.7, len(PROMPTS))] * 2 == sys.modules["with_eta"].SEEN


@pytest.mark.parametrize(
    ("arguments", "guidance", "said"),
    [
        ({"max_sequence_lenght": 8}, None, "takes no such argument; did you mean max_sequence_length"),
        ({"height": 64}, None, "but other settings decide it"),
        ({"negative_prompt": ["a"]}, None, "give one text"),
        ({}, "true_cfg", "guidance=true_cfg was given, but StableDiffusion3Pipeline has classifier_free"),
    ],
)
def test_arguments_that_a_pipeline_does_not_take_are_refused(
    arguments: dict[str, Any], guidance: str | None, said: str
) -> None:
    base = factories.make_base(pipeline="StableDiffusion3Pipeline", arguments=arguments, guidance=guidance)
    with pytest.raises(BenchError, match=said):
        check_arguments(factories.make_cell(base=base, eta=None))


def test_a_model_without_guidance_refuses_a_scale() -> None:
    base = factories.make_base(pipeline="Flux2KleinPipeline", guidance="none")
    with pytest.raises(BenchError, match="takes no guidance"):
        check_arguments(factories.make_cell(base=base, eta=None, guidance_scale=4.0))


def test_images_of_another_size_than_the_asked_are_an_error(sd3: Any) -> None:
    class Resizing(StableDiffusion3Pipeline):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **{**kwargs, "height": 48})

    resizing = Resizing(**sd3.components)
    resizing.set_progress_bar_config(disable=True)
    with pytest.raises(CellError, match="made images of 48 × 32 pixels instead of 32 × 32"):
        Sampler(resizing, make_cell(), PROMPTS).sample(0)


def test_a_checkpoint_that_states_to_have_no_t5_is_loaded(sd3: Any, tmp_path: Path) -> None:
    sd3.save_pretrained(tmp_path / "sd3")
    stated = {"beta_schedule": None, "prediction_type": "flow_prediction", "use_flow_sigmas": True, "shift": 3.0}
    cell = make_cell(base={"source": str(tmp_path / "sd3"), "noise_schedule": stated})
    loaded: Any = load_pipeline(replace(cell, adapters=(), fused=False))
    assert loaded.text_encoder_3 is None
    assert torch.equal(loaded.transformer.proj_out.weight, sd3.transformer.proj_out.weight)
