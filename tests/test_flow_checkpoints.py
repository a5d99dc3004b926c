"""Checkpoints of transformers and flow matching: which files are read, what they state, what is wrong with them."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from standins import commit_of
from standins_flow import FLOW_REPOSITORIES

from bench.__main__ import main
from bench.checkpoints.facts import Facts
from bench.checkpoints.files import components_of, wanted_files
from bench.checkpoints.inspect import inspect
from bench.checkpoints.lora import lora_faults
from bench.checkpoints.required import Required
from bench.checkpoints.survey import settle_models, survey_checkpoints
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.records.errors import BenchError
from bench.records.noise_schedule import DEFAULTS, FLOW, NEUTRAL, SHIFTED, TRIGFLOW, misfit, schedule_of

PIPELINES = [name for name in FLOW_REPOSITORIES if name != "lightx2v/Qwen-Image-Lightning"]
VARIANTS = {"Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers": "bf16"}
FACTS = {
    "stabilityai/stable-diffusion-3.5-medium": ("StableDiffusion3Pipeline", 16, {"shift": 3.0}),
    "stabilityai/stable-diffusion-3.5-large": ("StableDiffusion3Pipeline", 16, {"shift": 3.0}),
    "stabilityai/stable-diffusion-3.5-large-turbo": ("StableDiffusion3Pipeline", 16, {"shift": 3.0}),
    "black-forest-labs/FLUX.1-schnell": ("FluxPipeline", 16, {"shift": 1.0}),
    "black-forest-labs/FLUX.1-dev": ("FluxPipeline", 16, {**FLOW, "shift": 3.0, "use_dynamic_shifting": True}),
    "black-forest-labs/FLUX.2-klein-4B": (
        "Flux2KleinPipeline",
        16,
        {**FLOW, "shift": 3.0, "use_dynamic_shifting": True},
    ),
    "black-forest-labs/FLUX.2-klein-base-4B": (
        "Flux2KleinPipeline",
        16,
        {**FLOW, "shift": 3.0, "use_dynamic_shifting": True},
    ),
    "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers": ("SanaPipeline", 32, {"shift": 3.0}),
    "Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers": ("SanaSprintPipeline", 32, TRIGFLOW),
    "Tongyi-MAI/Z-Image-Turbo": ("ZImagePipeline", 16, {"shift": 3.0}),
    "Tongyi-MAI/Z-Image": ("ZImagePipeline", 16, {"shift": 6.0}),
    "Qwen/Qwen-Image": (
        "QwenImagePipeline",
        16,
        {
            **FLOW,
            **{"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 0.9, "max_image_seq_len": 8192},
            "shift_terminal": 0.02,
        },
    ),
}
"""Pipeline, what sides are multiples of, and noise schedule beyond what all flow-matching models have."""


def snapshot(hub: Path, repository: str) -> Path:
    return hub / f"models--{repository.replace('/', '--')}" / "snapshots" / commit_of(repository)


def names_in(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def read(directory: Path, variant: str | None = None) -> Facts:
    """Inspect a pipeline's directory; returns its facts."""
    facts = inspect(Required("models.x", "model x", "pipeline", str(directory), variant=variant)).facts
    assert facts is not None
    return facts


def fetched(hub: Path, repository: str, place: Path) -> Path:
    """Return a copy with the files that fetching takes."""
    root = snapshot(hub, repository)
    entry = Required("models.x", "model x", "pipeline", repository, variant=VARIANTS.get(repository))
    parts = components_of(json.loads((root / "model_index.json").read_text()))
    for name in wanted_files(entry, names_in(root), parts):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, place / name)
    return place


@pytest.fixture
def flux(flow_hub: Path, tmp_path: Path) -> Path:
    """A copy of FLUX.1-schnell."""
    return Path(shutil.copytree(snapshot(flow_hub, "black-forest-labs/FLUX.1-schnell"), tmp_path / "flux"))


