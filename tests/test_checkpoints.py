"""Checkpoints are inspected before anything is loaded: missing, truncated and wrong files are named together."""

import inspect as python_inspect
import json
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import asdict
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bench.__main__ import main
from bench.checkpoints.facts import ARCHITECTURES, GUIDANCE
from bench.checkpoints.files import wanted_files
from bench.checkpoints.headers import read_header
from bench.checkpoints.inspect import inspect
from bench.checkpoints.required import Required, required
from bench.checkpoints.survey import Settled, settle_models, survey_checkpoints
from bench.experiment.compose import compose_settings
from bench.experiment.config import Experiment, check_experiment
from bench.records.errors import BenchError
from bench.records.noise_schedule import DEFAULTS, FLOW_SOLVERS, NEUTRAL, schedule_of

Overrides = Callable[..., list[str]]
LORA = "pytorch_lora_weights.safetensors"


def experiment_on(own: Path, *more: str) -> Experiment:
    """Return the small experiment on that directory; only the model's source is set."""
    return check_experiment(
        compose_settings(
            [
                *("experiment=smoke", "claim=[]", "methods.tcd.steps=[2]", "method=[tcd,dpmpp_2s]"),
                f"models.mini.source={own}/teacher",
                f"models.mini.adapters.tcd.source={own}/tcd-lora",
                f"extractors.mini.source={own}/evaluator",
                *more,
            ]
        )
    )


def settle(own: Path, *more: str) -> Settled:
    """Return that experiment with what its checkpoints state."""
    experiment = experiment_on(own, *more)
    return settle_models(experiment, survey_checkpoints(experiment))


def faults_of(experiment: Experiment) -> str:
    with pytest.raises(BenchError) as refusal:
        survey_checkpoints(experiment).check()
    return str(refusal.value)


# Headers


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    path.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "one byte short": content[:-1],
            "one byte long": content + b"x",
            "cut in its header": content[: 8 + length // 2],
            "cut in its length": content[:5],
            "empty": b"",
            "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n",
            "page": b"<!DOCTYPE html><html><body>Not found</body></html>",
            "pickle": b"\x80\x02}q\x00." + bytes(64),
            "zeros": bytes(len(content)),
            "no JSON": content[:8] + b"?" * length + content[8 + length :],
            "gap": _with_gap(content),
        }[how]
    )


