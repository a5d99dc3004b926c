"""Samplers of other engines: the protocol, what a process may do wrong, and files of latents."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from bench.__main__ import main
from bench.experiment.compose import compose_settings
from bench.experiment.verbs import check_gate
from bench.gate.engine import ExactDenoiser, judge_engine, sd_schedule
from bench.gate.outcome import GateReport, Outcome

ROOT = Path(__file__).parents[1]
DDIM = """
import json, math, sys
import numpy as np

def ask(line):
    print(json.dumps(line), flush=True)
    return json.loads(sys.stdin.readline())

for line in sys.stdin:
    run = json.loads(line)["sample"]
    x, alphas, steps = np.array(run["latents"]), run.get("alphas_cumprod"), run["steps"]
    times = [round(1000 - i * 1000 / steps) - 1 for i in range(steps)]
    for i, t in enumerate(times):
        CHANGE
        noise = np.array(ask({"denoise": {"latents": x.tolist(), "timestep": t}})["output"])
        now, then = alphas[t], alphas[times[i + 1]] if i + 1 < steps else 1.0
        data = (x - math.sqrt(1 - now) * noise) / math.sqrt(now)
        x = math.sqrt(then) * data + math.sqrt(1 - then) * noise
        AFTER
    print(json.dumps({"latents": x.tolist()}), flush=True)
"""
FLOW = """
import json, sys
import numpy as np
for line in sys.stdin:
    run = json.loads(line)["sample"]
    x, steps = np.array(run["latents"]), run["steps"]
    for i in range(steps):
        print(json.dumps({"denoise": {"latents": x.tolist(), "timestep": 1000 * (1 - i / steps)}}), flush=True)
        x = x - np.array(json.loads(sys.stdin.readline())["output"]) / steps
    print(json.dumps({"latents": x.tolist()}), flush=True)