@pytest.mark.parametrize("repository", PIPELINES)
def test_what_is_fetched_is_whole_and_states_pipeline_size_and_schedule(
    flow_hub: Path, repository: str, tmp_path: Path
) -> None:
    facts = read(fetched(flow_hub, repository, tmp_path / "it"), VARIANTS.get(repository))
    pipeline, multiple, schedule = FACTS[repository]
    assert (facts.pipeline, facts.height, facts.width, facts.multiple) == (pipeline, 1024, 1024, multiple)
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "num_train_timesteps": 1000}
    assert facts.noise_schedule == (schedule if schedule is TRIGFLOW else {**flow, **schedule})
    assert facts.variant == VARIANTS.get(repository)


def test_files_that_a_pipeline_does_not_read_are_not_fetched(flow_hub: Path, tmp_path: Path) -> None:
    for repository in PIPELINES:
        names = names_in(fetched(flow_hub, repository, tmp_path / repository))
        assert not [name for name in names if "/" not in name and name != "model_index.json"]
        assert not [name for name in names if "int4" in name or name.startswith(("text_encoders/", "vae copy/"))]
    sana = names_in(tmp_path / "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers")
    assert [name for name in sana if name.startswith("transformer/")] == [
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.bf16.safetensors",
    ], "neither the shards in float32 nor their index"
    assert "text_encoder/model.safetensors.index.bf16.json" in sana
    klein = names_in(tmp_path / "black-forest-labs/FLUX.2-klein-4B")
    assert "tokenizer/chat_template.jinja" in klein


REMOVED = {
    "transformer/diffusion_pytorch_model-00002-of-00003.safetensors": "is missing; its index names it",
    "transformer/config.json": "transformer/config.json is missing",
    "text_encoder_2/model-00001-of-00002.safetensors": "is missing; its index names it",
    "tokenizer/merges.txt": "tokenizer does not hold a tokenizer",
    "tokenizer_2/tokenizer.json tokenizer_2/spiece.model": "tokenizer_2 does not hold a tokenizer",
    "vae/diffusion_pytorch_model.safetensors": "vae does not hold diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json": "scheduler_config.json is missing",
}


@pytest.mark.parametrize("removed", REMOVED)
def test_each_missing_file_is_named(flux: Path, removed: str) -> None:
    for name in removed.split():
        (flux / name).unlink()
    with pytest.raises(BenchError, match=re.escape(REMOVED[removed])):
        read(flux)


def test_a_missing_chat_template_is_named(flow_hub: Path, tmp_path: Path) -> None:
    klein = fetched(flow_hub, "black-forest-labs/FLUX.2-klein-4B", tmp_path / "klein")
    (klein / "tokenizer" / "chat_template.jinja").unlink()
    with pytest.raises(BenchError, match=r"does not hold chat_template\.jinja, which Flux2KleinPipeline needs"):
        read(klein)


def test_a_single_file_of_a_transformer_is_refused(flux: Path, tmp_path: Path) -> None:
    for name in ("double_blocks.0.img_attn.qkv.weight", "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"):
        save_file({name: np.zeros(4, np.float32)}, tmp_path / "flux1.safetensors")
        with pytest.raises(BenchError, match=r"models\.x\.source=.* is a single file of a transformer"):
            read(tmp_path / "flux1.safetensors")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_scheduler_of_unknown_schedule_is_refused(flux: Path) -> None:
    edit(flux / "scheduler" / "scheduler_config.json", _class_name="HeliosScheduler")
    with pytest.raises(BenchError, match="has the class HeliosScheduler, whose noise schedule is not known"):
        read(flux)


# Settings


def settle(*overrides: str) -> Any:
    """Return the settled experiment of one model and one method."""
    settings = compose_settings(["experiment=smoke", "claim=[]", "scores=[]", "model=[sd15]", *overrides])
    experiment = check_experiment(settings)
    seen = survey_checkpoints(experiment)
    seen.check()
    return settle_models(experiment, seen).experiment


Settle = Callable[..., Any]


@pytest.fixture
def settled(flux: Path) -> Settle:
    """Settle an experiment on FLUX.1-schnell, which needs its source alone."""

    def call(*overrides: str) -> Any:
        own = [f"++models.it.source={flux}", "method=[euler]"]
        return settle("model=[]", *own, *overrides).models["it"]

    return call


