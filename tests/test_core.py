"""The core without the extra `full`: what conform and the pytest plugin need, and one sentence for everything else."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.experiment.compose import compose_settings
from bench.experiment.conform_settings import read_conform_settings
from bench.records.errors import BenchError

ROOT = Path(__file__).parents[1]
PROJECT: Any = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = {"diffusers", "numpy", "pyyaml", "scipy", "torch"}
ABSENT = (
    *("hydra", "omegaconf", "pydantic", "jinja2", "matplotlib", "pandas", "open_clip", "torchmetrics", "torchvision"),
    *("transformers", "peft", "accelerate", "cv2", "psutil", "threadpoolctl", "pynvml"),
)
"""What the extra installs and the core has to do without, by the names that are imported."""


def in_core(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process in which nothing of the extra `full` can be imported."""
    blocked = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.modules |= dict.fromkeys({ABSENT!r})\n"
    return subprocess.run([sys.executable, "-c", blocked + code], capture_output=True, text=True, cwd=cwd, check=False)


def test_the_core_needs_few_packages_and_no_newest_release() -> None:
    needed = {re.split(r"[<>=;\[ ]", text)[0].lower(): text for text in PROJECT["dependencies"]}
    assert needed.keys() == CORE
    assert not [text for text in needed.values() if "<" in text]
    assert needed["diffusers"] == "diffusers>=0.30"
    extras = PROJECT["optional-dependencies"]
    assert not [text for text in extras["full"] if text.startswith("diffusers") and "<" in text]
    assert {re.split(r"[<>=;]", text)[0] for text in extras["conform"]} == {"hypothesis", "covertable"}


def test_every_other_extra_has_the_whole_harness() -> None:
    extras = PROJECT["optional-dependencies"]

    def included(name: str) -> set[str]:
        named = [found[1] for text in extras[name] if (found := re.fullmatch(r"tcd-bench\[(.+)\]", text))]
        return {name, *(inner for group in named for one in group.split(",") for inner in included(one))}

    assert {name for name in extras if "full" not in included(name)} == {"conform"}


def test_conform_and_its_command_run_without_the_rest(tmp_path: Path) -> None:
    code = (
        "import bench\n"
        "from bench.__main__ import main\n"
        "import diffusers\n"
        "report = bench.conform(diffusers.SCMScheduler)\n"
        "report.write('baselines/scm.json')\n"
        "assert bench.conform(diffusers.SCMScheduler, baseline='baselines/scm.json').passed\n"
        "assert main(['conform', 'scheduler=scm', 'write=b.json']) == 0\n"
        "assert main(['conform', 'scheduler._target_=diffusers.SCMScheduler', 'baseline=baselines/scm.json']) == 0\n"
        "assert main(['conform', '--help']) == 0\n"
        "bench.frechet_distance, bench.Reference\n"
        "try:\n    bench.load\nexcept ModuleNotFoundError as error:\n    print(error)\n"
        "assert main(['run']) == 2\n"
        "assert main(['gate', 'baseline=x']) == 2\n"
    )
    done = in_core(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "bench.load needs pandas, which is not installed: pip install 'tcd-bench[full]'" in done.stdout
    said = re.findall(r"^error: tcd-bench (\w+) needs \w+, which is not installed: pip install", done.stderr, re.M)
    assert said == ["run", "gate"]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["scheduler=ddim"],
        ["scheduler=flow_euler", "scheduler.shift=1.5", "family=FlowMatchEulerDiscreteScheduler"],
        ["scheduler._target_=diffusers.UniPCMultistepScheduler", "scheduler.solver_order=3"],
        ["scheduler=tcd", "scheduler._target_=diffusers.LCMScheduler", "+scheduler.thresholding=true"],
        ["scheduler.trained_betas=[0.1,0.2]", "~scheduler.beta_end", "write=new/x.json", "baseline=null"],
    ],
)
def test_both_readers_of_settings_agree(arguments: list[str]) -> None:
    assert read_conform_settings(arguments) == compose_settings(arguments, "conform")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("steps=4", "no such setting; it takes scheduler"),
        ("scheduler=tdc", "did you mean tcd?"),
        ("scheduler.a.b=1", "no such setting"),
        ("baseline=nowhere.json", "does not exist"),
        ("--cfg=job", "need Hydra"),
        ("scheduler.trained_betas=[1,", "cannot be read"),
    ],
)
def test_the_reader_without_hydra_refuses_in_one_sentence(argument: str, said: str) -> None:
    with pytest.raises(BenchError) as refused:
        read_conform_settings([argument])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_class_without_a_file_is_examined_with_its_own_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conform", "scheduler._target_=diffusers.SCMScheduler"]) == 1
    assert "SCMScheduler" in capsys.readouterr().out
