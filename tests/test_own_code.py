"""A user's own scheduler is found in the current directory by every verb and worker, and no other module is."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.checkpoints.own_code import hash_own, load_own
from bench.generate.schedulers import make_scheduler
from bench.records.cell import SchedulerSpec
from bench.records.errors import BenchError
from bench.store.store import Store

Overrides = Callable[..., list[str]]
FORK = "import diffusers\n\n\nclass MyScheduler(diffusers.TCDScheduler):\n    pass\n"
HOSTILE = "from pathlib import Path\nPath({mark!r}).touch()\nraise ImportError('of the current directory')\n"


@pytest.fixture
def cwd(own_directory: Path) -> Path:
    """A current directory with a scheduler in the module own_fork."""
    (own_directory / "own_fork.py").write_text(FORK)
    return own_directory


def make(target: str) -> object:
    return make_scheduler(SchedulerSpec(target))


def test_a_module_and_a_package_of_the_current_directory_are_found(cwd: Path) -> None:
    path = list(sys.path)
    assert type(make("own_fork.MyScheduler")).__name__ == "MyScheduler"
    (cwd / "own_package").mkdir()
    (cwd / "own_package" / "__init__.py").write_text("from own_package.inside import MyScheduler\n")
    (cwd / "own_package" / "inside.py").write_text(FORK)
    assert type(make("own_package.MyScheduler")).__name__ == "MyScheduler"
    assert type(make("own_package.inside.MyScheduler")).__name__ == "MyScheduler"
    assert sys.path == path


def test_installed_modules_come_first_and_neighbouring_files_are_not_imported(cwd: Path) -> None:
    mark = cwd / "imported"
    for name in ("diffusers", "xformers", "own_helper"):
        (cwd / f"{name}.py").write_text(HOSTILE.format(mark=str(mark)))
    make("diffusers.TCDScheduler")
    (cwd / "own_fork.py").write_text(f"try:\n    import xformers\nexcept ImportError:\n    pass\n{FORK}")
    make("own_fork.MyScheduler")
    (cwd / "own_other.py").write_text(f"import own_helper\n{FORK}")
    with pytest.raises(BenchError, match="No module named 'own_helper'"):
        make("own_other.MyScheduler")
    assert not mark.exists()


@pytest.mark.parametrize("text", ["raise RuntimeError('no')", "def :", "import no_such_module", "raise SystemError"])
def test_a_module_that_cannot_be_imported_is_refused_in_a_sentence(cwd: Path, text: str) -> None:
    (cwd / "own_broken.py").write_text(text)
    for _ in range(2):  # nothing half imported is left
        with pytest.raises(BenchError, match=r"^scheduler 'own_broken.MyScheduler' cannot be imported \(.+\); give "):
            make("own_broken.MyScheduler")


def test_own_code_is_hashed_and_installed_code_is_not(cwd: Path) -> None:
    first = hash_own("own_fork.MyScheduler")
    assert len(first) == 16
    assert "own_fork" not in sys.modules
    load_own("own_fork.MyScheduler")
    assert hash_own("own_fork.MyScheduler") == first
    (cwd / "own_fork.py").write_text(FORK + "\n")
    assert hash_own("own_fork.MyScheduler") != first
    (cwd / "own_package" / "sub").mkdir(parents=True)
    (cwd / "own_package" / "__init__.py").touch()
    (cwd / "own_package" / "sub" / "a.py").touch()
    before = hash_own("own_package.sub.a.X")
    (cwd / "own_package" / "sub" / "a.py").write_text("x = 1\n")
    assert before is not None
    assert hash_own("own_package.sub.a.X") not in (None, before)
    for target in ("diffusers.TCDScheduler", "json.JSONDecoder", "numpy.float64", "math.sqrt", "nowhere.X", "X", ""):
        assert hash_own(target) is None


def test_a_scheduler_of_bench_is_not_hashed() -> None:
    """Else its cells would have other keys where tcd-bench is installed from its sources."""
    assert hash_own("bench.mini.flow_tcd.FlowTCDScheduler") is None


def test_plan_run_workers_and_conform_find_the_same_scheduler(
    cwd: Path, overrides: Overrides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "imported"
    (cwd / "bench").mkdir()
    for name in ("tqdm", "bench/__init__", "yaml", "hydra"):
        (cwd / f"{name}.py").write_text(HOSTILE.format(mark=str(mark)))
    own = "methods.tcd.scheduler._target_=own_fork.MyScheduler"
    chosen = ("method=[tcd]", "methods.tcd.steps=[2]", "methods.tcd.eta=[0.3]", "claim=[]", "prompts.count=2")
    quick = (*chosen, own, "scores=[]", "measure.latency=false", "measure.memory=false")
    assert main(["plan", *overrides(*quick)]) == 0
    assert main(["run", *overrides(*quick)]) == 0
    (here,) = Store(tmp_path / "run", writable=False).records()
    assert here.cell.versions["own_fork"] == hash_own("own_fork.MyScheduler")
    elsewhere = f"results={tmp_path}/workers"
    assert main(["run", *overrides(*quick, elsewhere, "executor.cell_timeout_s=3600")]) == 0, capsys.readouterr().err
    (there,) = Store(tmp_path / "workers", writable=False).records()
    assert (there.key, there.images) == (here.key, here.images)
    assert main(["conform", "scheduler._target_=own_fork.MyScheduler"]) in (0, 1)
    assert not mark.exists()