def test_a_model_needs_only_its_source(settled: Settle) -> None:
    model = settled()
    assert (model.pipeline, model.height, model.guidance_scale) == ("FluxPipeline", 1024, 3.5)


REFUSED = {
    "models.it.height=72": "models.it.height=72 was given; the model makes images whose sides are multiples of 16",
    "++models.it.noise_schedule.shift=3": "shift=3 was given, but the checkpoint states shift=1.0",
    "++models.it.noise_schedule.prediction_type=epsilon": "checkpoint states prediction_type='flow_prediction'",
    "models.it.pipeline=StableDiffusion3Pipeline": "checkpoint is FLUX.1's (FluxPipeline)",
    "task=inpainting": "FLUX.1 makes images from text alone; choose task=text_to_image",
}


@pytest.mark.parametrize("given", REFUSED)
def test_a_setting_that_contradicts_the_checkpoint_is_refused(settled: Settle, given: str) -> None:
    with pytest.raises(BenchError) as refusal:
        settled(given)
    assert REFUSED[given] in str(refusal.value)


def test_the_defaults_of_flow_schedulers_are_those_of_diffusers() -> None:
    import inspect as python_inspect

    import diffusers

    for name in (*SHIFTED, "FlowMatchHeunDiscreteScheduler", "SCMScheduler"):
        parameters = python_inspect.signature(getattr(diffusers, name).__init__).parameters
        for part, value in {**NEUTRAL, **(TRIGFLOW if name == "SCMScheduler" else FLOW)}.items():
            assert part not in parameters or parameters[part].default == value, (name, part)
        assert name not in DEFAULTS
    assert schedule_of({"_class_name": "SCMScheduler"}, "x") == TRIGFLOW


SCHEDULES = {
    "betas": {"prediction_type": "epsilon"},
    "flow": {"prediction_type": "flow_prediction", "shift": 3.0},
    "dynamic": {"prediction_type": "flow_prediction", "use_dynamic_shifting": True},
    "terminal": {"prediction_type": "flow_prediction", "use_dynamic_shifting": True, "shift_terminal": 0.02},
    "trigflow": TRIGFLOW,
    "unknown": {},
}
FITTING = {
    "diffusers.TCDScheduler": {"betas", "unknown"},
    "diffusers.DDIMScheduler": {"betas", "unknown"},
    "diffusers.FlowMatchEulerDiscreteScheduler": {"flow", "dynamic", "terminal", "unknown"},
    "diffusers.FlowMatchLCMScheduler": {"flow", "dynamic", "terminal", "unknown"},
    "diffusers.FlowMatchHeunDiscreteScheduler": {"flow", "unknown"},
    "diffusers.DPMSolverMultistepScheduler": {"betas", "flow", "dynamic", "unknown"},
    "diffusers.SASolverScheduler": {"betas", "flow", "unknown"},
    "diffusers.SCMScheduler": {"trigflow", "unknown"},
    "my_fork.MyFlowScheduler": {*SCHEDULES},
}


@pytest.mark.parametrize("target", FITTING)
def test_a_scheduler_is_left_out_where_it_cannot_sample_what_the_weights_predict(target: str) -> None:
    fitting = {name for name, schedule in SCHEDULES.items() if misfit({"_target_": target}, schedule) is None}
    assert fitting == FITTING[target]


def test_flow_sigmas_of_a_method_decide_what_it_samples() -> None:
    solver = {"_target_": "diffusers.DPMSolverMultistepScheduler", "use_flow_sigmas": True}
    assert {name for name, schedule in SCHEDULES.items() if misfit(solver, schedule) is None} == {
        *("flow", "dynamic", "unknown")
    }
    euler = {"_target_": "diffusers.FlowMatchHeunDiscreteScheduler", "use_dynamic_shifting": False}
    assert misfit(euler, SCHEDULES["dynamic"]) is None, "the method states that it does without"


