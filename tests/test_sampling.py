"""Image i depends on its seed and prompt alone, and what sampling did is counted, not assumed."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import factories
import numpy as np
import psutil
import pytest
import torch
import yaml
from contended import ContendedLock

from bench.checkpoints.sources import name_weights
from bench.generate.denoiser_cache import SharedEvaluations, room_on
from bench.generate.embeddings import Embeddings
from bench.generate.images import quantise
from bench.generate.pipelines import load_pipeline
from bench.generate.sampling import Sampler, image_generator
from bench.generate.schedulers import (
    expected_evaluations,
    has_eta,
    make_scheduler,
    scheduler_class_of,
    settings_of,
    try_scheduler,
)
from bench.records.cell import Adapter, Base, Cell, SchedulerSpec, Task
from bench.records.errors import BenchError, CellError

SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
PROMPTS = tuple(f"a {colour} circle" for colour in ("red", "blue", "green", "white", "black", "purple", "orange"))


def make_cell(
    models: Path, scheduler: str | SchedulerSpec = "TCDScheduler", adapter: str | None = "tcd", **changes: Any
) -> Cell:
    if isinstance(scheduler, str):
        own = {"original_inference_steps": 50} if scheduler == "TCDScheduler" else {}
        scheduler = SchedulerSpec(f"diffusers.{scheduler}", {**SCHEDULE, **own})
    source = str(models / "teacher")
    adapters: tuple[Adapter, ...] = ()
    if adapter:
        path = models / f"{adapter}-lora"
        adapters = (Adapter(adapter, str(path), "pytorch_lora_weights.safetensors", name_weights(str(path))),)
    base = Base("mini", source, name_weights(source), "StableDiffusionPipeline", "float32", 64, 64, SCHEDULE)
    given: dict[str, Any] = {
        **{"base": base, "method": "m", "scheduler": scheduler, "adapters": adapters, "fused": bool(adapters)},
        **{"steps": 2, "eta": 0.3 if scheduler.target == "diffusers.TCDScheduler" else None, "batch_size": 7},
    }
    return factories.make_cell(len(PROMPTS), **{**given, **changes})


def images_of(cell: Cell) -> Any:
    """The cell's first batch, sampled by a pipeline loaded for it."""
    return Sampler(load_pipeline(cell), cell, PROMPTS).sample(0).images


@pytest.fixture(scope="module")
def pipeline(models: Path) -> Any:
    return load_pipeline(make_cell(models))


def test_an_image_depends_on_neither_batch_size_nor_order(models: Path, pipeline: Any) -> None:
    together = Sampler(pipeline, make_cell(models), PROMPTS).sample(0).images
    sampler = Sampler(pipeline, make_cell(models, batch_size=2), PROMPTS)
    for start in (6, 2, 0, 4):
        batch = sampler.sample(start)
        distance = np.abs(batch.images.astype(int) - together[start : start + len(batch.images)])
        assert distance.max() <= 1, "only the rounding of another batch shape"
    backwards = Sampler(pipeline, make_cell(models), PROMPTS).call(range(6, -1, -1))
    assert np.abs(backwards[::-1].astype(int) - together).max() <= 1


def test_the_same_batch_gives_the_same_bytes(models: Path, pipeline: Any) -> None:
    sampler = Sampler(pipeline, make_cell(models), PROMPTS)
    assert np.array_equal(sampler.sample(0).images, sampler.sample(0).images)


def test_embeddings_made_once_give_the_bytes_of_a_plain_call(models: Path, pipeline: Any) -> None:
    for cell in (make_cell(models), make_cell(models, "DDIMScheduler", eta=0.0, guidance_scale=3.0)):
        embeddings = Embeddings()
        sampled = [Sampler(pipeline, cell, PROMPTS, embeddings).sample(0).images for _ in range(2)]
        assert np.array_equal(sampled[0], sampled[1])
        assert np.array_equal(sampled[0], Sampler(pipeline, cell, PROMPTS).call(range(7)))


def test_embeddings_are_made_once_and_not_kept_beyond_their_limit(models: Path, pipeline: Any) -> None:
    seen = []
    hook = pipeline.text_encoder.register_forward_pre_hook(lambda *_: seen.append(1))
    try:
        for limit, expected in ((2**29, 1), (0, 2)):
            seen.clear()
            embeddings = Embeddings(limit)
            for _ in range(2):
                Sampler(pipeline, make_cell(models), PROMPTS, embeddings).sample(0)
            assert len(seen) == expected
    finally:
        hook.remove()


