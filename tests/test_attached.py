"""Child processes end with their parent and import nothing from the current directory."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from sleeping import WORK, make_launch, oversee, ray_here

import bench.workers.attached
from bench.store.store import Store
from bench.workers.attached import GRACE_S, ORPHANED, end_with_parent
from bench.workers.installation import this_installation
from bench.workers.local import ThisMachine
from bench.workers.pool import WorkerPool

DRIVER = """
import sys, time
from bench.workers.local import ThisMachine
executor = ThisMachine(sys.argv[1], "launch", 2, (), "sleeping:make_runner_for")
workers = executor.start(["a", "b"], 0)
print(*(worker.process.pid for worker in workers), flush=True)
time.sleep(3600)
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return Store(tmp_path / "run")


def test_workers_end_when_their_driver_is_killed(store: Store, tmp_path: Path) -> None:
    make_launch(store, tmp_path / "log", 2, until_stopped=[0, 1])
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, store.location], stdout=subprocess.PIPE, text=True)
    workers = [psutil.Process(int(pid)) for pid in driver.stdout.readline().split()]
    assert len(workers) == 2
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(workers, timeout=600)
    assert alive == []
    assert list(store.records()) == [], "they did not just come to their end"


def test_a_child_that_does_not_exit_is_killed_after_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    did: list[object] = []
    reads = threading.Semaphore(0)

    def counted_read(descriptor: int, size: int) -> bytes:
        reads.release()
        return os.read(descriptor, size)

    instead = SimpleNamespace(
        read=counted_read, getpid=os.getpid, kill=lambda *what: did.append(what), _exit=did.append, sleep=did.append
    )
    monkeypatch.setattr(bench.workers.attached, "os", instead)
    monkeypatch.setattr(bench.workers.attached, "time", instead)
    thread = end_with_parent(read)
    os.write(write, b"what is written does not matter")
    assert all(reads.acquire(timeout=600) for _ in range(2)), "it reads again after what was written"
    assert did == []
    os.close(write)
    thread.join(300)
    assert did == [(os.getpid(), signal.SIGTERM), GRACE_S, ORPHANED]
    os.close(read)


def test_an_attached_module_runs_as_with_python_m() -> None:
    here = this_installation()
    command = here.command("platform", "--terse", attached=True)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=here.environment(), stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        said = process.stdout.read(), process.stderr.read()
        assert process.wait() == 0
    assert said[0].strip()
    assert said[1] == ""


HOSTILE = "from pathlib import Path\nPath({mark!r}).touch()\nraise ImportError('of the current directory')\n"


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create modules of well-known names in the current directory that write a mark when imported; returns the mark."""
    directory, mark = tmp_path / "cwd", tmp_path / "imported"
    (directory / "bench").mkdir(parents=True)
    for name in ("tqdm.py", "bench/__init__.py", "json.py", "numpy.py", "psutil.py", "pip.py", "ray.py", "torch.py"):
        (directory / name).write_text(HOSTILE.format(mark=str(mark)))
    monkeypatch.chdir(directory)
    return mark


def test_workers_import_nothing_from_the_current_directory(
    store: Store, tmp_path: Path, hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}{os.pathsep}")  # the empty entry is this directory
    launch = make_launch(store, tmp_path / "log", 2)
    oversee(ThisMachine(store.location, launch.name, 2, (), WORK), store, launch)
    assert [record.status for record in store.records()] == ["ok", "ok"]
    assert not hostile.exists()


def addresses(process: psutil.Process) -> set[str]:
    """Return what a process listens on; empty where it has ended."""
    with suppress(psutil.NoSuchProcess):
        found = process.net_connections("inet")
        return {each.laddr.ip.removeprefix("::ffff:") for each in found if each.status == psutil.CONN_LISTEN}
    return set()


def test_a_local_ray_cluster_is_reachable_only_locally_and_imports_nothing_from_the_current_directory(
    tmp_path: Path, hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    store = Store("run")  # relative to a directory that is not on the workers' import path
    launch = make_launch(store, tmp_path / "log", 2)
    pool = WorkerPool(ray_here(store, launch, 1), store, launch.name)
    try:
        while pool.reconcile(2):
            time.sleep(0.05)
        listening = {address for process in psutil.Process().children(recursive=True) for address in addresses(process)}
    finally:
        pool.close()
    assert [record.status for record in store.records()] == ["ok", "ok"]
    assert listening == {"127.0.0.1"}
    assert not hostile.exists()