def test_a_plan_leaves_out_what_does_not_fit(flux: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    own = [f"++models.it.source={flux}", "scores=[]", "claim=[]", f"results={tmp_path}/run", "device=cpu"]
    assert main(["plan", "experiment=smoke", "model=[]", *own, "method=[tcd,ddim]"]) == 2
    said = capsys.readouterr().err
    assert "no cell is left to run (it tcd: it has no adapter named tcd; it ddim: its weights were trained by " in said
    assert "flow matching, and DDIMScheduler samples those trained on a schedule of betas)" in said


# LoRA files


@pytest.fixture
def lightning(flow_hub: Path, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    name = "Qwen-Image-Lightning-4steps-V1.0.safetensors"
    path = snapshot(flow_hub, "lightx2v/Qwen-Image-Lightning") / name
    as_float = {key: np.asarray(value, np.float32) for key, value in load_bf16(path).items()}
    return tmp_path / "x.safetensors", as_float


def load_bf16(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file as load

    return {key: value.float().numpy() for key, value in load(path).items()}


PREFIXES = ("", "transformer.", "diffusion_model.", "lora_unet_")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_transformer_s_lora_is_read_under_every_prefix(lightning: tuple[Path, dict[str, Any]], prefix: str) -> None:
    path, tensors = lightning
    save_file({f"{prefix}{key}": value for key, value in tensors.items()}, path)
    assert lora_faults(path) == []
    few = dict(list(load_file(path).items()))
    del few[next(key for key in few if "lora_up" in key)]
    save_file(few, path)
    assert "is half a LoRA" in lora_faults(path)[0]
    save_file({f"{prefix}{key}": value for key, value in tensors.items()}, path, {"ss_network_alpha": "4"})
    assert "ss_network_alpha is 4, its layers have alpha 2" in lora_faults(path)[0]


def test_a_plan_is_made_without_weights(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    own = ["experiment=few_step_flow", "device=cpu", f"results={tmp_path}/run"]
    assert main(["plan", *own]) == 0
    shown = capsys.readouterr().out
    assert "not fetched yet, so the cells' keys are provisional:" in shown
    rows = [line.split() for line in shown.splitlines() if " steps" in line and line.strip()[:1].isdigit()]
    assert len(rows) == 30
    evaluations = {(row[1], row[2], row[3]): row[-2] for row in rows}
    assert evaluations["sd35_large", "flow_teacher", "50"] == "100"
    assert evaluations["flux1_dev", "flow_teacher", "50"] == "50"
    assert evaluations["qwen_image", "qwen_lightning_4", "4"] == "4"
    assert evaluations["sana_sprint", "scm", "1"] == "1"
    assert main(["doctor", *own]) == 1
    assert "accept its conditions on the model's page, then log in with `hf auth login`" in capsys.readouterr().out


def test_a_method_samples_the_models_that_it_names(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    own = [
        "experiment=smoke",
        "scores=[]",
        "claim=[]",
        "device=cpu",
        f"results={tmp_path}/run",
        "model=[mini,mini_bf16]",
    ]
    assert main(["plan", *own, "method=[dpmpp_2m,ddim]", "methods.ddim.models=[mini]"]) == 0
    shown = capsys.readouterr().out
    assert "mini_bf16 dpmpp_2m" in shown
    assert "mini ddim" in shown
    assert "mini_bf16 ddim" not in shown
    assert main(["plan", *own, "method=[dpmpp_2m,ddim]", "methods.ddim.models=[sdxl]"]) == 0
    assert "ddim: it samples sdxl, of which the run has none" in capsys.readouterr().out


def test_models_are_pinned_to_a_commit_of_the_right_repository() -> None:
    """One that inherits another's settings must not inherit its commit."""
    models = check_experiment(compose_settings(["experiment=few_step_flow"])).models.values()
    entries = [entry for model in models for entry in (model, *model.adapters.values())]
    pins = {(entry.source, entry.revision) for entry in entries}
    unpinned = "Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers"
    assert (unpinned, None) in pins
    pinned = pins - {(unpinned, None)}
    assert all(re.fullmatch("[0-9a-f]{40}", str(commit)) for _, commit in pinned)
    assert len({source for source, _ in pinned}) == len({commit for _, commit in pinned}) == len(pinned) == 11
