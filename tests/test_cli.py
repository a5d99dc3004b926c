"""The command line: immediate help, and one clear sentence for settings that cannot run."""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import bench.execute.ownership
from bench.__main__ import main
from bench.records.errors import BenchError

Overrides = Callable[..., list[str]]


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"tcd-bench {verb}" in shown for verb in ("run", "plan", "report", "doctor"))


def test_a_missing_verb_is_bad_input() -> None:
    assert main([]) == 2


def test_an_unknown_verb_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rum"]) == 2
    assert "'rum'" in capsys.readouterr().err


def test_the_version_is_that_of_the_checkout(capsys: pytest.CaptureFixture[str]) -> None:
    project = Path(__file__).parents[1] / "pyproject.toml"
    assert bench.__version__ == tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tcd-bench {bench.__version__}\n"


def test_without_a_checkout_the_version_is_that_of_the_installation(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    shutil.copy(Path(__file__).parents[1] / "bench" / "__init__.py", tmp_path / "bench")
    (tmp_path / "tcd_bench-9.8.7.dist-info").mkdir()
    (tmp_path / "tcd_bench-9.8.7.dist-info" / "METADATA").write_text("Name: tcd-bench\nVersion: 9.8.7\n")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import bench; print(bench.__version__)"
    ran = subprocess.run([sys.executable, "-P", "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert ran.stdout == "9.8.7\n"


def test_the_package_lists_its_public_names() -> None:
    assert {*bench.__all__, "__version__"} <= set(dir(bench))
    for name in bench.__all__:
        assert getattr(bench, name).__module__.startswith("bench.")


def test_a_plan_does_not_load_the_compiler(tmp_path: Path) -> None:
    code = "import sys; from bench.__main__ import main; main(sys.argv[1:]); print('torch._dynamo' in sys.modules)"
    command = ["plan", "experiment=smoke", f"results={tmp_path}"]
    ran = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "False", ran.stdout + ran.stderr


@pytest.mark.parametrize("verb", ["run", "plan", "report", "doctor"])
def test_help_of_a_verb_shows_its_purpose_and_every_setting(verb: str) -> None:
    ran = subprocess.run([sys.executable, "-m", "bench", verb, "--help"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0
    assert ran.stdout.startswith(f"tcd-bench {verb}: ")
    assert "guidance_scale" in ran.stdout
    experiments = next(line for line in ran.stdout.splitlines() if line.startswith("experiment: "))
    assert {"mini", "smoke"} <= set(experiments.removeprefix("experiment: ").split(", "))


@pytest.mark.parametrize("arguments", [["--help"], ["report", "--help"], ["report", "results=/nowhere"]])
def test_help_and_report_import_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from bench.__main__ import main\n"
        f"try: main({arguments})\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("method=[tdc]", "method=tdc was given, but conf/method has no such file; did you mean tcd? There are ddim"),
        ("methods.tcd.scheduler._target_=diffusers.TDCScheduler", "diffusers.TDCScheduler"),
        ("methods.tcd.scheduler.original_steps=50", "original_steps"),
        ("+methods.tcd.stepz=[4]", "methods.tcd.stepz"),
        ("promts.count=4", "did you mean prompts.count?"),
        ("methd=[tcd]", "did you mean method?"),
        ("methods.tcd.eta=[]", "eta"),
        ("methods.dpmpp_2s.eta=[0.3]", "has no eta"),
        ("models.mini.source=/nowhere/at/all", "/nowhere/at/all"),
        ("models.mini.adapters.tcd.source=/nowhere", "/nowhere"),
        ("extractors.mini.source=/nowhere", "/nowhere"),
        ("device=cuda", "torch can use no GPU"),
        ("device=tpu", "tpu"),
        ("prompts.source=/nowhere.txt", "/nowhere.txt"),
        ("prompts.count=0", "prompts.count=0"),
        ("results=", "results"),
        ("method=[tcd", "tcd"),
        ("models.mini.memory_options.ofload=model", "models.mini.memory_options.ofload"),
        ("models.min.memory_options.vae_tiling=true", "min is not among the chosen models (mini)"),
        ("experiment=null", "name was not given"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "plan"])
def test_bad_input_is_one_sentence_and_exit_code_2_before_anything_is_written(
    verb: str, override: str, said: str, overrides: Overrides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if override == "device=cuda":
        pytest.importorskip("pynvml")
        from bench.measure.environment import nvidia_devices

        if nvidia_devices():
            pytest.skip("this machine has a GPU")
    assert main([verb, *overrides("claim=[]", override)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    assert not (tmp_path / "run").exists()


def test_results_that_cannot_be_written_are_refused_before_anything_is_loaded(
    overrides: Overrides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["run", *overrides(f"results={tmp_path}/file/run")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_users_own_conf_comes_first(
    overrides: Overrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "heun.yaml").write_text(
        "# @package methods.heun\nlabel: Heun\nscheduler: {_target_: diffusers.HeunDiscreteScheduler}\n"
        "steps: [2, 4]\nguidance_scale: [3.0]\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["plan", *overrides("method=[heun]", "claim=[]")]) == 0
    shown = capsys.readouterr()
    assert "heun 2 steps" in shown.out, shown.err
    evaluations = [line.split()[-3] for line in shown.out.splitlines() if "heun" in line]
    assert evaluations == ["6", "14"], "Heun evaluates 2N - 1 times, and guidance doubles that"
    assert "Denoiser evaluations in all: 120" in shown.out


def test_what_an_experiment_sets_for_a_method_that_is_not_chosen_does_no_harm(
    overrides: Overrides, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *overrides("method=[ddim]")]) == 0
    assert "2 cells" not in capsys.readouterr().out
    assert main(["plan", *overrides("method=[ddim]", "+methods.tcd.eta=[0.3]")]) == 2
    assert "methods.tcd.label was not given" in capsys.readouterr().err


def test_plan_lists_cells_in_order_with_what_is_left_out(
    overrides: Overrides, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *overrides("methods.tcd.steps=[2,17,60]", "methods.tcd.eta=[0,1]")]) == 0
    shown = capsys.readouterr().out
    assert "mini tcd 17 steps eta 1" in shown
    assert shown.index("tcd 2 steps") < shown.index("load mini\n")
    assert "60 steps do not fit the 50-step grid" in shown
    assert shown.count("load ") == 2


NO_ADAPTER = ("model=[mini,mini_bf16]", "~models.mini_bf16.adapters.tcd")


def test_plan_shows_what_claims_compare_and_lack_before_anything_runs(
    overrides: Overrides, capsys: pytest.CaptureFixture[str]
) -> None:
    claims = "claim=[tcd_few_steps,tcd_equal_cost]"
    more = ("scores=[fid,attribute_accuracy]", "methods.tcd.steps=[2,4,8,16]", "method=[tcd,dpmpp_2s,ddim]")
    assert main(["plan", *overrides(claims, *NO_ADAPTER, *more)]) == 0
    shown = capsys.readouterr().out
    assert (
        "tcd_few_steps: TCD beats DPM-Solver++(2S) at 2 and at 4 steps (better by fid@mini, attribute_accuracy@mini)"
        in shown
    )
    assert "    mini: tcd 4 steps eta 0.3 against dpmpp_2s 4 steps\n" in shown
    assert "    LACKS mini_bf16: tcd 4 steps eta 0.3 is not in the grid\n" in shown
    assert "mini: tcd 4 steps eta 0.3 against the costliest dpmpp_2s of no more evaluations\n" in shown
    assert shown.index("claims:") < shown.index("load mini")


def test_a_plan_says_that_the_cost_of_some_cells_is_unknown(
    overrides: Overrides, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["model=[mini,mini_bf16]", "~models.mini_bf16.cost_s", "claim=[]"]
    assert main(["plan", *overrides(*both)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("about ")
    assert "and that of cells marked ? besides" in last
    assert main(["plan", *overrides("claim=[]")]) == 0
    assert "besides" not in capsys.readouterr().out


def test_plan_shows_what_was_published_about_a_claim(overrides: Overrides, capsys: pytest.CaptureFixture[str]) -> None:
    stated = ["claims.tcd_few_steps.published=1 against 2", "claims.tcd_few_steps.source=a paper, table 1"]
    few = "claims.tcd_few_steps.metrics=[fid]"
    assert main(["plan", *overrides("claim=[tcd_few_steps]", "method=[tcd,dpmpp_2s]", few, *stated)]) == 0
    assert "    published: 1 against 2; a paper, table 1\n" in capsys.readouterr().out


def test_a_run_reports_unsupportable_claims_before_sampling(
    overrides: Overrides, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object) -> None:
        raise BenchError("before it samples")

    monkeypatch.setattr(bench.execute.ownership, "open_store", stop)
    assert main(["run", *overrides("claim=[tcd_few_steps]", *NO_ADAPTER)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "claims.tcd_few_steps cannot be supported: mini_bf16: tcd 2 steps eta 0.3 is not in the grid",
        "claims.tcd_few_steps cannot be supported: mini_bf16: tcd 4 steps eta 0.3 is not in the grid",
        "error: before it samples",
    ]
    assert main(["run", *overrides("method=[tcd]")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "1 of 1 claims compare cells not in the grid: tcd_few_steps (object.method=dpmpp_2s: the grid has tcd)",
        "error: before it samples",
    ]


def test_doctor_names_what_is_missing(overrides: Overrides, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *overrides()]) == 0
    assert "MISSING" not in capsys.readouterr().out
    assert main(["doctor", *overrides("models.mini.source=nobody/nothing")]) == 1
    shown = capsys.readouterr().out
    assert "MISSING" in shown
    assert "hf download nobody/nothing" in shown


def test_multirun_runs_every_job_and_leaves_no_other_files(
    overrides: Overrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "-m", *overrides("seed=0,1")]) == 0
    assert capsys.readouterr().out.count("Denoiser evaluations in all") == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["report", "status"])
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("keep=al", "keep=al was given; input should be 'all' or 'grid'"),
        ("until=decidd", "until=decidd was given; input should be 'count' or 'decided'"),
        ("prompts.count=0", "prompts.count=0 was given"),
        ("executor.workers=two", "executor.workers=two was given"),
        ("scores=[fdi]", "scores.0=fdi was given"),
    ],
)
def test_verbs_that_only_read_check_every_setting_that_is_given(
    verb: str, override: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cells").mkdir()
    assert main([verb, f"results={tmp_path}", override]) == 2
    assert said in capsys.readouterr().err