def test_no_two_threads_encode_prompts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, inside, most = ContendedLock(), [0], [0]
    monkeypatch.setattr(Embeddings, "encoding", lock)

    class Pipeline:
        def encode_prompt(self, prompt: list[str]) -> tuple[torch.Tensor, None]:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            if inside[0] > 1:
                lock.contended.set()  # where another thread is encoding
            lock.contended.wait(300)
            inside[0] -= 1
            return torch.zeros(len(prompt)), None

    shared = Pipeline()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda i: Embeddings().remembered_by(shared).encode_prompt([f"prompt {i}"]), range(2)))
    assert most == [1]


def test_concurrent_samplers_give_the_same_images_and_counts(models: Path, pipeline: Any) -> None:
    cells = [make_cell(models, steps=steps, batch_size=3) for steps in (2, 5)]
    alone = [[Sampler(pipeline, cell, PROMPTS).sample(start) for start in (0, 3, 6)] for cell in cells]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda cell: [Sampler(pipeline, cell, PROMPTS).sample(s) for s in (0, 3, 6)], cells))
    for ours, theirs in zip(chain(*both), chain(*alone), strict=True):
        assert ours.calls == theirs.calls
        assert np.abs(ours.images.astype(int) - theirs.images).max() <= 1, "only the rounding of another thread count"


def test_other_seeds_and_rows_give_other_noise() -> None:
    draws = {tuple(torch.randn(3, generator=image_generator(s, r)).tolist()) for s in range(3) for r in range(3)}
    assert len(draws) == 9


def test_all_methods_start_from_the_same_latents(models: Path, pipeline: Any) -> None:
    seen = []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    try:
        Sampler(pipeline, make_cell(models), PROMPTS).sample(0)
        Sampler(pipeline, make_cell(models, "DPMSolverSinglestepScheduler", steps=4), PROMPTS).sample(0)
    finally:
        hook.remove()
    assert torch.equal(seen[0], seen[2]), "TCD's and DPM-Solver's first denoiser inputs"


@pytest.mark.parametrize(("guidance", "doubled"), [(0.0, 1), (1.0, 1), (3.0, 2)])
def test_evaluations_are_counted_three_ways(models: Path, pipeline: Any, guidance: float, doubled: int) -> None:
    cell = make_cell(models, "DDIMScheduler", steps=3, eta=0.0, guidance_scale=guidance)
    calls = Sampler(pipeline, cell, PROMPTS).sample(0).calls
    assert (calls.scheduler_steps, calls.denoiser_calls) == (3, 3)
    assert calls.denoiser_evaluations == 3 * doubled
    assert calls.denoiser_samples == 3 * doubled * len(PROMPTS)
    assert len(calls.timesteps) == 3