def _with_gap(content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = next(key for key in header if key != "__metadata__")
    header[name]["shape"] = [n + 1 for n in header[name]["shape"]]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


SPOILT = {
    "cut": "is truncated: it has",
    "one byte short": "is truncated: it has",
    "one byte long": "is too long",
    "cut in its header": "is truncated",
    "cut in its length": "is not a safetensors file",
    "empty": "is empty",
    "pointer": "is a Git LFS pointer",
    "page": "is a web page",
    "pickle": "is not a safetensors file",
    "zeros": "is damaged|truncated|too long|not a safetensors file",
    "no JSON": "header cannot be read",
    "gap": "does not fit its shape",
}


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("which", [f"tcd-lora/{LORA}", "teacher/unet/diffusion_pytorch_model.safetensors"])
def test_a_corrupt_file_is_named_before_anything_is_loaded(own: Path, which: str, how: str) -> None:
    spoil(own / which, how)
    said = faults_of(experiment_on(own))
    assert str(own / which) in said
    assert re.search(SPOILT[how], said), said


def test_a_header_holds_names_and_shapes(tmp_path: Path) -> None:
    save_file({"a": np.zeros((2, 3), np.float16), "b": np.zeros(0)}, tmp_path / "x.safetensors", {"k": "v"})
    header = read_header(tmp_path / "x.safetensors")
    assert header.shapes == {"a": (2, 3), "b": (0,)}
    assert header.metadata == {"k": "v"}


# What is needed


def test_all_missing_files_are_reported_together(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "teacher" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (own / "teacher" / "text_encoder" / "config.json").unlink()
    shutil.rmtree(own / "teacher" / "tokenizer")
    (own / "evaluator" / "open_clip_model.safetensors").unlink()
    spoil(own / "tcd-lora" / LORA, "pointer")
    experiment = experiment_on(own)
    said = faults_of(experiment)
    for part in ("vae", "text_encoder", "tokenizer", "evaluator", LORA):
        assert (
            f"{part} does not hold " in said
            or f"{part}/config.json is missing" in said
            or f"{part} is a Git LFS pointer" in said
        )
    sources = (f"models.mini.source={own}/teacher", f"models.mini.adapters.tcd.source={own}/tcd-lora")
    arguments = ["experiment=smoke", "claim=[]", *sources, f"extractors.mini.source={own}/evaluator", "device=cpu"]
    assert main(["run", *arguments, f"results={own}/run"]) == 2
    run = capsys.readouterr().err
    assert main(["doctor", *arguments]) == 1
    doctor = capsys.readouterr().out
    for sentence in said.split("; "):
        assert sentence in run
        assert sentence in doctor
    assert not (own / "run").exists()


def test_weights_whose_format_differs_from_their_suffix_are_refused(own: Path) -> None:
    unet = own / "teacher" / "unet"
    (unet / "diffusion_pytorch_model.safetensors").rename(unet / "diffusion_pytorch_model.bin")
    assert "unet/diffusion_pytorch_model.bin was not written by torch.save" in faults_of(experiment_on(own))


def test_weights_of_an_evaluator_are_safetensors(own: Path) -> None:
    evaluator = own / "evaluator"
    (evaluator / "open_clip_model.safetensors").rename(evaluator / "open_clip_pytorch_model.bin")
    assert "open_clip_pytorch_model.bin but not open_clip_model.safetensors" in faults_of(experiment_on(own))


def test_a_shard_that_its_index_names_must_be_there(own: Path) -> None:
    unet = own / "teacher" / "unet"
    whole = unet / "diffusion_pytorch_model.safetensors"
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    shutil.copy(whole, unet / names[0])
    whole.unlink()
    index = {"weight_map": dict(zip("ab", names, strict=True))}
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert f"{unet / names[1]} is missing; its index names it" in faults_of(experiment_on(own))


def test_a_variant_is_read_where_it_exists_and_plain_files_otherwise(own: Path) -> None:
    settled = settle(own, "models.mini.variant=fp16")
    assert settled.experiment.models["mini"].variant is None
    assert any("the variant fp16 has no files" in line for line in settled.told)
    for folder in ("unet", "vae", "text_encoder"):
        for file in (own / "teacher" / folder).glob("*.safetensors"):
            file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    assert settle(own, "models.mini.variant=fp16").experiment.models["mini"].variant == "fp16"


def test_the_same_list_serves_naming_the_doctor_and_fetching() -> None:
    experiment = check_experiment(compose_settings(["experiment=few_step_adapters"]))
    entries = required(experiment)
    assert len({entry.setting for entry in entries}) == len(entries)
    names = {entry.file for entry in entries if entry.source == "ByteDance/SDXL-Lightning"}
    assert names == {f"sdxl_lightning_{steps}step_lora.safetensors" for steps in (2, 4, 8)}


PIPELINE = [
    *("model_index.json", "README.md", "sd_xl_base_1.0.safetensors", "evil.py", "unet/config.json", "unet/evil.py"),
    *("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"),
    *("unet/diffusion_pytorch_model.bin", "vae/config.json", "vae/diffusion_pytorch_model.safetensors"),
    *("text_encoder/model.fp16.safetensors", "text_encoder/openvino_model.bin", "tokenizer/merges.txt"),
    *("vae_1_0/config.json", "vae_1_0/diffusion_pytorch_model.fp16.safetensors", "text_encoder/flax_model.msgpack"),
]


def test_fetching_a_pipeline_takes_its_variant_and_no_code() -> None:
    found = wanted_files(Required("m", "m", "pipeline", "o/n", variant="fp16"), PIPELINE)
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in found
    assert "vae/diffusion_pytorch_model.safetensors" in found, "it has no variant"
    assert "tokenizer/merges.txt" in found
    assert not {name for name in found if name.endswith((".py", ".bin", ".msgpack", ".md"))}
    assert "unet/diffusion_pytorch_model.safetensors" not in found
    assert "sd_xl_base_1.0.safetensors" not in found


def test_an_image_adapter_is_its_file_and_encoder_and_safetensors_precede_bin() -> None:
    names = [
        *(
            "models/ip-adapter_sd15.safetensors",
            "sdxl_models/image_encoder/config.json",
            "sdxl_models/other.safetensors",
        ),
        *("sdxl_models/image_encoder/model.safetensors", "sdxl_models/image_encoder/pytorch_model.bin"),
        *("sdxl_models/ip-adapter_sdxl.bin", "sdxl_models/ip-adapter_sdxl.safetensors"),
    ]
    for file in ("ip-adapter_sdxl.bin", "ip-adapter_sdxl.safetensors"):
        entry = Required("m", "m", "image_adapter", "o/n", subfolder="sdxl_models", file=file)
        assert wanted_files(entry, names) == [
            *("sdxl_models/image_encoder/config.json", "sdxl_models/image_encoder/model.safetensors"),
            "sdxl_models/ip-adapter_sdxl.safetensors",
        ]
    names.remove("sdxl_models/ip-adapter_sdxl.safetensors")
    entry = Required("m", "m", "image_adapter", "o/n", subfolder="sdxl_models", file="ip-adapter_sdxl.bin")
    assert "sdxl_models/ip-adapter_sdxl.bin" in wanted_files(entry, names)


# LoRA files


@pytest.mark.parametrize("as_file", [True, False])
def test_a_lora_is_taken_under_any_name(own: Path, as_file: bool) -> None:
    (own / "tcd-lora" / LORA).rename(own / "tcd-lora" / "my_tcd_v3.safetensors")
    source = own / "tcd-lora" / "my_tcd_v3.safetensors" if as_file else own / "tcd-lora"
    settled = settle(own, f"models.mini.adapters.tcd.source={source}")
    assert settled.experiment.models["mini"].adapters["tcd"].file == "my_tcd_v3.safetensors"


def test_several_loras_need_a_name_and_a_wrong_name_is_refused_with_the_choices(own: Path) -> None:
    (own / "tcd-lora" / LORA).rename(own / "tcd-lora" / "a.safetensors")
    shutil.copy(own / "tcd-lora" / "a.safetensors", own / "tcd-lora" / "b.safetensors")
    said = faults_of(experiment_on(own))
    assert "holds 2 (a.safetensors, b.safetensors); name it with models.mini.adapters.tcd.file=" in said
    said = faults_of(experiment_on(own, "models.mini.adapters.tcd.file=c.safetensors"))
    assert "models.mini.adapters.tcd.file=c.safetensors was given, but" in said
    assert "a.safetensors, b.safetensors" in said


@pytest.mark.parametrize("side", ["lora_A", "lora_B"])
def test_a_lora_that_lacks_one_matrix_is_refused_by_its_header(own: Path, side: str) -> None:
    tensors = load_file(own / "tcd-lora" / LORA)
    del tensors[next(name for name in tensors if side in name)]
    save_file(tensors, own / "tcd-lora" / LORA)
    assert "is half a LoRA" in faults_of(experiment_on(own))


def test_a_lora_must_reach_the_layers_that_its_metadata_announces(own: Path) -> None:
    tensors = load_file(own / "tcd-lora" / LORA)
    said = {"unet.target_modules": ["to_q", "to_k"], "unet.r": 2}
    save_file(tensors, own / "tcd-lora" / LORA, {"lora_adapter_metadata": json.dumps(said)})
    survey_checkpoints(experiment_on(own)).check()
    few = {name: value for name, value in tensors.items() if "to_q" not in name}
    save_file(few, own / "tcd-lora" / LORA, {"lora_adapter_metadata": json.dumps(said)})
    assert "lacks layers that it was published for: to_q" in faults_of(experiment_on(own))


def test_a_file_that_is_not_a_lora_is_refused(own: Path) -> None:
    shutil.copy(own / "teacher" / "vae" / "diffusion_pytorch_model.safetensors", own / "tcd-lora" / LORA)
    assert "does not hold a LoRA" in faults_of(experiment_on(own))


# What the checkpoint states


def test_the_defaults_of_every_scheduler_class_are_those_of_diffusers() -> None:
    import diffusers

    seen = set()
    for name in dir(diffusers):
        found = getattr(diffusers, name, None) if "Scheduler" in name else None
        if not python_inspect.isclass(found) or not issubclass(found, diffusers.SchedulerMixin):
            continue
        parameters = python_inspect.signature(found.__init__).parameters
        if not {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type"} <= set(parameters):
            assert name not in DEFAULTS
            continue
        if "snr_shift_scale" in parameters:  # another schedule on top
            assert name not in DEFAULTS
            continue
        assert DEFAULTS[name] == {part: parameters[part].default for part in DEFAULTS[name]}, name
        for part, value in NEUTRAL.items():
            assert part not in parameters or parameters[part].default == value
        assert (name in FLOW_SOLVERS) == ("use_flow_sigmas" in parameters and "Inverse" not in name)
        seen.add(name)
    assert seen == set(DEFAULTS)


def test_the_default_guidance_of_every_pipeline_is_that_of_diffusers() -> None:
    import diffusers

    def guidance_of(name: str) -> Any:
        parameters = python_inspect.signature(getattr(diffusers, name).__call__).parameters
        scales = [parameters[scale].default for scale in ("guidance_scale", "true_cfg_scale") if scale in parameters]
        return next(scale for scale in scales if scale is not None)

    assert {name: guidance_of(name) for name in ARCHITECTURES} == GUIDANCE


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "REMOVED"}))


