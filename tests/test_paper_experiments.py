"""The experiments of the paper and the guide on substitutes of two base models, but for size, counts and some steps.

Half precision is slow on a processor, so that the substitutes run in float32. The paper's whole table takes longer:
scripts/robustness/paper_on_substitutes.py.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from standin_scores import build_coco, build_scores
from standins import build_hub, commit_of

from bench.__main__ import main
from bench.checkpoints.manifest import MANIFEST
from bench.records.run import Run
from bench.store.store import Store

pytestmark = pytest.mark.slow
BASES = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd21": "stabilityai/stable-diffusion-2-1-base",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
LORAS = ["h1t/TCD-SD15-LoRA", "h1t/TCD-SD21-base-LoRA", "h1t/TCD-SDXL-LoRA"] + [
    f"latent-consistency/lcm-lora-{name}" for name in ("sdv1-5", "sdxl")
]
VERDICTS = {"supported", "refuted", "undecided", "not tested"}


def small(models: Sequence[str]) -> list[str]:
    """Return the overrides of size and counts."""
    sizes = [f"models.{name}.{side}=64" for name in models for side in ("height", "width")]
    kept = [f"models.{name}.dtype=float32" for name in models]
    counts = ["prompts.count=2", "reference.count=12", "batch_size=2", "measure.repeats=1", "measure.warmup=0"]
    return [f"model=[{','.join(models)}]", *sizes, *kept, *counts]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return a working directory with COCO and a hub cache, and the overrides for files that no cache holds."""
    directory = tmp_path_factory.mktemp("paper")
    hub = build_hub(directory / "hub", [*BASES.values(), *LORAS, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"])
    build_coco(directory, [f"a red circle and {i} cats" for i in range(12)])
    return directory, build_scores(hub)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Substitutes are too small for several threads, which wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def offline(home: tuple[Path, list[str]], one_thread: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Work in that directory, with that hub cache and the hub offline."""
    import huggingface_hub.constants as hub

    directory, files = home
    monkeypatch.chdir(directory)
    monkeypatch.setenv("TORCH_HOME", str(directory / "hub"))
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(directory / "hub"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setitem(MANIFEST, "inception", dataclasses.replace(MANIFEST["inception"], sha256=None))
    return files


def verdict_rows(run: Run) -> list[dict[str, str]]:
    """Return the table of verdicts of a finished run, in which every claim has some."""
    with Path(f"results/{run.name}/tables/verdicts.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["Claim"] for row in rows} == {claim.text for claim in run.claims}
    assert {row["Verdict"] for row in rows} <= VERDICTS
    for row in rows:
        assert row["Published"] not in ("", "–"), row
        assert row["Comparison"] != "–" or row["Metric"].startswith("needs "), "a verdict has a reason"
    return rows


def test_better_than_teacher_judges_each_base_model_and_all_of_them(
    offline: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    steps = {"tcd": "2,4,8,20", "dpmpp_2s": "2,4,8,20", "lcm": "20", "dpmpp_2s_diffusers": "20"}
    fewer = [f"methods.{name}.steps=[{some}]" for name, some in steps.items()] + ["methods.tcd.eta=[0.0,0.3,1.0]"]
    command = ["run", "experiment=better_than_teacher", *small(["sd21", "sdxl"]), "measure.latency=false", *fewer]
    assert main(command) == 0, capsys.readouterr().err
    store = Store("results/better_than_teacher", writable=False)
    run, records = store.run(), list(store.records())
    assert {record.status for record in records} == {"ok"}
    assert {r.cell.base.weights for r in records} == {commit_of(BASES[name]) for name in ("sd21", "sdxl")}
    assert ("sd21 lcm", "sd21 has no adapter named lcm") in run.left_out
    claims = {claim.name: claim.models for claim in run.claims}
    assert claims["guide_few_steps"] == ()
    assert claims["guide_few_steps_each_sd21"] == ("sd21",)
    rows = verdict_rows(run)
    bases = {row["Subject"].split()[0] for row in rows if row["Claim"].endswith("at 20 steps")}
    assert bases == {"sd21", "sdxl"}
    assert {row["Subject"].split()[0] for row in rows if row["Claim"].endswith("at 20 steps, on sdxl")} == {"sdxl"}
    assert "TCD beats its teacher&#39;s DPM-Solver++(2S) at 20 steps, on sd21" in (
        Path("results/better_than_teacher/report.html").read_text(encoding="utf-8")
    )


def test_plan_shows_claims_sources_and_cost_of_the_paper_s_table(
    offline: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "experiment=paper_coco5k", *small(["sd15", "sdxl"]), *offline]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("paper_coco5k: 88 cells × 2 images")
    assert shown.count("    published: ") == 26
    assert "image complexity 0.5563 against 0.4679; arXiv 2402.19159, abstract and teaser figure" in shown
    assert "LACKS" not in shown
    assert "Denoiser evaluations in all: 2,312" in shown
    assert "cost unknown: no record of this model" in shown