CONF = Path(__file__).parents[1] / "conf"
CONFIGURED = {
    path.relative_to(CONF).as_posix(): yaml.safe_load(path.read_text(encoding="utf-8"))
    for group in ("method", "scheduler")
    for path in sorted((CONF / group).glob("*.yaml"))
    if not path.name.startswith(("flow_", "qwen_", "scm"))  # of transformers
}
SCHEDULERS: dict[str, dict[str, Any]] = {
    **{name: its.get("scheduler", its) for name, its in CONFIGURED.items()},
    **{
        f"{name}{more or ''}": {"_target_": f"diffusers.{name}Scheduler", **more}
        for name, more in (
            *(("KDPM2Discrete", {}), ("KDPM2AncestralDiscrete", {}), ("PNDM", {"skip_prk_steps": False})),
            *(("HeunDiscrete", {"use_karras_sigmas": True}), ("IPNDM", {}), ("DDPMParallel", {})),
            ("DPMSolverMultistep", {"use_karras_sigmas": True, "solver_order": 3}),
        )
    },
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_evaluations_of_a_plan_are_those_that_a_run_counts(models: Path, pipeline: Any, name: str) -> None:
    settings = dict(SCHEDULERS[name])
    target = settings.pop("_target_")
    known = settings_of(scheduler_class_of(target))
    spec = SchedulerSpec(target, {**{k: v for k, v in SCHEDULE.items() if k in known}, **settings})
    eta = 0.3 if has_eta(make_scheduler(spec)) else None
    own = CONFIGURED.get(name, {}).get("steps", (4, 5))
    for i, steps in enumerate(sorted({min(count, 9) for count in np.atleast_1d(own).tolist()})[:2]):
        cell = make_cell(models, spec, None, steps=steps, eta=eta, guidance_scale=3.0 * i)
        counted = Sampler(pipeline, cell, PROMPTS[:1]).sample(0).calls
        assert expected_evaluations(cell, try_scheduler(spec, steps, eta)) == counted.denoiser_evaluations, steps


@pytest.mark.parametrize(("strength", "left"), [(1.0, 4), (0.99, 3), (0.5, 2), (0.2, 0)])
def test_sampling_from_an_input_skips_the_first_steps(models: Path, strength: float, left: int) -> None:
    task = Task("inpainting", {"strength": strength})
    for scheduler, evaluations in (("DDIMScheduler", left), ("HeunDiscreteScheduler", max(2 * left - 1, 0))):
        cell = make_cell(models, scheduler, None, task=task, steps=4)
        tried = make_scheduler(cell.scheduler)
        tried.set_timesteps(4)
        assert expected_evaluations(cell, tried) == evaluations


def test_eta_reaches_the_scheduler(models: Path, pipeline: Any) -> None:
    still, lively = (Sampler(pipeline, make_cell(models, eta=eta, steps=4), PROMPTS).sample(0) for eta in (0.0, 1.0))
    assert not np.array_equal(still.images, lively.images)
    assert lively.calls.arguments["eta"] == 1.0


def test_stochastic_noise_comes_from_each_images_own_generator(models: Path, pipeline: Any) -> None:
    cell = make_cell(models, eta=1.0, steps=4)
    torch.manual_seed(1)
    first = Sampler(pipeline, cell, PROMPTS).sample(0).images
    torch.manual_seed(2)
    assert np.array_equal(first, Sampler(pipeline, cell, PROMPTS).sample(0).images)


def test_the_adapter_changes_the_images_and_fusing_it_does_not(models: Path, pipeline: Any) -> None:
    cell = make_cell(models)
    with_it = Sampler(pipeline, cell, PROMPTS).sample(0).images
    bare, loose = make_cell(models, adapter=None), replace(cell, fused=False)
    without, unfused = images_of(bare), images_of(loose)
    assert np.abs(with_it.astype(int) - without).mean() > 1
    assert np.abs(with_it.astype(int) - unfused).max() <= 2


def test_a_noise_schedule_that_contradicts_the_checkpoint_is_refused(models: Path) -> None:
    cell = make_cell(models)
    wrong = replace(cell, base=replace(cell.base, noise_schedule={**SCHEDULE, "beta_end": 0.02}))
    with pytest.raises(BenchError, match=r"beta_end=0\.02, but the checkpoint states 0\.012"):
        load_pipeline(wrong)


@pytest.mark.parametrize(
    ("scheduler", "settings", "eta"),
    [
        ("TCDScheduler", {"original_inference_steps": 50}, 0.3),
        ("LCMScheduler", {"original_inference_steps": 50, "clip_sample": False}, None),
        ("DDIMScheduler", {"timestep_spacing": "trailing", "clip_sample": False}, 0.0),
        ("DPMSolverSinglestepScheduler", {"lower_order_final": False, "final_sigmas_type": "sigma_min"}, None),
        ("DPMSolverMultistepScheduler", {}, None),
    ],
)
def test_a_single_step_works(models: Path, pipeline: Any, scheduler: str, settings: dict[str, Any], eta: float) -> None:
    spec = SchedulerSpec(f"diffusers.{scheduler}", {**SCHEDULE, **settings})
    batch = Sampler(pipeline, make_cell(models, scheduler=scheduler, steps=1, eta=eta), PROMPTS)
    batch.pipeline.scheduler = make_scheduler(spec)
    calls = batch.sample(0).calls
    assert (calls.scheduler_steps, calls.denoiser_calls, len(calls.timesteps)) == (1, 1, 1)


def test_pixels_are_rounded_as_a_png_is_saved() -> None:
    exact = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert quantise(exact, [0])()[0, 0, :, 0].tolist() == [0, 0, 1, 255, 255]


def test_images_that_are_nan_or_black_are_named() -> None:
    images = torch.full((2, 3, 4, 4), 0.5)
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(CellError, match="image 12 holds NaN"):
        quantise(images, [11, 12])()
    with pytest.raises(CellError, match="image 7 is all black"):
        quantise(torch.zeros(1, 3, 4, 4), [7])()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_images_of_a_gpu_are_fetched_while_it_does_other_work() -> None:
    images = torch.rand(4, 3, 64, 64, device="cuda")
    expected = quantise(images.cpu(), range(4))()
    pending = quantise(images, range(4))
    images.zero_()  # comes after the copy
    assert np.array_equal(pending(), expected)


def test_a_first_evaluation_is_shared_and_changes_no_byte(models: Path) -> None:
    own = load_pipeline(make_cell(models))
    cells = [make_cell(models, eta=eta, steps=steps) for steps, eta in ((2, 0.3), (2, 1.0), (4, 0.0))]
    plain = [Sampler(own, cell, PROMPTS).sample(0) for cell in cells]
    shared = SharedEvaluations([own.unet], room_on("cpu"))
    served = [Sampler(own, cell, PROMPTS, shared=shared).sample(0) for cell in cells]
    assert shared.used == 2
    for alone, together in zip(plain, served, strict=True):
        assert np.array_equal(alone.images, together.images)
        assert alone.calls == together.calls, "what the sampler asks for, not what was computed"


SOLVER = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}


