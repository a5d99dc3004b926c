"""Settings on the command line: every one can be set, text arrives as written, mistakes get a sentence."""

import os
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest

from bench.__main__ import main
from bench.experiment.compose import compose_settings, run_application
from bench.experiment.config import Experiment, check_experiment, check_settings
from bench.experiment.value_types import expand_home
from bench.experiment.verbs import ConformChoice, GateChoice, ScoreChoice, check_conform, check_gate, chosen_schedulers
from bench.records.errors import BenchError

SMOKE = ("experiment=smoke", "claim=[]")


def checked(overrides: tuple[str, ...], config: str) -> object:
    """Return the settings of overrides, as a verb reads them."""
    settings = compose_settings(overrides, config)
    if config == "score":
        return check_settings(ScoreChoice, settings)
    return check_gate(settings) if config == "gate" else check_experiment(settings)


def refusal(*overrides: str, config: str = "config") -> str:
    """Return why these overrides are refused."""
    with pytest.raises(BenchError) as caught:
        checked(overrides, config)
    return str(caught.value)


def at(settings: Any, path: str) -> Any:
    """The value at a dotted path."""
    for name in path.split("."):
        settings = settings[name]
    return settings


SET = {
    "the README's Slurm command": (
        'executor.options={partition: gpu, gres: "gpu:1"}',
        "executor.options",
        {"partition": "gpu", "gres": "gpu:1"},
    ),
    "without blanks": (
        "executor.options={partition:gpu,nodes:2}",
        "executor.options",
        {"partition": "gpu", "nodes": 2},
    ),
    "a Slurm time": ("executor.options.time=1:30:00", "executor.options.time", "1:30:00"),
    "a Slurm time in a table": ("executor.options={time: 90:00}", "executor.options.time", "90:00"),
    "a judge": (
        "preference_models.image_reward=./my weights/ir #2.pt",
        "preference_models.image_reward",
        "./my weights/ir #2.pt",
    ),
    "a margin": ("claims.tcd_8_steps.margins.fid=1", "claims.tcd_8_steps.margins", {"fid": 1}),
    "a memory option": ("models.mini.memory_options.vae_tiling=true", "models.mini.memory_options.vae_tiling", True),
    "a name like a date": ("name=2024_01_05", "name", "2024_01_05"),
    "a name like a number": ("name=1e5", "name", "1e5"),
    "a revision like a number": ("models.mini.revision=12e4567", "models.mini.revision", "12e4567"),
    "a revision of digits": ("models.mini.revision=0012345", "models.mini.revision", "0012345"),
    "an adapter like a number": ("methods.tcd.adapter=[1e5,0x1f]", "methods.tcd.adapter", ["1e5", "0x1f"]),
    "a path of signs": ("results=my dir/x=1,2 #3 {a} [b] ü: 'c'", "results", "my dir/x=1,2 #3 {a} [b] ü: 'c'"),
    "a quoted path": ("results='my dir/x'", "results", "my dir/x"),
    "a reference": ("results=out/${name}_${seed}", "results", "out/smoke_0"),
    "nothing": ("models.mini.revision=null", "models.mini.revision", None),
    "a plus": ("+models.mini.channels_last=false", "models.mini.channels_last", False),
    "an exponent": ("prompts.count=1e2", "prompts.count", 100),
    "a scheduler's setting": ("methods.tcd.scheduler.beta_start=1e-3", "methods.tcd.scheduler.beta_start", 0.001),
    "a list of one": ("methods.tcd.steps=4", "methods.tcd.steps", 4),
    "a template": ("prompts.template=a photo, {}: #1", "prompts.template", "a photo, {}: #1"),
}


@pytest.mark.parametrize("what", SET)
def test_every_setting_of_the_schema_can_be_set_and_arrives_as_written(what: str) -> None:
    override, path, value = SET[what]
    settings = compose_settings(["experiment=smoke", "executor=slurm", "claim=[tcd_8_steps]", override])
    assert at(settings, path) == value


def test_other_verbs_take_every_setting_of_their_schema() -> None:
    gate = compose_settings(["quality.sharpness={relative: 0.1, absolute: 0}", "ref=diffusers==0.41.0"], "gate")
    assert check_gate(gate).limits()["sharpness"].relative == 0.1
    assert gate["ref"] == "diffusers==0.41.0"
    scheduler = compose_settings(["scheduler=ddim", "scheduler.clip_sample=false"], "conform")["scheduler"]
    assert scheduler["clip_sample"] is False
    assert compose_settings(["results=x", "preference_models.pick_score=y"], "score")["preference_models"] == {
        "pick_score": "y"
    }


