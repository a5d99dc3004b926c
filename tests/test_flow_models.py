"""Models of flow matching, with the configurations of users, offline, on substitutes under the real hub ids.

Each repository holds what `fetch` takes of it and nothing else.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from conftest import run_offline
from numpy.typing import NDArray
from PIL import Image
from standins import build_hub
from test_flow_checkpoints import VARIANTS, fetched, snapshot

from bench.execute.job import try_schedulers
from bench.generate.sampling import image_generator
from bench.records.record import Record

pytestmark = pytest.mark.slow
SOURCES = {
    "sd35_medium": "stabilityai/stable-diffusion-3.5-medium",
    "sd35_large": "stabilityai/stable-diffusion-3.5-large",
    "sd35_large_turbo": "stabilityai/stable-diffusion-3.5-large-turbo",
    "flux1_dev": "black-forest-labs/FLUX.1-dev",
    "flux1_schnell": "black-forest-labs/FLUX.1-schnell",
    "flux2_klein": "black-forest-labs/FLUX.2-klein-4B",
    "flux2_klein_base": "black-forest-labs/FLUX.2-klein-base-4B",
    "sana": "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers",
    "sana_sprint": "Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers",
    "z_image": "Tongyi-MAI/Z-Image",
    "z_image_turbo": "Tongyi-MAI/Z-Image-Turbo",
    "qwen_image": "Qwen/Qwen-Image",
}
BY_HAND: Mapping[str, Mapping[str, Any]] = {
    "sd35_medium": {"guidance_scale": 4.5},
    "sd35_large": {"guidance_scale": 3.5},
    "sd35_large_turbo": {"guidance_scale": 0.0},
    "flux1_dev": {"guidance_scale": 3.5},
    "flux1_schnell": {"guidance_scale": 0.0, "max_sequence_length": 256},
    "flux2_klein": {"guidance_scale": 1.0},
    "flux2_klein_base": {"guidance_scale": 4.0},
    "sana": {"guidance_scale": 4.5},
    "sana_sprint": {"guidance_scale": 4.5},
    "z_image": {"guidance_scale": 4.0},
    "z_image_turbo": {"guidance_scale": 0.0},
    "qwen_image": {"true_cfg_scale": 4.0, "negative_prompt": " "},
}
"""Arguments of the pipeline's call, as the models' cards have them."""
EVALUATIONS = {"sd35_medium": 2, "sd35_large": 2, "flux2_klein_base": 2, "sana": 2, "z_image": 2, "qwen_image": 2}
"""Per step, where guidance without a classifier doubles them; FLUX.1 and SANA-Sprint embed their scale."""
COUNT = 3


@pytest.fixture(scope="module")
def hub(flow_hub: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with what is fetched of each repository, and the CLIP model of the scores."""
    place = tmp_path_factory.mktemp("fetched")
    build_hub(place, ["laion/CLIP-ViT-B-32-laion2B-s34B-b79K"])
    for source in SOURCES.values():
        own = snapshot(place, source)
        fetched(flow_hub, source, own)
        (own.parents[1] / "refs").mkdir()
        (own.parents[1] / "refs" / "main").write_text(own.name)
    lightning = snapshot(flow_hub, "lightx2v/Qwen-Image-Lightning").parents[1]
    (place / lightning.name).symlink_to(lightning)
    return place


def small(*more: str, models: Iterable[str] = SOURCES) -> list[str]:
    """The experiment of few-step models; only sizes and numbers of images are overridden, and latency is left out."""
    sizes = [f"models.{name}.{side}=64" for name in models if name != "sd35_medium" for side in ("height", "width")]
    return ["run", "experiment=few_step_flow", *sizes, f"prompts.count={COUNT}", "measure.latency=false", *more]


def medium(*more: str) -> list[str]:
    """Stable Diffusion 3.5 Medium with the solvers that sample it, and its latency."""
    sizes = ["models.sd35_medium.height=64", "models.sd35_medium.width=64"]
    steps = [f"methods.{method}.steps=[4]" for method in ("flow_euler", "flow_heun", "flow_unipc", "flow_lcm")]
    methods = "method=[flow_euler,flow_heun,flow_unipc,flow_lcm]"
    measured = [f"prompts.count={COUNT}", "measure.repeats=1", "measure.warmup=0"]
    return ["run", "experiment=guide", "name=medium", "model=[sd35_medium]", methods, *sizes, *steps, *measured, *more]