"""


def judged(tmp_path: Path, code: str, *overrides: str) -> list[Outcome]:
    """The outcomes of a program in Python."""
    (tmp_path / "engine.py").write_text(code)
    command = f"engine.command=['{sys.executable}','{tmp_path}/engine.py']"
    choice = check_gate(compose_settings([command, "engine.timeout_s=300", *overrides], "gate"))
    return judge_engine(choice.engine, choice.latents)


def answer(outcomes: list[Outcome]) -> int:
    return GateReport("a", "b", tuple(outcomes)).exit_code


def test_the_same_method_in_another_process_agrees(tmp_path: Path) -> None:
    outcomes = judged(tmp_path, DDIM.replace("CHANGE", "").replace("AFTER", ""), "engine.scheduler=ddim")
    assert {(o.level, o.quantity, o.verdict) for o in outcomes} == {
        ("latents", "displacement", "unchanged"),
        ("conformance", "error", "unchanged"),
        ("conformance", "convergence", "unchanged"),
    }
    assert answer(outcomes) == 0


def test_a_wrong_step_is_found_and_where_it_is(tmp_path: Path) -> None:
    wrong = DDIM.replace("CHANGE", "").replace("AFTER", "x = x * (1.01 if i == 2 else 1)")
    outcomes = judged(tmp_path, wrong, "engine.scheduler=ddim", "engine.steps=[4,10]")
    latents = [o for o in outcomes if o.level == "latents"]
    assert [o.verdict for o in latents] == ["changed", "changed"]
    assert "they part at call 3: from equal model outputs the scheduler's step makes other latents" in latents[0].note
    assert answer(outcomes) == 1
    shifted = DDIM.replace("CHANGE", "t = t - (i > 0)").replace("AFTER", "")
    found = judged(tmp_path, shifted, "engine.scheduler=ddim", "engine.steps=[4]")[0]
    assert found.note.startswith("timesteps differ from call 2 on, 748 instead of 749; ")


def test_without_a_scheduler_it_has_to_converge(tmp_path: Path) -> None:
    (right,) = judged(tmp_path, DDIM.replace("CHANGE", "").replace("AFTER", ""))
    assert (right.quantity, right.verdict) == ("convergence", "unchanged")
    (wrong,) = judged(tmp_path, DDIM.replace("CHANGE", "").replace("AFTER", "x = x * (1 + 0.5 / steps)"))
    assert wrong.verdict == "regressed"
    assert "do not fall to 0" in wrong.note
    (flow,) = judged(tmp_path, FLOW, "engine.path=flow")
    assert flow.verdict == "unchanged", flow
    both = judged(tmp_path, FLOW, "engine.path=flow", "engine.scheduler=flow_euler", "engine.steps=[5]")
    assert {outcome.verdict for outcome in both if outcome.quantity == "error"} <= {
        "unchanged",
        "improved",
        "regressed",
    }


STOCHASTIC = DDIM.replace(
    "data = (x", "width = WIDTH * math.sqrt((1 - then) / (1 - now) * (1 - now / then))\n        data = (x"
).replace(
    "x = math.sqrt(then) * data + math.sqrt(1 - then) * noise",
    "x = math.sqrt(then) * data + math.sqrt(1 - then - width**2) * noise\n"
    "        if width > 0: x = x + width * np.array(ask({'noise': True})['noise'])",
)
"""DDIM with eta, which asks for its noise."""


def stochastic(width: str = "run['eta']", change: str = "", after: str = "") -> str:
    return STOCHASTIC.replace("WIDTH", width).replace("CHANGE", change).replace("AFTER", after)


def test_a_stochastic_sampler_gets_its_noise_and_agrees_with_its_scheduler(tmp_path: Path) -> None:
    for name, code in (("ddim", stochastic()), ("ddpm", stochastic("1.0", after="pass"))):
        more = ["engine.eta=1"] if name == "ddim" else []
        outcomes = judged(tmp_path, code, f"engine.scheduler={name}", "engine.steps=[4,20]", *more)
        assert {o.verdict for o in outcomes if o.level == "conformance"} <= {"unchanged", "improved"}, outcomes
        if name == "ddim":
            assert {o.verdict for o in outcomes} == {"unchanged"}
            assert "distance of the law from the data's, +0.0%" in outcomes[1].note


def test_a_wrong_width_of_the_noise_is_found_with_and_without_a_scheduler(tmp_path: Path) -> None:
    wrong = stochastic("run['eta']", after="x = x * (1.01 if i else 1)")
    outcomes = judged(tmp_path, wrong, "engine.scheduler=ddim", "engine.eta=0.5", "engine.steps=[4]")
    assert [o.verdict for o in outcomes if o.quantity == "displacement"] == ["changed"]
    assert answer(outcomes) == 1
    doubled = stochastic().replace("x = x + width *", "x = x + 2 * width *")
    (lone,) = judged(tmp_path, doubled, "engine.eta=1")
    assert (lone.quantity, lone.verdict) == ("convergence", "regressed")
    (right,) = judged(tmp_path, stochastic(), "engine.eta=1")
    assert right.verdict == "unchanged", right


def test_noise_that_the_scheduler_does_not_draw_is_named(tmp_path: Path) -> None:
    outcomes = judged(tmp_path, stochastic("0.5"), "engine.scheduler=ddim", "engine.eta=0", "engine.steps=[4]")
    (noise,) = [o for o in outcomes if o.quantity == "noise"]
    assert (noise.verdict, answer(outcomes)) == ("regressed", 1)
    assert noise.note == "the process draws noise, the scheduler none; engine.eta is sent as eta"


def test_a_sampler_that_clips_is_compared_but_its_law_is_not_known(tmp_path: Path) -> None:
    code = stochastic(after="x = np.clip(x, -1, 1)")
    (outcome,) = judged(tmp_path, code, "engine.eta=1", "engine.steps=[4,10]")
    assert outcome.verdict == "undecided"
    assert "not linear in its noise" in outcome.note


NONSENSE = {
    "no JSON": ("print('hello', flush=True)", "said what is not JSON: hello"),
    "no object": ("print('[1]', flush=True)", "said what is not an object: [1]"),
    "neither": ("print('{\"x\": 1}', flush=True)", "said neither denoise nor noise nor latents"),
    "its own error": ('print(\'{"error": "no such path"}\', flush=True)', "gave up: no such path"),
    "no denoiser": ('print(json.dumps({"latents": run["latents"]}), flush=True)', "made latents without the denoiser"),
    "another shape": (
        'ask({"denoise": {"latents": [[1]], "timestep": 1}})',
        "with the shape (1, 1); the shape is (4, 16)",
    ),
    "text": ('ask({"denoise": {"latents": "x", "timestep": 1}})', "as something else than rows of numbers: x"),
    "no dict": ('ask({"denoise": 3})', "without an object of latents"),
    "half a timestep": ('ask({"denoise": {"latents": run["latents"], "timestep": 1.5}})', "asked for timestep 1.5"),
    "a late timestep": (
        'ask({"denoise": {"latents": run["latents"], "timestep": 1e9}})',
        "asked for timestep 1000000000.0",
    ),
    "no end": (
        'while True: ask({"denoise": {"latents": run["latents"], "timestep": 1}})',
        "asked for the denoiser 256 times",
    ),
    "noise without an end": ('while True: ask({"noise": True})', "asked for noise 256 times"),
    "an exit": ("sys.exit('out of memory')", "ended with exit code 1: out of memory"),
    "a signal": ("import os; os.abort()", "ended with signal 6"),
    "a closed output": ("import os; os.close(1); import time; time.sleep(100)", "closed its output"),
    "silence": ("import time; time.sleep(100)", "said nothing for 3 s"),
    "a flood": ("while True: sys.stdout.write('x' * 10**6)", "said "),
    "deep nesting": ("print('[' * 100000, flush=True)", "said what is not JSON"),
}


@pytest.mark.parametrize("how", NONSENSE)
def test_whatever_a_process_does_wrong_is_an_outcome(how: str, tmp_path: Path) -> None:
    code, words = NONSENSE[how]
    limit = f"engine.timeout_s={3 if how == 'silence' else 300}"
    outcomes = judged(tmp_path, DDIM.replace("CHANGE", code).replace("AFTER", ""), limit)
    assert [o.verdict for o in outcomes] == ["failed"]
    assert words in outcomes[0].note
    assert answer(outcomes) == 1


def test_latents_that_are_not_numbers_are_a_change(tmp_path: Path) -> None:
    broken = DDIM.replace("CHANGE", "").replace("AFTER", "x = x * float('nan')")
    outcomes = judged(tmp_path, broken, "engine.steps=[4]", "engine.scheduler=ddim")
    assert {outcome.verdict for outcome in outcomes} <= {"failed", "changed", "regressed", "undecided"}
    assert answer(outcomes) == 1


def test_a_program_that_does_not_exist_is_an_outcome(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["gate", "engine.command=[/nowhere/engine]", f"output={tmp_path}/report"]
    assert main(arguments) == 1
    (outcome,) = json.loads((tmp_path / "report" / "gate.json").read_text())["outcomes"]
    assert "cannot be started" in outcome["note"]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.parametrize(("name", "eta"), [("ddim", "null"), ("ddim", "1"), ("tcd", "0.3")])
def test_the_examples_in_javascript_agree_with_their_schedulers(name: str, eta: str, tmp_path: Path) -> None:
    example = ROOT / "scripts" / "engine" / f"{name}.js"
    command = f"engine.command=[node,'{example}']"
    settings = [f"engine.scheduler={name}", f"engine.eta={eta}", "engine.steps=[2,4,8]", f"output={tmp_path}/report"]
    assert main(["gate", command, *settings]) == 0
    outcomes = json.loads((tmp_path / "report" / "gate.json").read_text())["outcomes"]
    assert {outcome["verdict"] for outcome in outcomes} == {"unchanged"}
    assert len(example.read_text().splitlines()) <= 40


def test_the_exact_flow_is_that_of_its_denoiser() -> None:
    """Many small Euler steps of dx/da along the path end where the closed form says."""
    exact = ExactDenoiser("flow")
    x = start = np.random.default_rng(0).normal(size=(4, 16))
    for i in range(4000):
        x = x - exact.output(x, 1000 * (1 - i / 4000)) / 4000
    assert np.abs(x - exact.end(start, 1000)).max() < 0.01
    alphas = sd_schedule()
    assert (len(alphas), alphas[-1]) == (1000, pytest.approx(0.00466, abs=1e-4))


def saved(path: Path, arrays: dict[str, Any]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, path)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_of_latents_are_compared(suffix: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(2, 5, 4, 8, 8)).astype(np.float32)
    images = rng.integers(0, 255, (2, 16, 16, 3)).astype(np.uint8)
    old = saved(tmp_path / "old.npz", {"states": states, "images": images})
    moved = states.copy()
    moved[:, 2:] *= 1.05

    def gate(new: Path) -> tuple[int, list[dict[str, Any]]]:
        code = main(["gate", f"engine.latents={new}", f"engine.baseline={old}", f"output={tmp_path}/report"])
        return code, json.loads((tmp_path / "report" / "gate.json").read_text())["outcomes"]

    assert gate(saved(tmp_path / f"same{suffix}", {"states": states, "images": images}))[0] == 0
    code, outcomes = gate(saved(tmp_path / f"new{suffix}", {"states": moved, "images": images // 2}))
    assert code == 1
    assert "they part at call 2: by 0.05 (without model outputs" in outcomes[0]["note"]
    assert [outcome["quantity"] for outcome in outcomes][:3] == ["displacement", "psnr", "ssim"]


DAMAGED: dict[str, dict[str, Any] | bytes] = {
    "empty": b"",
    "cut": b"PK\x03\x04 half",
    "without states": {"x": np.zeros(3)},
    "two axes": {"states": np.zeros((2, 3))},
    "whole numbers": {"states": np.zeros((2, 3, 4), int)},
    "no images": {"states": np.zeros((0, 3, 4))},
    "objects": {"states": np.array([[[{}]]])},
    "outputs of another run": {"states": np.zeros((2, 3, 4)), "outputs": np.zeros((2, 7, 4))},
    "images of another run": {"states": np.zeros((2, 3, 4)), "images": np.zeros((9, 8, 8, 3), np.uint8)},
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_file_of_latents_is_refused(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, file = DAMAGED[how], tmp_path / "a.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.savez(file, **content)
    arguments = [f"engine.latents={file}", f"engine.baseline={file}", f"output={tmp_path}/report"]
    assert main(["gate", *arguments]) == 2
    error = capsys.readouterr().err
    assert "give an .npz or .safetensors with states" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["engine.latents=x"], "engine.latents and engine.baseline go together"),
        (["engine.latents=x", "engine.baseline=y", "engine.command=[z]"], "were both given"),
        (["engine.command=[x]", "engine.scheduler=ddmi"], "engine.scheduler=ddmi was given; choose among"),
        (["engine.command=[x]", "engine.steps=[]"], "engine.steps is empty"),
        (["engine.command=[x]", "engine.path=straight"], "diffusion"),
        (["engine.latents=nowhere.npz", "engine.baseline=nowhere.npz"], "give an .npz or .safetensors file"),
    ],
)
def test_bad_settings_of_an_engine_are_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gate", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