SLIPS = {
    "a group for a setting": (("method.tcd.steps=[2]",), "did you mean methods.tcd.steps?"),
    "a setting at the wrong place": (("count=4",), "prompts.count"),
    "of another executor": (("executor.gpus=1",), "executor=local has no such setting; executor=ray has"),
    "a list without brackets": (("methods.tcd.steps=2,4",), "write a list as [2,4]"),
    "half a bracket": (("methods.tcd.steps=[2",), "methods.tcd.steps=[2 was given, which cannot be read"),
    "half a table": (("executor=slurm", "executor.options={time: 1"), "executor.options={time: 1 was given"),
    "a truth for a count": (("prompts.count=true",), "prompts.count=true was given; give a number"),
    "a truth for a float": (("methods.tcd.eta=true",), "methods.tcd.eta=true was given; give a number"),
    "no number": (("methods.tcd.eta=[nan]",), "methods.tcd.eta.0=nan was given"),
    "no finite number": (("methods.tcd.guidance_scale=1e400",), "methods.tcd.guidance_scale.0=1e400 was given"),
    "thousands of digits": ((f"prompts.count={'9' * 5000}",), "prompts.count=999"),
    "nothing": (("methods=null",), "methods=null was given"),
    "empty": (("models.mini.source=",), "models.mini.source= was given; it is empty"),
    "a name too long": ((f"models.mini.source={'a' * 300}",), "no file can have such a name"),
    "a zero byte": (("results=a\0b",), "no file can have such a name"),
    "too many prompts": (("prompts.count=2e7",), "prompts.count=20000000.0 was given; input should be less than"),
    "a seed too large": (("seed=99999999999999999999",), "seed=99999999999999999999 was given"),
    "a method twice": (("method=[tcd,tcd]",), "tcd occurs twice"),
    "steps twice": (("methods.tcd.steps=[2,2]",), "2 occurs twice"),
    "eta twice": (("methods.tcd.eta=[0.3,.30]",), "0.3 occurs twice"),
    "two equal labels": (("methods.tcd.label=DPM-Solver++(2S)",), "give each its own"),
    "a label that vanishes": (("methods.tcd.label=_x",), "methods.tcd.label=_x was given; plots omit"),
    "a size": (("models.mini.height=60",), "models.mini.height=60 was given"),
    "a claim's method": (("method=[ddim]", "claim=[tcd_few_steps]"), "subject.method=tcd: the grid has ddim"),
    "a claim's steps": (("claim=[tcd_8_steps]",), "subject.steps=[8]: tcd runs [2, 4]"),
    "a claim's eta": (("claim=[tcd_few_steps]", "methods.tcd.eta=[0.5]"), "subject.eta=0.3: tcd has [0.5]"),
    "a claim's guidance": (
        ("claim=[tcd_few_steps]", "methods.tcd.guidance_scale=[0,1]"),
        "subject.guidance_scale, which was not given: tcd has [0.0, 1.0], say which",
    ),
    "a claim's metric": (
        ("claim=[tcd_few_steps]", "scores=[fid]"),
        "claims.tcd_few_steps.metrics=['attribute_accuracy']",
    ),
    "another model": (("models.min.source=x",), "did you mean models.mini.source?"),
    "another model's memory option": (("models.sd15.memory_options.compile=default",), "choose it with 'model=[sd15]'"),
    "a claim's margin": (("claim=[tcd_8_steps]", "claims.tcd_8_steps.margins.fidd=1"), "did you mean fid?"),
    "half a reference": (("name=${a${b}}",), "name: "),
    "an unknown file": (("claim=[tcd_fw_steps]",), "did you mean tcd_few_steps?"),
    "an unknown reference": (("results=${nam}",), "${nam} was given, but there is no setting nam"),
    "no variable": (("results=${oc.env:TCD_BENCH_NO_SUCH}",), "the environment variable TCD_BENCH_NO_SUCH is not set"),
    "hydra's settings": (("hydra.run.dir=/x",), "tcd-bench does not read Hydra's own settings"),
    "hydra's groups": (("hydra/launcher=basic",), "tcd-bench does not read Hydra's own settings"),
    "a search path": (("hydra.searchpath=[file:///x]",), "tcd-bench does not read Hydra's own settings"),
    "a package": (("model@models.x=mini",), "there is no such setting"),
    "dashes": (("--results=x",), "settings are written without dashes, as results=x"),
    "a bare word": (("smoke",), "smoke was given; tcd-bench plan takes settings, as name=value"),
    "a pickle": (("--experimental-rerun", "x.pickle"), "--experimental-rerun was given; tcd-bench plan takes"),
    "another directory": (("--config-dir=/x",), "--config-dir=/x was given; tcd-bench plan takes"),
    "a removal of nothing": (("~models.mini.memory_options",), "~models.mini.memory_options has no value to remove"),
}


