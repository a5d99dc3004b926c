"""conform finds faults, names them, and reports no others."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import yaml

import bench
from bench.__main__ import main
from bench.conformance import checks_noise
from bench.conformance.baseline import changes, compare_with_baseline, read_baseline
from bench.conformance.subject import Subject

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "conformance"
SCALED = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LINEAR = {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}


sys.path.insert(0, str(ROOT / "scripts" / "conformance"))
import mutation_score as mutation  # noqa: E402

MUTANTS: dict[str, list[dict[str, Any]]] = yaml.safe_load(mutation.MUTANTS.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tcd() -> bench.ConformanceReport:
    settings = yaml.safe_load((ROOT / "conf" / "scheduler" / "tcd.yaml").read_text(encoding="utf-8"))
    del settings["_target_"]
    return bench.conform(lambda: diffusers.TCDScheduler(**settings))


def test_tcd_deviates_only_as_in_the_baseline(tcd: bench.ConformanceReport) -> None:
    known = read_baseline(RESULTS / "tcd.json")
    assert {verdict.status for verdict in compare_with_baseline(tcd, known)} <= {"known"}
    assert not list(changes(tcd, known))


def test_a_report_lists_the_checks(tcd: bench.ConformanceReport) -> None:
    assert tcd.family == "TCDScheduler"
    assert not tcd.passed
    assert tcd.checked["step"] > 50
    assert {order.declared for order in tcd.orders} == {1.0}
    assert all(0.9 < order.fitted < 1.1 for order in tcd.orders)
    assert tcd.errors["Gaussians"]["32"] < tcd.errors["Gaussians"]["4"] < tcd.errors["Gaussians"]["2"]


def test_there_are_at_least_sixty_mutants_and_each_has_its_place() -> None:
    assert sum(map(len, MUTANTS.values())) >= 60
    for name, faults in MUTANTS.items():
        target = yaml.safe_load((ROOT / "conf" / "scheduler" / f"{name}.yaml").read_text(encoding="utf-8"))["_target_"]
        source = Path(sys.modules[getattr(diffusers, target.rpartition(".")[2]).__module__].__file__ or "").read_text()
        for fault in faults:
            assert mutation.mutate(source, fault) != source


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("tcd", "noise on the last step"),
        ("tcd", "generator not handed on"),
        ("tcd", "float16 buffer"),
        ("ddim", "eta ignored"),
        ("lcm", "sigma_data of 1"),
        ("dpmpp_2s", "half dropped"),
        ("dpmpp_2m", "stale order count"),
        ("euler", "input not scaled"),
        ("unipc", "factorial"),
    ],
)
def test_a_fault_is_found(name: str, fault: str) -> None:
    (chosen,) = [entry for entry in MUTANTS[name] if entry["name"] == fault]
    assert mutation.examine((name, chosen))[2] == "theory"


def test_a_fork_is_recognised_by_its_base() -> None:
    class Fork(diffusers.TCDScheduler):  # type: ignore[misc]
        def step(self, *arguments: Any, **named: Any) -> Any:
            result = super().step(*arguments, **named)
            result.prev_sample = result.prev_sample * 1.001
            return result

    from bench.conformance.conform import first_deviation

    found = first_deviation(Fork, lambda finding: finding.check == "step")
    assert "Call 0" in found.sentence


def test_noise_of_numpys_global_generator_is_found() -> None:
    class Fork(diffusers.TCDScheduler):  # type: ignore[misc]
        def step(self, *arguments: Any, **named: Any) -> Any:
            result = super().step(*arguments, **named)
            np.random.randn()  # noqa: NPY002
            return result

    (found,) = checks_noise.check_noise(Subject(Fork), "as configured", 4, 0.0)
    assert (found.check, found.got) == ("noise source", "another, in calls [0, 1, 2, 3]")


EPSILON = {"prediction_type": "epsilon", "original_inference_steps": 50, "timestep_scaling": 10.0}
CLIPPED = {"clip_sample": True, "clip_sample_range": 1.0, "timestep_spacing": "leading"}
SOLVER = {"solver_order": 2, "solver_type": "midpoint", "lower_order_final": False, "algorithm_type": "dpmsolver++"}


SINGLESTEP = {**LINEAR, **SOLVER, "final_sigmas_type": "sigma_min", "sample_max_value": 1.0}


@pytest.mark.parametrize(
    ("name", "settings", "steps", "eta", "total"),
    [
        ("TCDScheduler", SCALED, 1, 0.0, 29.8715),
        ("TCDScheduler", SCALED, 10, 0.0, 181.2040),
        ("LCMScheduler", SCALED, 1, None, 18.7097),
        ("LCMScheduler", SCALED, 10, None, 197.7616),
        ("DDIMScheduler", {**LINEAR, "clip_sample": True}, 10, 0.0, 172.0067),
        ("DPMSolverSinglestepScheduler", SINGLESTEP, 10, None, 0.2791 * 768),
        ("DPMSolverSinglestepScheduler", {**SINGLESTEP, "use_karras_sigmas": True}, 10, None, 0.2248 * 768),
        ("DPMSolverSinglestepScheduler", {**SINGLESTEP, "prediction_type": "v_prediction"}, 10, None, 0.1453 * 768),
    ],
)
def test_the_installed_classes_reach_them_and_so_do_their_published_methods(
    name: str, settings: dict[str, Any], steps: int, eta: float | None, total: float
) -> None:
    case = Subject(lambda: getattr(diffusers, name)(**settings)).prepare(steps)
    x = (torch.arange(768).reshape(3, 8, 8, 4) / 768).permute(3, 0, 1, 2)
    theirs, ours, method = x.clone(), x.double().numpy(), case.method(eta)
    generator, same = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    accepted = inspect.signature(case.scheduler.step).parameters
    given = {"eta": eta, "generator": generator}
    for index, t in enumerate(case.scheduler.timesteps):
        arguments = {key: value for key, value in given.items() if key in accepted}
        theirs = case.scheduler.step(theirs * t / (t + 1), t, theirs, **arguments).prev_sample
        expected = method.advance(index, ours, ours * float(t) / (float(t) + 1)) if method else None
        noise = torch.randn(x.shape, generator=same).double().numpy() if expected.noise else 0.0
        ours = expected.mean + expected.noise * noise
    assert theirs.abs().sum().item() == pytest.approx(total, rel=3e-4)
    assert np.abs(ours).sum() == pytest.approx(total, rel=3e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["scheduler=tdc"], "scheduler=tdc was given"),
        (["scheduler._target_=diffusers.TDCScheduler"], "diffusers.TDCScheduler"),
        (["family=TDCScheduler"], "TDCScheduler"),
        (["scheduler.beta_schedule=sigmoid"], "refuses its settings"),
        (["baseline=/nowhere.json"], "/nowhere.json"),
        (["steps=4"], "steps"),
    ],
)
def test_bad_input_ends_with_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conform", *arguments]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert len(shown.splitlines()) == 1


def test_a_class_of_ones_own_checkout_is_examined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fork_with_other_timesteps.py").write_text(
        "import diffusers\n"
        "class TCDScheduler(diffusers.TCDScheduler):\n"
        "    def set_timesteps(self, *arguments, **named):\n"
        "        super().set_timesteps(*arguments, **named)\n"
        "        self.timesteps = self.timesteps - 1\n"
    )
    monkeypatch.chdir(tmp_path)
    baseline = f"baseline={RESULTS / 'tcd.json'}"
    assert main(["conform", "scheduler._target_=fork_with_other_timesteps.TCDScheduler", baseline]) == 1
    shown = capsys.readouterr().out
    assert "new: timesteps (as configured" in shown
    assert shown.count("TCDScheduler was copied from LCMScheduler") == 1, "one cause is printed once"
    assert "changed: the trajectory of 4 steps, eta 0" in shown


def test_the_package_imports_torch_only_when_conform_is_used() -> None:
    code = "import sys, bench; print('torch' in sys.modules); bench.conform; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.split() == ["False", "True"]
