"""Every architecture of flow matching is sampled as its pipeline does it by hand, and its evaluations are planned."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import factories
import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from numpy.typing import NDArray
from standins_flow import (
    flux_pipeline,
    klein_pipeline,
    qwen_pipeline,
    sana_pipeline,
    sd3_pipeline,
    z_image_pipeline,
)

from bench.generate.denoiser_cache import SharedEvaluations, room_on
from bench.generate.denoisers import denoisers, rows_of
from bench.generate.embeddings import Embeddings
from bench.generate.sampling import Sampler, image_generator
from bench.generate.schedulers import expected_evaluations, make_scheduler, try_scheduler
from bench.records.cell import Cell, SchedulerSpec
from bench.records.errors import BenchError

PROMPTS = ("a red circle", "two blue squares left of a green ring, seen from very far above", "a star")
_EULER, _LCM = "diffusers.FlowMatchEulerDiscreteScheduler", "diffusers.FlowMatchLCMScheduler"
_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
_MOVING = {**_FLOW, "use_dynamic_shifting": True, "shift": 1.0}
_SANA = {"use_resolution_binning": False, "complex_human_instruction": None}


@dataclass(frozen=True)
class Case:
    """A model: how it is built, what its cells and a call by hand take, and evaluations per step by guidance scale."""

    build: Callable[[], Any]
    evaluations: Mapping[float, int]
    schedule: Mapping[str, Any] = field(default_factory=lambda: {**_FLOW, "shift": 3.0})
    scheduler: str = _EULER
    arguments: Mapping[str, Any] = field(default_factory=dict)
    by_hand: Callable[[float], Mapping[str, Any]] = lambda scale: {"guidance_scale": scale}
    stochastic: str = _LCM
    guidance: str | None = None


def _true_cfg(scale: float) -> Mapping[str, Any]:
    return {"true_cfg_scale": scale, **({"negative_prompt": [" "] * len(PROMPTS)} if scale > 1 else {})}


CASES = {
    "sd3": Case(lambda: sd3_pipeline(True), {0.0: 1, 4.5: 2}, arguments={"max_sequence_length": 16}),
    "schnell": Case(lambda: flux_pipeline(False), {0.0: 1}, {**_FLOW, "shift": 1.0}),
    "dev": Case(lambda: flux_pipeline(True), {3.5: 1}, {**_MOVING, "base_shift": 0.4}),
    "dev with true guidance": Case(
        lambda: flux_pipeline(True), {1.0: 1, 2.0: 2}, _MOVING, guidance="true_cfg",
        arguments={"negative_prompt": " ", "guidance_scale": 1.5},
        by_hand=lambda scale: {**_true_cfg(scale), "guidance_scale": 1.5},
    ),
    "klein": Case(klein_pipeline, {1.0: 1}, _MOVING),
    "klein base": Case(lambda: klein_pipeline(False), {1.0: 1, 4.0: 2}, _MOVING),
    "sana": Case(
        lambda: sana_pipeline(False), {1.0: 1, 4.5: 2}, {**_FLOW, "shift": 3.0},
        "diffusers.DPMSolverMultistepScheduler", _SANA, stochastic=_LCM,
    ),
    "sprint": Case(
        lambda: sana_pipeline(True), {4.5: 1}, {"prediction_type": "trigflow", "sigma_data": 0.5},
        "diffusers.SCMScheduler", _SANA, stochastic="diffusers.SCMScheduler",
    ),
    "z": Case(z_image_pipeline, {0.0: 1, 0.5: 2}),
    "qwen": Case(
        qwen_pipeline, {1.0: 1, 4.0: 2},
        {**_MOVING, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02},
        arguments={"negative_prompt": " "}, by_hand=_true_cfg,
    ),
}  # fmt: skip


def build(case: Case) -> Any:
    """A model as it is loaded: without dropout, and without a progress bar."""
    torch.manual_seed(0)
    pipeline = case.build()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module", params=CASES)
def model(request: pytest.FixtureRequest) -> tuple[Case, Any]:
    return CASES[request.param], build(CASES[request.param])


def make_cell(case: Case, pipeline: Any, target: str | None = None, **changes: Any) -> Cell:
    """Two steps of a model's own scheduler, all prompts in one batch, at 64 × 64 pixels."""
    base = factories.make_base(
        pipeline=type(pipeline).__name__, arguments=case.arguments, noise_schedule=case.schedule, guidance=case.guidance
    )
    scheduler = SchedulerSpec(target or case.scheduler, case.schedule)
    own = {"base": base, "scheduler": scheduler, "steps": 2, "eta": None, "batch_size": len(PROMPTS)}
    return factories.make_cell(len(PROMPTS), **{**own, **changes})