@pytest.mark.parametrize("what", SLIPS)
def test_a_mistake_is_answered_with_the_given_and_the_likely_setting(what: str) -> None:
    overrides, said = SLIPS[what]
    message = refusal(*SMOKE, *overrides)
    assert said in message, message
    assert "\n" not in message, message


@pytest.mark.parametrize("slip", ["resutls=x", "scors=[fid]", "extractors.mini.sorce=x"])
def test_score_answers_a_misspelling_with_its_own_settings(slip: str) -> None:
    message = refusal(slip, config="score")
    assert "did you mean" in message
    assert "plan" not in message
    assert "not given" not in message


def test_the_gate_answers_with_its_own_settings() -> None:
    assert "did you mean baseline?" in refusal("basline=x", config="gate")
    assert "quality.fidd" in refusal("quality.fidd.relative=1", config="gate")


def test_all_faults_are_reported_together() -> None:
    said = refusal(*SMOKE, "prompts.count=0", "batch_size=x", "methods.tcd.eta=2").splitlines()
    assert said[0] == "3 settings are wrong:"
    assert sorted(line.split("=")[0].strip() for line in said[1:]) == [
        "batch_size",
        "methods.tcd.eta.0",
        "prompts.count",
    ]
    assert refusal(*SMOKE, "promts.count=1", "sed=1").startswith("2 settings are wrong:")


