"""Experiments that cannot run are refused in one sentence: the setting, the given value, the allowed ones."""

import re
from copy import deepcopy
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from bench.analysis.published import load_published
from bench.experiment.compose import compose_settings, run_application
from bench.experiment.config import Experiment, check_experiment
from bench.experiment.value_types import SCORES
from bench.records.errors import BenchError
from bench.records.run import BEST, Claim, Side

CONF = Path(__file__).parents[1] / "conf"
SETTINGS: dict[str, Any] = {
    "name": "mini",
    "results": "results/mini",
    "models": {
        "mini": {
            "source": "bench://teacher",
            "height": 64,
            "width": 64,
            "noise_schedule": {"num_train_timesteps": 1000},
            "adapters": {"tcd": {"source": "bench://tcd-lora"}},
        }
    },
    "methods": {
        "tcd": {
            "label": "TCD",
            "scheduler": {"_target_": "diffusers.TCDScheduler"},
            "steps": [2, 4],
            "eta": [0.0, 0.3],
            "guidance_scale": [0.0],
            "adapter": "tcd",
            "max_steps": 50,
        },
        "dpmpp_2s": {
            "label": "DPM-Solver++(2S)",
            "scheduler": {"_target_": "diffusers.DPMSolverSinglestepScheduler"},
            "steps": [2, 4],
            "guidance_scale": [3.0],
        },
    },
    "claims": {
        "few": {
            "text": "TCD wins",
            "subject": {"method": "tcd", "steps": [2, 4], "eta": 0.3},
            "object": {"method": "dpmpp_2s", "steps": [2, 4]},
            "metrics": ["fid"],
        }
    },
}
REMOVED = object()


def changed(path: str, value: object) -> dict[str, Any]:
    """Return the settings with one of them changed."""
    settings = deepcopy(SETTINGS)
    *parents, last = path.split("/")
    inner = settings
    for parent in parents:
        inner = inner[parent]
    if value is REMOVED:
        del inner[last]
    else:
        inner[last] = value
    return settings


