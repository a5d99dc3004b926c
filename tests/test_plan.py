"""A plan holds each cell of the grid once, grouped by pipeline, and reports what it leaves out."""

from dataclasses import replace
from typing import Any

import pytest

from bench.experiment.config import Experiment, check_experiment
from bench.experiment.plan import LeftOut, Plan, Surroundings, plan_experiment
from bench.records.cell import Adapter, Base, Cell, PromptSet, SchedulerSpec, Task

SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085}
SURROUNDINGS = Surroundings(
    device="cpu",
    versions={"torch": "2.11"},
    weights={
        **{"models.mini": "w1", "models.one": "w1", "models.two": "w2"},
        **{
            f"models.{name}.adapters.{adapter}": f"a-{adapter}"
            for name in ("mini", "one", "two")
            for adapter in ("tcd", "lcm")
        },
    },
    prompts=PromptSet("world", 10, "t"),
)
TCD: dict[str, Any] = {
    "label": "TCD",
    "scheduler": {"_target_": "diffusers.TCDScheduler", "original_inference_steps": 50},
    "steps": [2, 4],
    "eta": [0.0, 0.3, 1.0],
    "guidance_scale": [0.0],
    "adapter": "tcd",
    "max_steps": 50,
}
LCM: dict[str, Any] = {
    **TCD,
    "label": "LCM",
    "scheduler": {"_target_": "diffusers.LCMScheduler"},
    "eta": [],
    "adapter": "lcm",
}
DPMPP: dict[str, Any] = {
    "label": "DPM-Solver++(2S)",
    "scheduler": {"_target_": "diffusers.DPMSolverSinglestepScheduler"},
    "steps": [2, 8],
    "guidance_scale": [1.0, 3.0],
}


def make_model(source: str = "teacher", *adapters: str) -> dict[str, Any]:
    """A base model with the adapters that fit it."""
    choices = {name: {"source": f"{name}-lora", "scale": 0.5} for name in adapters}
    return {
        **{"source": source, "height": 64, "width": 48, "noise_schedule": SCHEDULE, "adapters": choices},
        "pipeline": "StableDiffusionPipeline",
    }


def make_experiment(methods: dict[str, Any], models: dict[str, Any] | None = None, **more: object) -> Experiment:
    """An experiment on one model with both adapters, unless others are given."""
    models = models or {"mini": make_model("teacher", "tcd", "lcm")}
    return check_experiment({"name": "x", "results": "r", "models": models, "methods": methods, **more})


def plan(methods: dict[str, Any], models: dict[str, Any] | None = None, **more: object) -> Plan:
    """Its plan."""
    return plan_experiment(make_experiment(methods, models, **more), SURROUNDINGS)


def axes_of(found: Plan) -> list[tuple[str, int, float | None, float]]:
    """Return what varies, cell by cell."""
    return [(cell.method, cell.steps, cell.eta, cell.guidance_scale) for cell in found.cells]


def test_each_method_has_the_grid_of_its_own_axes() -> None:
    found = plan({"tcd": TCD, "dpmpp_2s": DPMPP})
    assert axes_of(found) == [
        *(("tcd", steps, eta, 0.0) for steps in (2, 4) for eta in (0.0, 0.3, 1.0)),
        *(("dpmpp_2s", steps, None, guidance) for steps in (2, 8) for guidance in (1.0, 3.0)),
    ]
    assert found.left_out == ()


def test_a_cell_holds_everything_that_can_change_its_images() -> None:
    found = plan({"tcd": {**TCD, "steps": 4, "eta": 0.3}}, seed=7, batch_size=5)
    assert found.cells == (
        Cell(
            base=Base("mini", "teacher", "w1", "StableDiffusionPipeline", "float32", 64, 48, SCHEDULE),
            task=Task(),
            method="tcd",
            scheduler=SchedulerSpec("diffusers.TCDScheduler", {**SCHEDULE, "original_inference_steps": 50}),
            adapters=(Adapter("tcd", "tcd-lora", "", "a-tcd", 0.5),),
            fused=True,
            steps=4,
            eta=0.3,
            guidance_scale=0.0,
            prompts=SURROUNDINGS.prompts,
            seed=7,
            batch_size=5,
            device="cpu",
            versions={"torch": "2.11"},
        ),
    )