def test_a_sweep_splits_at_commas_outside_quotes_and_brackets() -> None:
    def jobs(*overrides: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        run_application("plan", "", ["-m", *SMOKE, *overrides], lambda settings: found.append(settings) or 0)
        return found

    assert [job["seed"] for job in jobs("seed=0,1")] == [0, 1]
    assert [job["seed"] for job in jobs("seed=range(2,5)")] == [2, 3, 4]
    assert [job["methods"]["tcd"]["steps"] for job in jobs("methods.tcd.steps=[2,4],[8]")] == [[2, 4], [8]]
    assert [job["name"] for job in jobs('name="a,b",c')] == ["a,b", "c"]
    assert [(job["seed"], job["name"]) for job in jobs("seed=0,1", "name=a,b")] == [
        (0, "a"),
        (0, "b"),
        (1, "a"),
        (1, "b"),
    ]


@pytest.mark.parametrize("claims", ["claim=[]", "claim=[tcd_8_steps]", "~claim", "claim=null"])
@pytest.mark.parametrize("experiment", ["mini", "smoke", "paper_coco5k", "paper_coco10k", "better_than_teacher"])
def test_an_experiment_runs_with_some_of_its_claims_or_none(experiment: str, claims: str) -> None:
    one = "tcd_8_steps" if experiment in ("mini", "smoke") else "guide_few_steps"
    chosen = [
        f"experiment={experiment}",
        claims.replace("tcd_8_steps", one),
        *(["methods.tcd.steps=[8]", "methods.dpmpp_2s.steps=[8]"] * (experiment == "smoke")),
    ]
    found = check_experiment(compose_settings(chosen)).claims
    assert [*found] == ([one] if "8" in claims else [])


def test_claims_that_came_with_an_experiment_yield_to_another_grid(capsys: pytest.CaptureFixture[str]) -> None:
    settings = compose_settings(
        ["method=[tcd,ddim]", "methods.tcd.steps=[2,4]", "methods.tcd.eta=[0,0.3]", "name=mine"]
    )
    experiment = check_experiment(settings)
    said = capsys.readouterr().err
    assert [*experiment.claims] == []
    assert said.startswith("13 of 13 claims compare cells not in the grid: ")
    assert "tcd_few_steps (object.method=dpmpp_2s: the grid has tcd, ddim)" in said


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with an empty ./conf."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    return tmp_path / "conf"


def put(path: Path, text: str) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


HEUN = "label: Heun\nscheduler: {_target_: diffusers.HeunDiscreteScheduler}\nsteps: [3]\nguidance_scale: [3.0]\n"


def test_a_file_of_a_group_needs_no_line_that_says_where_it_belongs(own: Path) -> None:
    put(own / "method" / "heun.yaml", HEUN)
    assert compose_settings([*SMOKE, "method=[heun]"])["methods"]["heun"]["label"] == "Heun"


LOST = "defaults:\n  - override /method: [nothing]\nname: x\n"
FILES = {
    "a misspelt setting": (
        "method/x.yaml",
        HEUN.replace("scheduler:", "schedular:"),
        "line 2, column 1: there is no setting methods.x.schedular; did you mean methods.x.scheduler?",
    ),
    "a foreign package": ("method/x.yaml", f"# @package methd.x\n{HEUN}", "its first line says `# @package methd.x`"),
    "a tabulator": ("method/x.yaml", "label: a\n\tsteps: [2]\n", "line 2, column 1"),
    "a bracket": ("method/x.yaml", "label: a\nsteps: [2\n", "line 3, column 1"),
    "given twice": ("method/x.yaml", "steps: [2]\nsteps: [4]\n", "line 2, column 1: steps is given twice"),
    "a list": ("method/x.yaml", "- a\n", "settings were expected"),
    "Latin-1": ("method/x.yaml", b"label: caf\xe9\n", "cannot be read as UTF-8"),
    "sixty brackets": ("method/x.yaml", f"steps: {'[' * 60}2{']' * 60}\n", "it is nested too deeply"),
    "a hundred thousand brackets": ("method/x.yaml", f"steps: {'[' * 100_000}\n", "it is nested too deeply"),
    "a tag": ("method/x.yaml", "label: !!python/object/apply:os.system [x]\n", "is a tag, and tags are not supported"),
    "an experiment": (
        "experiment/x.yaml",
        "name: x\npromts: {count: 3}\n",
        "line 2, column 1: there is no setting promts; did you mean prompts?",
    ),
    "a list of defaults": ("experiment/x.yaml", LOST, "names method/nothing, but conf/method has no such file"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_mistake_in_a_file_is_reported_with_its_line(what: str, own: Path) -> None:
    name, text, said = FILES[what]
    put(own / name, "")
    (own / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    choice = "experiment=x" if name.startswith("experiment") else "method=[x]"
    message = refusal("experiment=smoke", choice, "claim=[]")
    assert said in message, message
    assert "\n" not in message
    assert what == "a list of defaults" or os.path.join("conf", name) in message  # noqa: PTH118


def test_a_foreign_hydra_project_does_not_take_over(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("config", "report", "gate", "score", "conform"):
        put(own / f"{name}.yaml", "db: mysql\ndefaults: [{db: mysql}]\n")
    put(own / "db" / "mysql.yaml", "user: x\n")
    put(own / "hydra" / "launcher" / "basic.yaml", "_target_: os.system\n")
    assert check_experiment(compose_settings(SMOKE)).name == "smoke"
    assert compose_settings([], "gate")["images"]["share"] == 0.02
    assert capsys.readouterr().err == ""


def test_a_file_that_hides_one_of_ours_is_named_once(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(own / "method" / "tcd.yaml", HEUN)
    for _ in range(2):
        assert compose_settings([*SMOKE, "method=[tcd]"])["methods"]["tcd"]["label"] == "Heun"
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"{Path('conf/method/tcd.yaml')} is used instead of the file of that name that comes with tcd-bench"
    ]


def test_text_in_files_stays_text(own: Path) -> None:
    put(own / "executor" / "mine.yaml", "kind: slurm\noptions: {time: 1:30:00, begin: 16:00, nodes: 2, qos: yes}\n")
    put(own / "model" / "mine.yaml", "defaults: [mini@_here_]\nrevision: 12e4567\n")
    settings = compose_settings([*SMOKE, "executor=mine", "model=[mine]"])
    assert settings["executor"]["options"] == {"time": "1:30:00", "begin": "16:00", "nodes": 2, "qos": "yes"}
    assert settings["models"]["mine"]["revision"] == "12e4567"


NO_PATHS = {
    "AdapterChoice": {"file", "revision"},
    "ClaimChoice": {"metrics", "models", "published", "source", "text"},
    "ConformChoice": {"family"},
    "ConformanceChoice": {"only"},
    "Experiment": {"device", "name", "row_overrides", "rows", "scores"},
    "ExtractorChoice": {"own"},
    "EngineChoice": {"command", "scheduler"},
    "GateChoice": {"author", "quarantine", "reason"},
    "MemoryOptions": {"attention"},
    "MLflow": {"experiment"},
    "Method": {"adapter", "label", "models"},
    "Model": {"arguments", "pipeline", "revision", "variant"},
    "PartChoice": {"file", "revision", "subfolder", "variant"},
    "PromptsChoice": {"column", "template"},
    "Ray": {"address"},
    "ScoreChoice": {"device", "scores"},
    "BothSidesChoice": {"overrides"},
    "SideChoice": {"method", "model"},
    "Slurm": {"options"},
    "TextToImage": {"style"},
    "WeightsAndBiases": {"entity", "project"},
}
"""Settings that are text and no path: names, words, and files within a source."""


def text_settings(kind: Any, seen: dict[str, set[str]]) -> dict[str, set[str]]:
    """By dataclass, the settings below it that may be any text and are not known as paths."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        parts, plain = [hint], False
        while parts:
            part = parts.pop()
            if get_origin(part) is Annotated and expand_home in [
                getattr(mark, "func", None) for mark in part.__metadata__
            ]:
                continue
            if isinstance(part, type) and is_dataclass(part) and part.__name__ not in seen:
                seen[part.__name__] = set()
                text_settings(part, seen)
            plain = plain or part is str
            parts += get_args(part) if get_origin(part) is not dict else get_args(part)[1:]
        if plain:
            seen.setdefault(kind.__name__, set()).add(name)
    return seen


def test_every_setting_that_is_a_path_is_known_as_one() -> None:
    """~ is expanded there. A new setting is a path (Source), or one of those that are not."""
    found = {}
    for kind in (Experiment, GateChoice, ConformChoice, ScoreChoice):
        found |= text_settings(kind, {})
    assert {name: settings for name, settings in found.items() if settings} == NO_PATHS


def test_home_directories_are_meant_in_the_other_verbs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tcd.json").write_text("{}")
    found = check_conform(compose_settings(["baseline='~/tcd.json'", "write='~/new/tcd.json'"], "conform"))
    assert (found["baseline"], found["write"]) == (f"{tmp_path}/tcd.json", f"{tmp_path}/new/tcd.json")
    gate = check_gate(compose_settings(["ref='~/venv'", "candidate_ref='~/diffusers'"], "gate"))
    assert (gate.ref, gate.candidate_ref) == (f"{tmp_path}/venv", f"{tmp_path}/diffusers")
    for settings, said in {
        ("baseline='~/none.json'",): f"baseline={tmp_path}/none.json does not exist; give a JSON file",
        ("write='~/tcd.json/new.json'",): f"cannot be written since {tmp_path}/tcd.json is a file; choose",
    }.items():
        with pytest.raises(BenchError, match=said):
            check_conform(compose_settings(settings, "conform"))


def test_conform_refuses_a_directory_for_a_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conform", f"baseline={tmp_path}"]) == 2
    assert f"baseline={tmp_path} is a folder; give a JSON file" in capsys.readouterr().err


def test_a_class_that_is_not_a_scheduler_is_not_called(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target in ("os.system", "subprocess.Popen"):
        assert main(["conform", f"scheduler={{_target_: {target}, command: touch {tmp_path}/x}}"]) == 2
        assert main(["conform", f"scheduler._target_={target}"]) == 2
    assert "is not a scheduler" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_gates_schedulers_are_read_the_same_way() -> None:
    assert chosen_schedulers(["tcd"])["tcd"]["beta_start"] == 0.00085


def test_fetch_reports_a_missing_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", *SMOKE, "models.mini.source=a/b/c"]) == 1
    found = " ".join(capsys.readouterr().out.split())
    assert found == "MISSING model mini a/b/c does not exist; give a directory or file of weights, or a hub id"


BASES = ["experiment=mini", "model=[mini,mini_fp16]", "~models.mini_fp16.adapters.lcm", "method=[tcd,lcm]"]
LCM = "{text: TCD wins, subject: {method: tcd, steps: 4, eta: 0.3}, object: {method: lcm, steps: 4}, metrics: fid"


def test_a_claim_of_each_model_is_one_for_every_model_that_has_the_adapters(capsys: pytest.CaptureFixture[str]) -> None:
    own = f"claims={{ours: {LCM}, each_model: true}}, all: {LCM}}}}}"
    found = check_experiment(compose_settings([*BASES, "claim=[]", own])).claims
    assert {name: claim.models for name, claim in found.items()} == {"ours_mini": ["mini"], "all": []}
    assert found["ours_mini"].text == "TCD wins, on mini"
    assert "ours_mini_fp16 (mini_fp16 has no adapter named lcm)" in capsys.readouterr().err


def test_a_claim_about_a_model_that_is_not_run_is_refused_or_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BenchError, match=r"claims\.ours\.models=\['sdxl'\]: the grid has mini, mini_fp16"):
        check_experiment(compose_settings([*BASES, "claim=[]", f"claims={{ours: {LCM}, models: sdxl}}}}"]))
    optional = f"claims={{ours: {LCM}, models: [mini_fp16], optional: true}}}}"
    assert not check_experiment(compose_settings([*BASES, "claim=[]", optional])).claims
    assert "ours (mini_fp16 has no adapter named lcm)" in capsys.readouterr().err