def refusal_of(settings: dict[str, Any]) -> str:
    """Return the sentence of the refusal."""
    with pytest.raises(BenchError) as refusal:
        check_experiment(settings)
    message = str(refusal.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


TCD = "methods/tcd"
SUBJECT = "claims/few/subject"
REFUSED = {
    "eta above one": (f"{TCD}/eta", [0.3, 1.2], ("methods.tcd.eta", "1.2", "less than or equal to 1")),
    "eta below zero": (f"{TCD}/eta", -0.1, ("methods.tcd.eta", "-0.1", "greater than or equal to 0")),
    "eta not a number": (f"{TCD}/eta", float("nan"), ("methods.tcd.eta", "nan", "finite number")),
    "no steps": (f"{TCD}/steps", 0, ("methods.tcd.steps", "0", "greater than or equal to 1")),
    "steps below zero": (f"{TCD}/steps", [4, -1], ("methods.tcd.steps", "-1", "greater than or equal to 1")),
    "too many steps": (f"{TCD}/steps", 1001, ("methods.tcd.steps", "1001", "less than or equal to 1000")),
    "half a step": (f"{TCD}/steps", 4.5, ("methods.tcd.steps", "4.5", "valid integer")),
    "steps in words": (f"{TCD}/steps", "four", ("methods.tcd.steps", "=four", "valid integer")),
    "empty steps": (f"{TCD}/steps", [], ("methods.tcd.steps", "steps=[]", "at least one")),
    "guidance below zero": (f"{TCD}/guidance_scale", -1, ("methods.tcd.guidance_scale", "-1", "equal to 0")),
    "misspelt setting": (
        f"{TCD}/step",
        [4],
        ("methods.tcd.step=[4]", "no such setting", "did you mean methods.tcd.steps?"),
    ),
    "misspelt at the top": ("batchsize", 4, ("batchsize=4", "no such setting", "batch_size")),
    "misspelt in a model": ("models/mini/heigth", 64, ("models.mini.heigth=64", "no such setting")),
    "no class": (f"{TCD}/scheduler", {"eta": 0}, ("methods.tcd.scheduler", "_target_", "diffusers.TCDScheduler")),
    "unknown score": ("scores", ["fid", "is"], ("scores", "=is ", "fid, kid, clip_score")),
    "unknown dtype": ("models/mini/dtype", "int8", ("models.mini.dtype=int8", "'float16' or 'bfloat16'")),
    "name with a slash": ("name", "a/b", ("name=a/b", "should match pattern")),
    "no model": ("models", {}, ("models", "none was chosen", "model=[mini]")),
    "no method": ("methods", {}, ("methods", "none was chosen", "method=[tcd,dpmpp_2s]")),
    "no image": ("prompts", {"count": 0}, ("prompts.count=0", "greater than or equal to 1")),
    "concurrent_batches in words": (
        "concurrent_batches",
        "two",
        ("concurrent_batches=two was given", "auto, or a whole number from 1"),
    ),
    "no concurrent_batches": (
        "concurrent_batches",
        0,
        ("concurrent_batches=0 was given", "auto, or a whole number from 1"),
    ),
    "seed below zero": ("seed", -1, ("seed=-1", "greater than or equal to 0")),
    "unpaired steps": (f"{SUBJECT}/steps", [2, 4, 8], ("claims.few", "3 and 2 step counts", "pairwise")),
    "unknown metric": ("claims/few/metrics", "is", ("claims.few.metrics", "=is ", "fid")),
    "unknown expectation": ("claims/few/expect", "worse", ("claims.few.expect=worse", "'not_worse' or 'equivalent'")),
    "equivalence without a margin": ("claims/few/expect", "equivalent", ("claims.few.margins", "fid", "above 0")),
    "steps where the cost decides": ("claims/few/equal", "evaluations", ("claims.few.object.steps=[2, 4]", "leave")),
    "guidance in words": (
        "claims/few/object/guidance_scale",
        "worst",
        ("claims.few.object.guidance_scale=worst was given", "best, or a number from 0"),
    ),
    "no method of a claim": ("claims/few/object/method", [], ("claims.few.object.method=[]", "at least")),
    "a member twice": ("claims/few/object/method", ["dpmpp_2s", "dpmpp_2s"], ("dpmpp_2s occurs twice",)),
    "an unknown member": (
        "claims/few/object/method",
        ["dpmpp_2s", "unipc"],
        ("claims.few.object.method=unipc: the grid has tcd, dpmpp_2s",),
    ),
    "margin below zero": ("claims/few/margins", {"fid": -1}, ("claims.few.margins.fid=-1", "equal to 0")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_impossible_settings_are_refused_by_name_with_the_allowed_values(what: str) -> None:
    path, value, said = REFUSED[what]
    message = refusal_of(changed(path, value))
    assert [part for part in said if part not in message] == [], message


def test_an_omitted_setting_is_not_reported_as_given() -> None:
    message = refusal_of(changed(f"{TCD}/steps", REMOVED))
    assert message.startswith("methods.tcd.steps")
    assert "was not given" in message
    assert "was given" not in message


@pytest.mark.parametrize("side", ["subject", "object"])
def test_a_claim_about_no_step_count_is_refused(side: str) -> None:
    settings = changed(f"claims/few/{side}/steps", [])
    settings["claims"]["few"]["subject" if side == "object" else "object"]["steps"] = [4]
    assert f"claims.few.{side}.steps" in refusal_of(settings)


def test_a_claim_about_a_score_without_an_interval_is_refused() -> None:
    settings = changed("claims/few/metrics", ["kid", "recall", "coverage@mini"])
    assert "claims.few.metrics=recall and coverage@mini was given, but such a score has no interval" in refusal_of(
        settings
    )


@pytest.mark.parametrize(("ours", "theirs"), [([2, 4], [8, 16]), ([2], [4, 8]), ([4, 8], [2]), ([2], [4])])
def test_step_counts_of_a_claim_go_pairwise_or_one_with_all(ours: list[int], theirs: list[int]) -> None:
    settings = changed(f"{SUBJECT}/steps", ours)
    settings["claims"]["few"]["object"]["steps"] = theirs
    settings["methods"]["tcd"]["steps"] = settings["methods"]["dpmpp_2s"]["steps"] = [2, 4, 8, 16]
    assert check_experiment(settings).claims["few"].subject.steps == ours


@pytest.mark.parametrize("axis", ["steps", "eta", "guidance_scale"])
def test_one_value_stands_for_a_list_of_one(axis: str) -> None:
    experiment = check_experiment({**changed(f"{TCD}/{axis}", 1), "claims": {}})
    assert getattr(experiment.methods["tcd"], axis) == [1]


def test_one_value_stands_for_a_list_of_one_in_a_claim_too() -> None:
    settings = changed(f"{SUBJECT}/steps", 4)
    settings["claims"]["few"]["metrics"] = "kid"
    claim = check_experiment(settings).claims["few"]
    assert (claim.subject.steps, claim.metrics) == ([4], ["kid@mini"])


@pytest.mark.parametrize("steps", [1, 1000])
def test_the_ends_of_allowed_ranges_are_allowed(steps: int) -> None:
    assert check_experiment({**changed(f"{TCD}/steps", steps), "claims": {}}).methods["tcd"].steps == [steps]
    assert check_experiment({**changed(f"{TCD}/eta", [0, 1]), "claims": {}}).methods["tcd"].eta == [0.0, 1.0]


def test_omitted_settings_have_their_default() -> None:
    experiment = check_experiment(SETTINGS)
    assert experiment.scores == [f"{score}@mini" for score in SCORES]
    assert experiment.methods["dpmpp_2s"].eta == []
    assert (experiment.prompts.source, experiment.keep, experiment.device) == ("world", "all", "auto")


def test_a_claim_choice_becomes_a_claim() -> None:
    settings = changed("claims/few/margins", {"fid": 0.5})
    sides = Side("tcd", (2, 4), 0.3), Side("dpmpp_2s", (2, 4))
    expected = Claim("few", "TCD wins", *sides, ("fid@mini",), "better", {"fid@mini": 0.5}, "steps")
    assert check_experiment(settings).claims["few"].to_claim("few") == expected


def test_a_claim_may_be_about_several_methods_at_their_best_guidance() -> None:
    settings = changed("claims/few/object", {"method": ["dpmpp_2s", "tcd"], "steps": [2, 4], "guidance_scale": "best"})
    settings["methods"]["tcd"] |= {"eta": [0.3], "guidance_scale": [0, 1.5, 7]}
    settings["claims"]["few"]["subject"]["guidance_scale"] = 0
    claim = check_experiment(settings).claims["few"].to_claim("few")
    assert claim.object == Side(("dpmpp_2s", "tcd"), (2, 4), None, BEST)
    assert [side.method for side in claim.object.members] == ["dpmpp_2s", "tcd"]
    settings["claims"]["few"]["object"]["guidance_scale"] = 1.5
    message = refusal_of(settings)
    assert "claims.few.object.guidance_scale=1.5: dpmpp_2s has [3.0]" in message
    settings["claims"]["few"]["object"] = {"method": "tcd", "steps": [2, 4]}
    assert "tcd has [0.0, 1.5, 7.0], say which, or best" in refusal_of(settings)


def test_the_best_of_guidance_scales_that_cost_differently_is_not_a_subject_of_equal_cost() -> None:
    settings = changed("claims/few/equal", "evaluations")
    settings["claims"]["few"]["object"] = {"method": "dpmpp_2s", "guidance_scale": "best"}
    assert check_experiment(settings).claims["few"].object.guidance_scale == BEST
    settings["claims"]["few"]["subject"]["guidance_scale"] = "best"
    assert "claims.few.subject.guidance_scale=best was given, but equal=evaluations" in refusal_of(settings)


def test_given_settings_are_not_modified() -> None:
    given = deepcopy(SETTINGS)
    check_experiment(given)
    assert given == SETTINGS


def test_an_experiment_cannot_be_changed() -> None:
    experiment: Experiment = check_experiment(SETTINGS)
    with pytest.raises(FrozenInstanceError):
        experiment.seed = 1


OF_A_TASK = {
    "sdxl_inpainting": "inpainting",
    "sdxl_canny": "canny",
    "sdxl_depth": "depth",
    "sdxl_ip_adapter": "image_prompt",
    "toonyou_animated": "animation",
    "mini_xl_inpainting": "inpainting",
    "mini_xl_inpainting_full": "inpainting",
    "mini_xl_canny": "canny",
    "mini_xl_depth": "depth",
    "mini_xl_image_prompt": "image_prompt",
    "mini_v2_animated": "animation",
}
"""Models that are for one task alone."""


def offered(kind: str) -> list[str]:
    return sorted(path.stem for path in (CONF / kind).glob("*.yaml") if path.stem not in OF_A_TASK)


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_every_experiment_of_conf_is_accepted(name: str) -> None:
    if name not in ("guide", "paper", "mini_row", "mini_guide"):  # what others have in common, and rows
        assert check_experiment(compose_settings([f"experiment={name}"])).name == name


@pytest.mark.parametrize("model", OF_A_TASK)
@pytest.mark.parametrize("task", sorted(path.stem for path in (CONF / "task").glob("*.yaml")))
def test_a_model_of_one_task_does_no_other(model: str, task: str) -> None:
    overrides = ["experiment=smoke", f"model=[{model}]", f"task={task}", "claim=[]", "scores=[clip_score]"]
    if OF_A_TASK[model] == task or {OF_A_TASK[model], task} == {"canny", "depth"}:  # any ControlNet may follow either
        check_experiment(compose_settings(overrides))
    else:
        with pytest.raises(BenchError, match=f"models.{model}") as refusal:
            check_experiment(compose_settings(overrides))
        assert f"task={task}" in str(refusal.value)


@pytest.fixture(scope="module")
def everything() -> Experiment:
    """Return an experiment that chooses everything that conf/ offers for text-to-image, on a grid of all claims."""
    others = ("guide_beside", "guide_inpaints", "mini_")  # of other tasks
    every = [claim for claim in offered("claim") if not claim.startswith(others)]
    chosen = [f"{kind}=[{','.join(offered(kind))}]" for kind in ("model", "method", "extractor")]
    chosen.append(f"claim=[{','.join(every)}]")
    scores = {metric: None for claim in compose_settings(chosen)["claims"].values() for metric in claim["metrics"]}
    several = ("tcd", "lcm", "dpmpp_2s", "dpmpp_2s_diffusers", "dpmpp_2m", "ddim", "euler", "unipc", "teacher")
    steps = [f"methods.{name}.steps=[2,4,5,8,16,20,25,50]" for name in several]
    more = ["methods.tcd.eta=[0.0,0.2,0.3,1.0]", f"scores=[{','.join(scores)}]", "prompts.images_per_prompt=2"]
    return check_experiment(compose_settings([*chosen, *steps, *more]))


def test_every_choice_of_conf_is_accepted(everything: Experiment) -> None:
    assert everything.methods.keys() >= {"tcd", "dpmpp_2s", "teacher"}
    for kind, chosen in (("model", everything.models), ("method", everything.methods)):
        assert chosen.keys() == set(offered(kind))
    assert everything.models["mini_bf16"].source == everything.models["mini"].source


OF_REAL_MODELS = [
    *("paper_coco5k", "paper_coco10k", "paper_coco30k", "paper_partiprompts", "paper_hyper_sd", "better_than_teacher"),
    *(name for name in offered("experiment") if name.startswith("guide_")),
]
OF_ROWS = [row for row in compose_settings(["experiment=mini_guide"])["rows"] if row != "mini_inpainting_full"]


@pytest.mark.parametrize("name", ["mini", "smoke", *OF_REAL_MODELS, *OF_ROWS])
def test_every_claim_of_an_experiment_is_about_its_cells(name: str) -> None:
    experiment = check_experiment(compose_settings([f"experiment={name}"]))
    assert experiment.claims
    for claim in experiment.claims.values():
        for side in (claim.subject, claim.object):
            for method in (experiment.methods[name] for name in side.method):
                assert set(side.steps) <= set(method.steps)
                assert side.eta in method.eta or (side.eta is None and len(method.eta) < 2)


@pytest.mark.parametrize("name", OF_REAL_MODELS)
def test_claims_of_real_models_name_scores_that_these_have_and_their_source(name: str) -> None:
    for claim in check_experiment(compose_settings([f"experiment={name}"])).claims.values():
        assert claim.source
        assert claim.published
        assert not any(score.startswith("attribute_accuracy") for score in claim.metrics)


def test_numbers_in_claims_are_those_of_the_published_tables() -> None:
    values = {number.value for number in load_published()}
    for name in offered("claim"):
        if name.startswith(("paper_", "hyper_sd_", "dmd2_")):
            stated = compose_settings([f"claim=[{name}]"])["claims"][name]["published"]
            decimals = [float(text) for text in re.findall(r"-?[0-9]+\.[0-9]+", stated.replace("SD 1.5", ""))]
            assert decimals or stated.startswith("in words"), name
            assert not [number for number in decimals if number not in values], name


def test_every_method_and_eta_of_the_paper_is_run_at_each_of_its_steps() -> None:
    grid = check_experiment(compose_settings(["experiment=paper_coco5k"])).methods
    assert {*grid} >= {"tcd", "lcm", "dpmpp_2s", "dpmpp_2s_diffusers", "dpmpp_2m", "ddim", "euler", "unipc"}
    assert {tuple(method.steps) for method in grid.values()} == {(2, 4, 8, 20)}
    assert grid["tcd"].eta == [0.0, 0.2, 0.3, 1.0]


def test_a_task_with_inputs_takes_models_of_one_size() -> None:
    overrides = ["experiment=guide_canny", "model=[sdxl_canny,sdxl_depth]", "models.sdxl_depth.height=512"]
    with pytest.raises(BenchError, match="models have 2 sizes but task=canny"):
        check_experiment(compose_settings(overrides))


def test_settings_absent_from_a_file_of_a_model_or_method_can_be_set() -> None:
    option, adapter = "models.sd15.memory_options.offload=model", "models.sd15.adapters.tcd.revision=abc"
    model = compose_settings(["experiment=guide_sd15_t2i", option, adapter, "models.sd15.channels_last=true"])["models"]
    found = check_experiment(compose_settings(["experiment=guide_sd15_t2i", option, adapter])).models["sd15"]
    assert found.memory_options.offload == "model"
    assert found.adapters["tcd"].revision == "abc"
    assert model["sd15"]["channels_last"] is True


def test_an_error_of_the_task_is_not_mistaken_for_a_refusal() -> None:
    def broken(settings: dict[str, Any]) -> int:
        raise ValueError("a fault of ours")

    with pytest.raises(ValueError, match="a fault of ours"):
        run_application("plan", "compose", [], broken)


BETWEEN = {
    "models": {"base": {"source": "a/b"}, "turbo": {"source": "a/c"}},
    "methods": {"tcd": {**SETTINGS["methods"]["tcd"], "adapter": [], "models": ["turbo"]},
                "dpmpp_2s": {**SETTINGS["methods"]["dpmpp_2s"], "models": ["base"]}},
    "claims": {"few": {**SETTINGS["claims"]["few"], "metrics": ["clip_score"],
        "subject": {"method": "tcd", "steps": [2], "eta": 0.3, "model": "turbo"},
        "object": {"method": "dpmpp_2s", "steps": [2], "model": "base"}}},
}  # fmt: skip


def test_a_claim_may_be_about_two_models() -> None:
    experiment = check_experiment({**SETTINGS, **BETWEEN})
    claim = experiment.claims["few"].to_claim("few")
    assert (claim.subject.model, claim.object.model, claim.between_models) == ("turbo", "base", "turbo and base")


REFUSED_BETWEEN: dict[str, tuple[dict[str, Any], str]] = {
    "one model": ({"object": {"method": "dpmpp_2s", "steps": [2]}}, "one side has model=turbo, the other none; give a"),
    "models too": ({"models": ["base"]}, "models and each_model do not go with sides that name their models"),
    "unknown": (
        {"object": {"method": "dpmpp_2s", "steps": [2], "model": "third"}},
        "object.model=third: the grid has base, turbo",
    ),
    "not run": ({"object": {"method": "dpmpp_2s", "steps": [2], "model": "turbo"}}, "dpmpp_2s does not run on turbo"),
}


@pytest.mark.parametrize("which", REFUSED_BETWEEN)
def test_a_claim_about_two_models_that_the_grid_cannot_answer_is_refused(which: str) -> None:
    changes, said = REFUSED_BETWEEN[which]
    claims = {"few": {**BETWEEN["claims"]["few"], **changes}}
    with pytest.raises(BenchError, match=re.escape(said)):
        check_experiment({**SETTINGS, **BETWEEN, "claims": claims})