def test_solvers_that_differ_in_the_last_step_share_all_evaluations_and_no_other_solver_does(models: Path) -> None:
    own = load_pipeline(make_cell(models, adapter=None))
    ends = {
        "authors": {"lower_order_final": False, "final_sigmas_type": "sigma_min"},
        "diffusers": {"lower_order_final": True, "final_sigmas_type": "zero"},
    }
    specs = {
        name: SchedulerSpec("diffusers.DPMSolverSinglestepScheduler", {**SCHEDULE, **SOLVER, **end})
        for name, end in ends.items()
    }
    cells = {(name, n): make_cell(models, specs[name], None, steps=n, eta=None) for n in (4, 6) for name in ends}
    plain = {name: Sampler(own, cell, PROMPTS).sample(0).images for name, cell in cells.items()}
    assert not np.array_equal(plain["authors", 4], plain["diffusers", 4])
    shared, used = SharedEvaluations([own.unet], room_on("cpu")), []
    for name, cell in cells.items():
        before = shared.used
        assert np.array_equal(Sampler(own, cell, PROMPTS, shared=shared).sample(0).images, plain[name])
        used.append(shared.used - before)
    assert used == [0, 4, 1, 6]


def test_evaluations_take_a_small_part_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for total, room in ((8 * 2**30, 8 * 2**30 // 20), (64 * 2**30, 2**30)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda total=total: SimpleNamespace(total=total))
        assert room_on("cpu") == room
    assert room_on("cuda:1") == 2**28


@pytest.mark.parametrize("changes", [{"seed": 1}, {"guidance_scale": 3.0}, {"scheduler": "DDIMScheduler", "eta": 0.0}])
def test_a_first_evaluation_of_other_inputs_is_not_reused(models: Path, changes: dict[str, Any]) -> None:
    own = load_pipeline(make_cell(models))
    alone = Sampler(own, make_cell(models, **changes), PROMPTS).sample(0)
    shared = SharedEvaluations([own.unet], room_on("cpu"))
    Sampler(own, make_cell(models), PROMPTS, shared=shared).sample(0)
    after = Sampler(own, make_cell(models, **changes), PROMPTS, shared=shared).sample(0)
    assert shared.used == 0
    assert np.array_equal(alone.images, after.images)


def test_a_batch_of_other_prompts_reuses_nothing(models: Path) -> None:
    own = load_pipeline(make_cell(models, batch_size=3))
    shared = SharedEvaluations([own.unet], room_on("cpu"))
    Sampler(own, make_cell(models, batch_size=3), PROMPTS, shared=shared).sample(0)
    Sampler(own, make_cell(models, batch_size=3), PROMPTS[::-1], shared=shared).sample(0)
    assert shared.used == 0


def test_timed_evaluations_and_those_beyond_the_limit_are_not_shared(models: Path) -> None:
    own = load_pipeline(make_cell(models))
    shared = SharedEvaluations([own.unet], room_on("cpu"))
    sampler = Sampler(own, make_cell(models), PROMPTS, shared=shared)
    sampler.sample(0)
    sampler.call(range(7))
    assert shared.used == 0
    cramped = SharedEvaluations([own.unet], limit_bytes=100)
    sampler = Sampler(own, make_cell(models), PROMPTS, shared=cramped)
    assert np.array_equal(sampler.sample(0).images, sampler.sample(0).images)
    assert cramped.used == 0
