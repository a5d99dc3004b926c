"""The flow models of the package: small, safe to load, and as good as their card says."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors import safe_open

from bench.__main__ import main
from bench.checkpoints.sources import local_path
from bench.mini import world
from bench.mini.flow_tcd import FlowTCDScheduler
from bench.store.store import Store

WEIGHTS = Path(str(local_path("bench://mini/weights")))
FOLDERS = [WEIGHTS / "flow-teacher", WEIGHTS / "flow-tcd-lora"]
pytestmark = pytest.mark.skipif(
    not all(folder.exists() for folder in FOLDERS), reason="the flow models are not in the package yet"
)


@pytest.fixture
def pipeline() -> StableDiffusion3Pipeline:
    loaded = StableDiffusion3Pipeline.from_pretrained(
        str(local_path("bench://mini/weights/flow-teacher")), dtype=torch.float32, text_encoder_3=None, tokenizer_3=None
    )
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_the_weights_are_safetensors_of_at_most_6_megabytes() -> None:
    files = [path for folder in FOLDERS for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 6e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt"}


def test_every_key_of_the_adapter_finds_its_place_and_changes_the_images(pipeline: StableDiffusion3Pipeline) -> None:
    captions = [world.caption(world.scene(seed)) for seed in world.split_seeds("validation", 2)]
    pipeline.scheduler = FlowTCDScheduler(shift=pipeline.scheduler.config.shift)

    def sample() -> torch.Tensor:
        return pipeline(
            captions,
            num_inference_steps=2,
            guidance_scale=0.0,
            max_sequence_length=0,
            generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)],
            output_type="pt",
        ).images

    before = sample()
    pipeline.load_lora_weights(str(FOLDERS[1]), weight_name="pytorch_lora_weights.safetensors", adapter_name="tcd")
    loaded = {key: value for key, value in pipeline.transformer.named_parameters() if "lora_" in key}
    with safe_open(FOLDERS[1] / "pytorch_lora_weights.safetensors", "pt") as file:
        assert len(loaded) == len(list(file.keys()))
    last = f"transformer_blocks.{pipeline.transformer.config.num_layers - 1}.attn.add_q_proj."
    assert [key for key, value in loaded.items() if not value.any() and not key.startswith(last)] == []
    assert (sample() - before).abs().mean() > 0.01


def test_what_became_of_each_target_is_reported() -> None:
    targets = json.loads((WEIGHTS / "quality.json").read_text(encoding="utf-8"))["flow"]["targets"]
    assert [target["at_least"] for target in targets.values()] == [0.95, 0.9, 0.1, 0.02], (
        "set before the training ended"
    )
    for name, target in targets.items():
        assert target["outcome"] == ("met" if target["is"] >= target["at_least"] else "refuted"), name


def test_the_experiment_runs(tmp_path: Path) -> None:
    small = ["prompts.count=4", "reference.count=16", "batch_size=4", "measure.latency=false"]
    steps = [f"methods.{name}.steps=[2]" for name in ("flow_tcd", "flow_tcd_euler", "flow_tcd_stochastic")]
    steps += [f"methods.{name}.steps=[2]" for name in ("flow_euler", "flow_heun", "flow_dpmpp_2m", "flow_unipc")]
    settings = ["experiment=mini_flow", "claim=[]", "device=cpu", f"results={tmp_path}/run", *small, *steps]
    assert main(["run", *settings, "methods.flow_teacher.steps=[3]", "scores=[attribute_accuracy]"]) == 0
    records = Store(tmp_path / "run", writable=False).good_records()
    assert len(records) == 10