def test_a_model_needs_only_its_source(own: Path) -> None:
    edit(own / "teacher" / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=True, beta_end=0.0123)
    settled = settle(own)
    model = settled.experiment.models["mini"]
    assert (model.pipeline, model.height, model.width) == ("StableDiffusionPipeline", 64, 64)
    assert model.noise_schedule == {
        **{"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.0123},
        **{"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    }
    assert settled.overridden == {}


def test_settings_omitted_in_a_configuration_have_the_default_of_its_class() -> None:
    assert schedule_of({"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear"}, "x") == {
        **{"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.0001, "beta_end": 0.02},
        "prediction_type": "epsilon",
    }
    assert schedule_of({"_class_name": "TCDScheduler"}, "x")["beta_schedule"] == "scaled_linear"
    with pytest.raises(BenchError, match=r"x has the class EDMEulerScheduler, whose noise schedule is not known"):
        schedule_of({"_class_name": "EDMEulerScheduler"}, "x")


REFUSED = {
    "models.mini.noise_schedule.beta_end=0.02": (
        "mini.noise_schedule.beta_end=0.02 was given, but the checkpoint states beta_end=0.012"
    ),
    "models.mini.noise_schedule.prediction_type=epsilon": "checkpoint states prediction_type='v_prediction'",
    "models.mini.noise_schedule.rescale_betas_zero_snr=true": "checkpoint states rescale_betas_zero_snr=False",
    "models.mini.noise_schedule.timestep_spacing=trailing": (
        "mini.noise_schedule.timestep_spacing is not a part of a noise schedule"
    ),
    "methods.tcd.scheduler.prediction_type=epsilon": (
        "methods.tcd.scheduler.prediction_type='epsilon' was given, but models.mini has"
    ),
    "models.mini.pipeline=StableDiffusionXLPipeline": "checkpoint is Stable Diffusion's",
    "models.mini.pipeline=FluxPipeline": "checkpoint is Stable Diffusion's",
    "models.mini.pipeline=NoPipeline": "choose one of StableDiffusionPipeline",
}


@pytest.mark.parametrize("stated", REFUSED)
def test_a_schedule_or_pipeline_other_than_the_checkpoint_s_is_refused_before_loading(own: Path, stated: str) -> None:
    with pytest.raises(BenchError, match="mini") as refusal:
        settle(own, f"++{stated}")
    assert REFUSED[stated] in str(refusal.value)


def test_a_deliberate_override_is_reported_and_part_of_the_cells(own: Path) -> None:
    stated = ("++models.mini.noise_schedule.beta_end=0.02", "++models.mini.noise_schedule_override=true")
    settled = settle(own, *stated)
    assert settled.experiment.models["mini"].noise_schedule["beta_end"] == 0.02
    assert settled.overridden["mini"]["beta_end"] == 0.012
    assert any("beta_end=0.02 where the checkpoint states 0.012" in line for line in settled.told)


def test_a_correct_statement_is_accepted(own: Path) -> None:
    stated = ("++models.mini.noise_schedule.beta_end=0.012", "++models.mini.noise_schedule.trained_betas=null")
    found, plain = (settle(own, *more).experiment.models["mini"].noise_schedule for more in (stated, ()))
    assert found == plain


def test_a_checkpoint_of_another_kind_is_refused(own: Path) -> None:
    edit(own / "teacher" / "model_index.json", _class_name="FluxPipeline")
    assert "was made for FluxPipeline and holds no transformer" in faults_of(experiment_on(own))
    edit(own / "teacher" / "model_index.json", _class_name="WanPipeline")
    assert "was made for WanPipeline; choose a model of Stable Diffusion, " in faults_of(experiment_on(own))


def test_an_inpainting_model_is_found_by_its_denoiser(own: Path) -> None:
    edit(own / "teacher" / "unet" / "config.json", in_channels=17)
    with pytest.raises(BenchError, match="made for inpainting; choose task=inpainting"):
        settle(own)
    settled = settle(own, "task=inpainting", "scores=[clip_score]")
    assert settled.experiment.models["mini"].pipeline == "StableDiffusionInpaintPipeline"


# Guidance


def test_a_teacher_takes_its_model_s_guidance_scale(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "experiment=smoke", "claim=[]", "model=[mini,sdxl,sd15]", "scores=[]", "device=cpu"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines() if " dpmpp_2s 2 steps" in line]
    assert {line[1]: line[7] for line in shown} == {"mini": "3", "sdxl": "7", "sd15": "7.5"}


def test_a_model_of_unknown_guidance_takes_its_pipeline_s_default_and_reports_it(own: Path) -> None:
    settled = settle(own, "models.mini.guidance_scale=null")
    assert settled.experiment.models["mini"].guidance_scale == 7.5
    assert "use 7.5, the default of StableDiffusionPipeline" in "".join(settled.told)
    assert settle(own, "models.mini.guidance_scale=null", "methods.dpmpp_2s.guidance_scale=2").told == ()


# Sources


def test_home_is_expanded_wherever_a_path_is_taken(monkeypatch: pytest.MonkeyPatch, own: Path) -> None:
    monkeypatch.setenv("HOME", str(own))
    paths = {
        *("models.mini.source", "models.mini.adapters.tcd.source", "extractors.mini.source", "reference.source"),
        *(
            "results",
            "prompts.source",
            "preference_models.aesthetic_score",
            "task.inputs",
            "models.mini.parts.controlnet.source",
        ),
    }
    settings = compose_settings(["experiment=smoke", "claim=[]", "task=canny", *(f"++{path}='~/x'" for path in paths)])
    found = asdict(check_experiment(settings))
    assert {path: reduce(getitem, path.split("."), found) for path in paths} == dict.fromkeys(paths, f"{own}/x")


def test_a_missing_path_is_not_taken_for_a_hub_id(own: Path) -> None:
    said = faults_of(experiment_on(own, f"models.mini.source={own}/nowhere"))
    assert said == f"models.mini.source={own}/nowhere does not exist; give a directory or file of weights, or a hub id"


def test_a_plan_is_made_without_weights_and_a_run_is_not(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    few = ["experiment=guide_sdxl_t2i", "model=[sdxl,animagine]", "device=cpu", f"results={tmp_path}/run"]
    assert main(["plan", *few]) == 0
    shown = capsys.readouterr().out
    assert "not fetched yet, so the cells' keys are provisional:" in shown
    assert "stabilityai/stable-diffusion-xl-base-1.0: " in shown
    assert "animagine tcd 4 steps" in shown, "two models that are not there are two models"
    assert main(["run", *few]) == 2
    said = capsys.readouterr().err
    for name in (
        "stabilityai/stable-diffusion-xl-base-1.0",
        "h1t/TCD-SDXL-LoRA",
        "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    ):
        assert name in said


def test_a_depth_estimator_may_be_a_pickle_where_no_other_file_exists(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    assert inspect(Required("task.estimator", "depth", "depth_estimator", str(tmp_path))).size > 0


def test_the_doctor_explains_how_to_get_files_outside_the_hub(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    few = ["experiment=smoke", "claim=[]", "device=cpu", f"results={tmp_path}/run"]
    assert main(["doctor", *few, "extractors.mini.source=inception://", "scores=[fid,image_complexity]"]) == 1
    shown = capsys.readouterr().out
    assert "hf download inception" not in shown
    assert (
        f"curl -fL --create-dirs -o '{tmp_path}/hub/checkpoints/weights-inception-2015-12-05-6726825d.pth' '" in shown
    )
    assert "the link in the README of https://github.com/tinglyfeng/IC9600" in shown
    assert "preference_models.image_complexity=./ck.pth" in shown
    assert "curl" not in shown[shown.index("image_complexity") :]