@pytest.fixture(scope="module")
def results(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("flow")
    alone = small(
        *("name=without", "model=[qwen_image]", "method=[qwen_lightning_4]", "claim=[]", "scores=[]"),
        *("methods={qwen_lightning_4:{adapter:[],models:[]}}",),
        models=["qwen_image"],
    )
    done = run_offline(hub, directory, small(), medium(), alone)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return directory / "results"


def records(results: Path, name: str = "few_step_flow") -> dict[tuple[str, str, int], Record]:
    """The records of a run by model, method and steps."""
    found = map(Record.from_json, (results / name / "records.jsonl").read_text().splitlines())
    return {(r.cell.base.name, r.cell.method, r.cell.steps): r for r in found}


def kept_images(results: Path, record: Record, name: str = "few_step_flow") -> NDArray[np.uint8]:
    folder = results / name / "cells" / record.key / "images"
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


def by_hand(hub: Path, name: str, prompts: list[str], steps: int, **more: Any) -> tuple[NDArray[np.uint8], int]:
    """Images of a model called as on its card, with one generator per image, and its evaluations per image."""
    source = SOURCES[name]
    lora, scheduler = more.pop("lora", None), more.pop("scheduler", None)
    own = {"scheduler": scheduler} if scheduler else {}
    pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(
        str(snapshot(hub, source)), dtype=torch.bfloat16, variant=VARIANTS.get(source), local_files_only=True, **own
    )
    pipeline.set_progress_bar_config(disable=True)
    if lora:
        pipeline.load_lora_weights(str(snapshot(hub, "lightx2v/Qwen-Image-Lightning")), weight_name=lora)
    rows: list[int] = []
    pipeline.transformer.register_forward_pre_hook(
        lambda _, args, given: rows.append(len(given["hidden_states"] if "hidden_states" in given else args[0])),
        with_kwargs=True,
    )
    generators = [image_generator(0, row) for row in range(len(prompts))]
    images = pipeline(
        prompt=list(prompts),
        num_inference_steps=steps,
        height=64,
        width=64,
        generator=generators,
        output_type="pt",
        **{**BY_HAND[name], **more},
    ).images
    pixels = (images.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return pixels.numpy(), sum(rows) // len(prompts)


def prompts_of(results: Path, name: str = "few_step_flow") -> list[str]:
    return list(json.loads((results / name / "run.json").read_text())["prompts"])


OWN = {
    "sd35_medium": ("flow_euler", 4),
    "sd35_large": ("flow_euler", 8),
    "sd35_large_turbo": ("flow_few", 4),
    "flux1_dev": ("flow_euler", 8),
    "flux1_schnell": ("flow_few", 4),
    "flux2_klein": ("flow_few", 4),
    "flux2_klein_base": ("flow_euler", 4),
    "sana": ("flow_dpmpp_2m", 20),
    "sana_sprint": ("scm", 2),
    "z_image": ("flow_euler", 4),
    "z_image_turbo": ("flow_few", 8),
    "qwen_image": ("flow_euler", 8),
}
"""A method whose scheduler is the one in the model's repository, and its steps."""


@pytest.mark.rows
@pytest.mark.parametrize("name", OWN)
def test_images_and_evaluations_are_those_of_the_card_s_code(name: str, hub: Path, results: Path) -> None:
    method, steps = OWN[name]
    run = "medium" if name == "sd35_medium" else "few_step_flow"
    record = records(results, run)[name, method, steps]
    images, evaluations = by_hand(hub, name, prompts_of(results, run), steps)
    assert np.array_equal(kept_images(results, record, run), images)
    assert record.calls is not None
    assert record.calls.denoiser_evaluations == evaluations == steps * EVALUATIONS.get(name, 1)


@pytest.mark.rows
@pytest.mark.parametrize("steps", [1, 4])
def test_sprint_s_second_timestep_is_that_of_two_steps_alone(steps: int, hub: Path, results: Path) -> None:
    images, evaluations = by_hand(hub, "sana_sprint", prompts_of(results), steps, intermediate_timesteps=None)
    assert np.array_equal(kept_images(results, records(results)["sana_sprint", "scm", steps]), images)
    assert evaluations == steps


@pytest.mark.rows
@pytest.mark.parametrize("steps", [4, 8])
def test_lightning_is_applied_with_its_scheduler_and_without_guidance(steps: int, hub: Path, results: Path) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        base_shift=math.log(3),
        max_shift=math.log(3),
        max_image_seq_len=8192,
        use_dynamic_shifting=True,
        shift_terminal=None,
    )
    record = records(results)["qwen_image", f"qwen_lightning_{steps}", steps]
    images, evaluations = by_hand(
        *(hub, "qwen_image", prompts_of(results), steps),
        lora=f"Qwen-Image-Lightning-{steps}steps-V1.0.safetensors",
        scheduler=scheduler,
        true_cfg_scale=1.0,
    )
    assert np.array_equal(kept_images(results, record), images)
    assert record.calls is not None
    assert record.calls.denoiser_evaluations == evaluations == steps
    assert record.calls.sigmas is not None
    assert record.calls.sigmas[0] == 1
    last = 1 / steps
    assert record.calls.sigmas[-2] == pytest.approx(3 * last / (1 + 2 * last)), "shift 3, no terminal level"


@pytest.mark.rows
def test_without_the_lora_the_images_are_others(results: Path) -> None:
    (without,) = records(results, "without").values()
    record = records(results)["qwen_image", "qwen_lightning_4", 4]
    assert not without.cell.adapters
    pairs = kept_images(results, record).astype(int) - kept_images(results, without, "without")
    assert (np.abs(pairs).max(axis=(1, 2, 3)) > 2).all()


@pytest.mark.rows
def test_a_plan_s_evaluations_are_those_that_were_counted(results: Path) -> None:
    for name in ("few_step_flow", "medium"):
        for record in records(results, name).values():
            (planned,) = try_schedulers((record.cell,)).values()
            assert record.calls is not None
            assert planned == record.calls.denoiser_evaluations, record.cell.label


@pytest.mark.rows
def test_each_cell_has_a_record_scores_and_its_place_in_the_report(results: Path) -> None:
    found = records(results)
    assert {model for model, _, _ in found} == {*SOURCES} - {"sd35_medium"}
    assert len(found) == 30
    assert all(record.status == "ok" for record in found.values())
    scores = (results / "few_step_flow" / "scores.csv").read_text()
    assert scores.count(",clip_score_vit-b-32_n3,") == 30
    page = (results / "few_step_flow" / "report.html").read_text()
    for said in ("SANA-Sprint at 1, 2 and 4 steps is not worse than SANA at 20", "sd35_large_turbo flow_few 4 steps"):
        assert said in page


@pytest.mark.rows
def test_claims_compare_cells_of_two_models(results: Path) -> None:
    told = json.loads((results / "few_step_flow" / "run.json").read_text())
    assert len(told["claims"]) == 14
    claims = {claim["name"]: claim for claim in told["claims"]}
    assert claims["flow_schnell"]["subject"]["model"] == "flux1_schnell"
    assert "model" not in claims["flow_lightning_4"]["subject"], "one model's claim is written as before"
    lines = (results / "few_step_flow" / "tables" / "verdicts.csv").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("FLUX.1 [schnell] at 4 steps is not worse")]
    assert "flux1_schnell flow_few 4 steps" in line
    assert "flux1_dev flow_teacher 50 steps guidance 3.5" in line


@pytest.mark.rows
def test_stable_diffusion_medium_is_sampled_by_every_solver(results: Path) -> None:
    found = records(results, "medium")
    assert {method: record.calls.denoiser_evaluations for (_, method, _), record in found.items() if record.calls} == {
        **{"flow_euler": 8, "flow_unipc": 8, "flow_lcm": 8},
        "flow_heun": 14,
    }
    for record in found.values():
        assert record.latency is not None
        assert record.latency.text_encoder_s[0] > 0