def by_hand(pipeline: Any, cell: Cell, scheduler: Any = None, **given: Any) -> tuple[NDArray[np.uint8], int]:
    """The images of a pipeline's own call, and the rows of its denoiser per image."""
    pipeline.scheduler = scheduler or make_scheduler(cell.scheduler)
    rows: list[int] = []
    (denoiser,) = denoisers(pipeline).values()
    hook = denoiser.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(rows_of(module, args, kwargs)), with_kwargs=True
    )
    given = {**{name: v for name, v in cell.base.arguments.items() if name != "negative_prompt"}, **given}
    if "intermediate_timesteps" in type(pipeline).__call__.__code__.co_varnames and cell.steps != 2:
        given["intermediate_timesteps"] = None
    generators = [image_generator(cell.seed, row) for row in range(len(PROMPTS))]
    try:
        output = pipeline(
            prompt=[*PROMPTS],
            num_inference_steps=cell.steps,
            height=64,
            width=64,
            generator=generators,
            output_type="pt",
            **given,
        )
    finally:
        hook.remove()
    pixels = (output.images.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return pixels.numpy(), sum(rows) // len(PROMPTS)


def test_images_and_evaluations_are_those_of_the_pipeline_called_by_hand(model: tuple[Case, Any]) -> None:
    case, pipeline = model
    for i, (scale, per_step) in enumerate(case.evaluations.items()):
        cell = make_cell(case, pipeline, guidance_scale=scale, steps=2 + i)
        expected, evaluations = by_hand(pipeline, cell, **case.by_hand(scale))
        embeddings = Embeddings()
        for _ in range(2):  # encoded, and remembered
            batch = Sampler(pipeline, cell, PROMPTS, embeddings).sample(0)
            assert np.array_equal(batch.images, expected)
        assert np.array_equal(Sampler(pipeline, cell, PROMPTS).call(range(len(PROMPTS))), expected)
        assert batch.images.std() > 2
        assert batch.calls.denoiser_evaluations == evaluations == per_step * cell.steps
        tried = try_scheduler(cell.scheduler, cell.steps, cell.eta, cell.base)
        assert expected_evaluations(cell, tried) == evaluations
        assert [float(t) for t in tried.timesteps] == pytest.approx(batch.calls.timesteps, abs=1e-4)
        assert {**case.arguments}.items() - {("negative_prompt", " ")} <= batch.calls.arguments.items() or scale <= 1


def test_an_image_depends_on_its_seed_and_row_alone(model: tuple[Case, Any]) -> None:
    case, pipeline = model
    scale = max(case.evaluations)
    for target in dict.fromkeys((case.scheduler, case.stochastic)):
        cell = make_cell(case, pipeline, target, guidance_scale=scale, steps=4)
        together = Sampler(pipeline, cell, PROMPTS).sample(0).images
        torch.manual_seed(1)
        single = make_cell(case, pipeline, target, guidance_scale=scale, steps=4, batch_size=1)
        alone = Sampler(pipeline, single, PROMPTS)
        for row in (2, 0, 1):
            distance = np.abs(alone.sample(row).images[0].astype(int) - together[row])
            assert distance.max() <= 1, f"{target}: only the rounding of another batch shape"


def test_shared_evaluations_change_no_bit(model: tuple[Case, Any]) -> None:
    case, _ = model
    pipeline = build(case)
    scale = max(case.evaluations)
    cells = [make_cell(case, pipeline, guidance_scale=scale, steps=steps) for steps in (2, 2, 3)]
    plain = [Sampler(pipeline, cell, PROMPTS).sample(0) for cell in cells]
    shared, embeddings = SharedEvaluations(denoisers(pipeline).values(), room_on("cpu")), Embeddings()
    served = [Sampler(pipeline, cell, PROMPTS, embeddings, shared).sample(0) for cell in cells]
    assert all(np.array_equal(mine.images, theirs.images) for mine, theirs in zip(served, plain, strict=True))
    assert [batch.calls for batch in served] == [batch.calls for batch in plain]
    calls = plain[0].calls.denoiser_calls
    assert shared.used >= calls, "the whole second cell"


@pytest.mark.parametrize("kind", [DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_a_solver_has_the_shift_that_diffusers_gives_it_from_the_checkpoint_s_scheduler(kind: Any) -> None:
    case = CASES["dev"]
    pipeline = build(case)
    cell = make_cell(case, pipeline, f"diffusers.{kind.__name__}", guidance_scale=3.5, steps=4)
    own = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.4)
    solver = kind.from_config(own.config, use_flow_sigmas=True, prediction_type="flow_prediction")
    expected, _ = by_hand(pipeline, cell, solver, guidance_scale=3.5)
    batch = Sampler(pipeline, cell, PROMPTS).sample(0)
    assert np.array_equal(batch.images, expected)
    tried = try_scheduler(cell.scheduler, cell.steps, cell.eta, cell.base)
    assert [float(t) for t in tried.timesteps] == pytest.approx(batch.calls.timesteps, abs=1e-4)


def test_a_solver_without_the_shift_by_size_is_refused_for_a_pipeline_that_gives_it() -> None:
    base = factories.make_base(pipeline="FluxPipeline")
    still = SchedulerSpec("diffusers.DPMSolverMultistepScheduler", {**_FLOW, "shift": 1.0})
    with pytest.raises(BenchError, match="FluxPipeline shifts by the image's size, so set use_dynamic_shifting=true"):
        try_scheduler(still, 4, None, base)