def test_a_scheduler_may_set_the_noise_schedule_otherwise_than_the_model() -> None:
    scheduler = {"_target_": "diffusers.TCDScheduler", "beta_start": 0.1}
    found = plan({"tcd": {**TCD, "scheduler": scheduler}})
    assert found.cells[0].scheduler.settings == {"num_train_timesteps": 1000, "beta_start": 0.1}


def test_a_method_without_an_adapter_has_nothing_to_fuse() -> None:
    (cell, *_) = plan({"dpmpp_2s": {**DPMPP, "fused": True}}).cells
    assert (cell.adapters, cell.fused) == ((), False)


def test_a_loaded_pipeline_is_used_up_before_the_next_is_loaded() -> None:
    models = {"one": make_model("teacher", "tcd", "lcm"), "two": make_model("other", "tcd")}
    found = plan(
        {"dpmpp_2s": DPMPP, "tcd": TCD, "dpmpp_again": {**DPMPP, "steps": 4, "label": "again"}, "lcm": LCM}, models
    )
    loaded = [cell.pipeline_key for cell in found.cells]
    loads = [key for key, before in zip(loaded, [None, *loaded], strict=False) if key != before]
    assert len(loads) == len(set(loads)) == 5
    assert [method for method, *_ in axes_of(found)][:6] == ["dpmpp_2s"] * 4 + ["dpmpp_again"] * 2


def test_within_a_pipeline_the_order_of_the_configuration_is_kept() -> None:
    found = plan({"tcd": {**TCD, "steps": [8, 2, 4], "eta": [1.0, 0.0]}})
    assert [(cell.steps, cell.eta) for cell in found.cells] == [(s, e) for s in (8, 2, 4) for e in (1.0, 0.0)]


def test_a_cell_that_occurs_twice_is_planned_once() -> None:
    found = plan({"tcd": {**TCD, "steps": [4, 2], "eta": 0.3}, "same": {**TCD, "steps": 4, "eta": 0.3, "label": "2"}})
    assert axes_of(found) == [("tcd", 4, 0.3, 0.0), ("tcd", 2, 0.3, 0.0)]
    assert len({cell.key for cell in found.cells}) == 2


def test_more_steps_than_the_adapter_was_distilled_on_are_left_out_with_their_reason() -> None:
    found = plan({"tcd": {**TCD, "steps": [17, 50, 51, 60], "eta": 0.3}})
    assert [cell.steps for cell in found.cells] == [17, 50]
    assert [entry.label for entry in found.left_out] == ["mini tcd 51 steps eta 0.3", "mini tcd 60 steps eta 0.3"]
    assert found.left_out[1].reason == (
        "60 steps do not fit the 50-step grid that the adapter was distilled on; give at most 50"
    )


@pytest.mark.parametrize("steps", [17, 60, 1000])
def test_a_method_without_a_grid_takes_any_number_of_steps(steps: int) -> None:
    found = plan({"dpmpp_2s": {**DPMPP, "steps": steps, "guidance_scale": 3}})
    assert [cell.steps for cell in found.cells] == [steps]
    assert found.left_out == ()


def test_a_method_whose_adapter_a_model_lacks_is_left_out_for_that_model_only() -> None:
    models = {"one": make_model("teacher", "tcd"), "two": make_model("other", "lcm")}
    found = plan({"tcd": TCD, "dpmpp_2s": DPMPP}, models)
    assert found.left_out == (LeftOut("two tcd", "two has no adapter named tcd"),)
    assert {(cell.base.name, cell.method) for cell in found.cells} == {
        ("one", "tcd"),
        ("one", "dpmpp_2s"),
        ("two", "dpmpp_2s"),
    }


def test_every_combination_is_planned_or_left_out() -> None:
    found = plan({"tcd": {**TCD, "steps": [2, 60, 70]}, "dpmpp_2s": DPMPP})
    assert len(found.cells) + len(found.left_out) == 3 * 3 + 2 * 2


def test_cells_are_identified_by_the_content_of_weights_and_not_by_their_path() -> None:
    retrained = replace(SURROUNDINGS, weights={**SURROUNDINGS.weights, "models.mini": "w9"})
    methods = {"dpmpp_2s": DPMPP}
    before = [cell.key for cell in plan(methods).cells]
    there = plan_experiment(make_experiment(methods, {"mini": make_model("elsewhere")}), SURROUNDINGS)
    assert [cell.key for cell in there.cells] == before
    again = plan_experiment(make_experiment(methods), retrained)
    assert not set(before) & {cell.key for cell in again.cells}
