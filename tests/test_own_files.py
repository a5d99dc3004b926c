"""A user's own model, LoRA, photos, prompts and evaluator, from an empty directory, with a dozen lines of YAML."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from test_single_file import merge

from bench.__main__ import main
from bench.checkpoints.sources import local_path
from bench.mini import world
from bench.store.store import Store

LORA = "my tcd v3.safetensors"
MODEL = f"""\
source: ./model
guidance_scale: 3.0
channels_last: true
adapters: {{tcd: {{source: "./loras/{LORA}"}}}}
"""
EXPERIMENT = """\
defaults: [{override /model: [mine]}]
name: mine
prompts: {source: prompts.txt, count: 4}
reference: {source: ./photos, count: 8}
extractors: {own: {source: ./evaluator}}
scores: [clip_score, kid]
measure: {latency: false, memory: false}
"""
FEW = ["methods.tcd.steps=[2]", "methods.tcd.eta=[0.3]", "methods.dpmpp_2s.steps=[2]", "batch_size=4", "device=cpu"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory with only the two files."""
    for name, text in (("model/mine", MODEL), ("experiment/mine", EXPERIMENT)):
        (tmp_path / "conf" / f"{name}.yaml").parent.mkdir(parents=True)
        (tmp_path / "conf" / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bring_files(home: Path) -> None:
    weights = local_path("bench://mini/weights")
    shutil.copytree(weights / "teacher", home / "model")
    shutil.copytree(weights / "evaluator", home / "evaluator")
    (home / "loras").mkdir()
    shutil.copy(weights / "tcd-lora" / "pytorch_lora_weights.safetensors", home / "loras" / LORA)
    (home / "photos").mkdir()
    scenes = [world.scene(seed) for seed in world.split_seeds("reference", 8)]
    for i, scene in enumerate(scenes):
        content = io.BytesIO()
        Image.fromarray(world.render(scene)).save(content, format="PNG")
        (home / "photos" / f"IMG {i}.png").write_bytes(content.getvalue())
    (home / "prompts.txt").write_text("".join(f"{world.caption(scene)}\n" for scene in scenes))


def images_of(results: Path) -> dict[str, str]:
    return {
        record.cell.method: record.images.sha256 for record in Store(results, writable=False).records() if record.images
    }


def test_own_files_give_the_packaged_model_s_images_after_one_refusal(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len((MODEL + EXPERIMENT).splitlines()) <= 12
    assert main(["run", "experiment=mine", *FEW]) == 2
    said = capsys.readouterr().err
    for missing in ("./model", f"./loras/{LORA}", "./evaluator", "prompts.txt", "photos"):
        assert missing in said, "all that is missing is said at once"
    bring_files(home)
    assert main(["run", "experiment=mine", *FEW]) == 0, capsys.readouterr().err
    packaged = ["model=[mini]", "extractors.mini.source=bench://mini/weights/evaluator", "results=results/packaged"]
    assert main(["run", "experiment=mine", *packaged, *FEW]) == 0, capsys.readouterr().err
    own = images_of(home / "results" / "mine")
    assert len(own) == 2
    assert own == images_of(home / "results" / "packaged")
    configuration = home / "configuration"
    shutil.copytree(home / "model", configuration, ignore=shutil.ignore_patterns("*.safetensors"))
    merge(home / "model", home / "mine.safetensors")
    single = [
        "++models.mine.source=./mine.safetensors",
        "++models.mine.config=./configuration",
        "results=results/single",
    ]
    assert main(["run", "experiment=mine", *single, *FEW]) == 0, capsys.readouterr().err
    assert images_of(home / "results" / "single") == own


def test_weights_sampled_with_another_schedule_are_marked_everywhere(
    overrides: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("method=[tcd]", "claim=[]", "scores=[clip_score]", "methods.tcd.steps=[2]", "measure.latency=false")
    stated = "models.mini.noise_schedule={beta_end: 0.02}"
    assert main(["run", *overrides(*few, stated)]) == 2
    said = capsys.readouterr().err
    assert "models.mini.noise_schedule.beta_end=0.02 was given, but the checkpoint states beta_end=0.012" in said
    assert "models.mini.noise_schedule_override=true" in said
    assert main(["run", *overrides(*few, stated, "models.mini.noise_schedule_override=true")]) == 0
    assert "sampled with beta_end=0.02 where the checkpoint states 0.012" in capsys.readouterr().err
    (record,) = Store(tmp_path / "run", writable=False).records()
    assert record.cell.base.noise_schedule["beta_end"] == 0.02
    assert record.cell.base.checkpoint_schedule["beta_end"] == 0.012
    assert record.cell.scheduler.settings["beta_end"] == 0.02
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Another noise schedule than the checkpoint's:" in page
    assert "beta_end 0.02, trained with 0.012" in page
