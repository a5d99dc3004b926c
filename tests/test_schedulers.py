"""Schedulers are created from explicit settings only, and those of diffusers behave as tcd-bench requires."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.generate.schedulers import make_scheduler, plain_config, resolved_schedule, scheduler_class_of
from bench.records.cell import SchedulerSpec
from bench.records.errors import BenchError
from bench.records.noise_schedule import schedule_of

CONF = Path(__file__).parents[1] / "conf"
METHODS = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted((CONF / "method").glob("*.yaml"))
    if not path.stem.startswith(("flow_", "qwen_", "scm"))  # of flow matching, see test_flow_pipelines.py
}
TEACHER = CONF.parent / "bench" / "mini" / "weights" / "teacher" / "scheduler" / "scheduler_config.json"
NOISE_SCHEDULE = schedule_of(json.loads(TEACHER.read_text()), "the miniature")


def method_scheduler(method: str) -> Any:
    """A fresh scheduler of a method's file, on the noise schedule of the miniature."""
    settings = dict(METHODS[method]["scheduler"])
    return make_scheduler(SchedulerSpec(settings.pop("_target_"), {**NOISE_SCHEDULE, **settings}))


def schedule(scheduler: Any, steps: int) -> dict[str, Any]:
    scheduler.set_timesteps(steps)
    return resolved_schedule(scheduler)


def test_every_setting_reaches_the_scheduler() -> None:
    settings = {"beta_start": 0.001, "beta_schedule": "linear", "original_inference_steps": 100}
    config = make_scheduler(SchedulerSpec("diffusers.TCDScheduler", settings)).config
    assert {name: config[name] for name in settings} == settings


def test_schedulers_are_fresh_and_keep_nothing_of_one_another() -> None:
    spec = SchedulerSpec("diffusers.TCDScheduler")
    used, fresh = make_scheduler(spec), make_scheduler(spec)
    used.set_timesteps(4)
    assert len(fresh.timesteps) == 1000


@pytest.mark.parametrize(
    "target",
    ["diffusers.TDCScheduler", "no_such_package.TCDScheduler", "TCDScheduler", "diffusers.", "diffusers.TCDScheduler."],
)
def test_a_class_that_does_not_exist_is_refused(target: str) -> None:
    message = f"^scheduler '{target}' cannot be imported .*; give the dotted path of a class"
    with pytest.raises(BenchError, match=message):
        make_scheduler(SchedulerSpec(target))


@pytest.mark.parametrize("target", ["torch.nn.Linear", "diffusers.ConfigMixin", "math.sqrt", "math.pi"])
def test_a_class_that_is_not_a_scheduler_is_refused(target: str) -> None:
    with pytest.raises(BenchError, match=f"^{target} is not a scheduler: it needs the methods set_timesteps and step$"):
        scheduler_class_of(target)


def test_a_setting_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(
        BenchError,
        match=r"scheduler.orignal_inference_steps was given, but .* did you mean scheduler.original_inference_steps\?",
    ) as caught:
        make_scheduler(SchedulerSpec("diffusers.TCDScheduler", {"orignal_inference_steps": 50}))
    assert "original_inference_steps" in str(caught.value)
    assert "self" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "settings"),
    [
        ("diffusers.TCDScheduler", {"beta_schedule": "quadratic"}),
        ("diffusers.TCDScheduler", {"beta_start": "small"}),
        ("diffusers.TCDScheduler", {"beta_start": math.inf}),
        ("diffusers.TCDScheduler", {"trained_betas": []}),
        ("diffusers.TCDScheduler", {"original_inference_steps": None}),
        ("diffusers.TCDScheduler", {"num_train_timesteps": True}),
        ("diffusers.TCDScheduler", {"prediction_type": "noise"}),
        ("diffusers.DPMSolverSinglestepScheduler", {"algorithm_type": "dpmsolver+++"}),
        ("diffusers.DPMSolverSinglestepScheduler", {"solver_order": -1}),
        ("diffusers.DPMSolverSinglestepScheduler", {"lower_order_final": "no"}),
    ],
)
def test_a_value_that_a_scheduler_refuses_is_named_as_such(target: str, settings: dict[str, object]) -> None:
    with pytest.raises(BenchError, match=rf"^scheduler(: {target} refuses its settings|\.{next(iter(settings))}=)"):
        make_scheduler(SchedulerSpec(target, settings))


def test_a_default_is_allowed_whatever_its_declared_type() -> None:
    make_scheduler(SchedulerSpec("diffusers.DPMSolverMultistepScheduler", {"lambda_min_clipped": -math.inf}))
    make_scheduler(SchedulerSpec("diffusers.TCDScheduler", {"trained_betas": [0.1, 0.2]}))


@pytest.mark.parametrize(
    ("steps", "timesteps"),
    [(2, (999, 499)), (4, (999, 759, 499, 259)), (8, (999, 879, 759, 639, 499, 379, 259, 139))],
)
def test_tcd_takes_the_timesteps_that_it_was_distilled_on(steps: int, timesteps: tuple[int, ...]) -> None:
    resolved = schedule(method_scheduler("tcd"), steps)
    assert resolved == {"timesteps": timesteps, "sigmas": None, "orders": None}
    assert all(isinstance(timestep, float) for timestep in resolved["timesteps"])


def test_tcd_refuses_more_steps_than_its_grid_has() -> None:
    scheduler = method_scheduler("tcd")
    assert len(schedule(scheduler, METHODS["tcd"]["max_steps"])["timesteps"]) == 50
    with pytest.raises(ValueError, match="50"):
        scheduler.set_timesteps(51)


@pytest.mark.parametrize(
    ("method", "steps", "orders"),
    [
        ("dpmpp_2s", 2, (1, 2)),
        ("dpmpp_2s", 4, (1, 2, 1, 2)),
        ("dpmpp_2s", 8, (1, 2, 1, 2, 1, 2, 1, 2)),
        ("dpmpp_2s_diffusers", 2, (1, 1)),
        ("dpmpp_2s_diffusers", 4, (1, 2, 1, 1)),
        ("dpmpp_2s_diffusers", 8, (1, 2, 1, 2, 1, 2, 1, 1)),
    ],
)
def test_the_singlestep_solver_runs_the_orders_of_its_variant(method: str, steps: int, orders: tuple[int, ...]) -> None:
    assert schedule(method_scheduler(method), steps)["orders"] == orders


def test_only_diffusers_variant_of_the_singlestep_solver_ends_at_sigma_zero() -> None:
    ends = {method: schedule(method_scheduler(method), 4)["sigmas"][-1] for method in METHODS if "2s" in method}
    assert ends["dpmpp_2s"] > 0.02
    assert ends["dpmpp_2s_diffusers"] == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_as_many_timesteps_as_steps(method: str) -> None:
    for steps in METHODS[method]["steps"]:
        timesteps = schedule(method_scheduler(method), steps)["timesteps"]
        assert len(timesteps) == steps
        assert list(timesteps) == sorted(set(timesteps), reverse=True)


@pytest.mark.parametrize("method", METHODS)
def test_the_resolved_configuration_is_whole_plain_and_of_the_file(method: str) -> None:
    config = plain_config(method_scheduler(method))
    settings = {name: value for name, value in METHODS[method]["scheduler"].items() if name != "_target_"}
    assert config.items() >= {**NOISE_SCHEDULE, **settings}.items()
    assert len(config) > len(NOISE_SCHEDULE) + len(settings), "defaults are resolved, too"
    assert not any(name.startswith("_") for name in config)
    assert json.loads(json.dumps(config)) == config
