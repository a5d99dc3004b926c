"""Real servers, which `scripts/cluster/test-cluster` installs: an S3 store, and Slurm on this host."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import records_and_images
from sleeping import WORK, make_launch, make_runner_for

from bench.__main__ import main
from bench.store.store import Store
from bench.workers.leases import Leases
from bench.workers.local import ThisMachine
from bench.workers.loop import Loop, WorkerContext
from bench.workers.pool import WorkerPool
from bench.workers.status import read_status

pytestmark = pytest.mark.cluster
QUICK = ("measure.latency=false", "measure.memory=false", "prompts.count=8", "batch_size=2")
Overrides = Callable[..., list[str]]


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[bytes]]:
    """An S3 server with an empty bucket; its address and keys are in the environment."""
    pytest.importorskip("moto", reason="the S3 server comes with scripts/cluster/test-cluster")
    import boto3

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(300):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            boto3.client("s3").create_bucket(Bucket="bucket")
            yield process
        finally:
            process.kill()
            process.wait()


def test_a_run_in_a_bucket_equals_one_on_disk(
    server: object, overrides: Overrides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk, bucket = str(tmp_path / "disk"), "s3://bucket/run"
    for results in (disk, bucket):
        assert main(["run", *overrides(*QUICK, f"results={results}")]) == 0
    assert records_and_images(disk) == records_and_images(bucket)
    store = Store(bucket, writable=False)
    assert (store.read_bytes("report.html") or b"").startswith(b"<!doctype html>")
    assert store.read_bytes("grid.png")
    capsys.readouterr()
    assert main(["status", f"results={bucket}"]) == 0
    assert main(["run", *overrides(*QUICK, f"results={bucket}")]) == 0
    assert "4 of 4 cells are done already" in capsys.readouterr().err


def test_of_many_workers_that_commit_to_a_bucket_exactly_one_wins(server: object, tmp_path: Path) -> None:
    store = Store("s3://bucket/race")
    launch = make_launch(store, tmp_path / "log", 6, chunks=2, seconds=0.05)
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.workers.worker", store.location, launch.name, f"w{i}", str(i), WORK]
        )
        for i in range(3)
    ]
    assert [worker.wait(120) for worker in workers] == [0, 0, 0]
    begun = Counter(tuple(line.split()[:2]) for line in (tmp_path / "log").read_text().splitlines())
    assert len(begun) == 12
    assert set(begun.values()) == {1}
    assert {name.rpartition("/")[2] for name in store.files.tree("cells")} == {"record.json", "features-e.npz"}


def test_a_store_that_is_unreachable_for_a_while_costs_only_time(
    server: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    store = Store("s3://bucket/outage", store_retry_s=120)
    launch = make_launch(store, tmp_path / "log", 8, seconds=0.2, common={"store_retry_s": 120.0, "lease_s": 60.0})
    pool = WorkerPool(ThisMachine(store.location, launch.name, 2, (), WORK), store, launch.name)
    pool.reconcile(8)
    while not (tmp_path / "log").exists():
        time.sleep(0.1)
    server.send_signal(signal.SIGSTOP)
    time.sleep(8)
    server.send_signal(signal.SIGCONT)
    while pool.reconcile(8):
        time.sleep(0.1)
    pool.close()
    assert pool.deaths == 0
    assert read_status(store, launch, 1).left == 0
    assert all(record.status == "ok" for record in store.records())


@pytest.fixture
def slurm_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store on disk, where Slurm runs on this host."""
    if shutil.which("sbatch") is None or subprocess.run(["squeue"], capture_output=True, check=False).returncode:  # noqa: S607
        pytest.skip("needs Slurm, as scripts/cluster/test-cluster starts it")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    return Store(tmp_path / "run")


def run_array(
    store: Store, launch: Any, disturb: Callable[[int, WorkerPool], None] = lambda *_: None, **choice: Any
) -> WorkerPool:
    """Run a job array to its end; `disturb` gets the number of finished cells."""
    from bench.experiment.executors import Slurm
    from bench.workers.slurm import JobArray

    pool = WorkerPool(JobArray(store.location, launch.name, Slurm(**choice), WORK), store, launch.name)
    end = time.monotonic() + 400
    while pool.reconcile(len(launch.cells)):
        disturb(len(read_status(store, launch, 1).done), pool)
        assert time.monotonic() < end
        time.sleep(0.5)
    pool.close()
    return pool


def test_a_job_array_does_every_cell_once(slurm_store: Store, tmp_path: Path) -> None:
    launch = make_launch(slurm_store, tmp_path / "log", 12, seconds=0.3, groups=3)
    run_array(slurm_store, launch, workers=3)
    assert sum(record.status == "ok" for record in slurm_store.records()) == 12
    begun = Counter(line.split()[0] for line in (tmp_path / "log").read_text().splitlines())
    assert set(begun.values()) == {1}
    assert len({line.split()[2] for line in (tmp_path / "log").read_text().splitlines()}) > 1, "several workers"


def test_a_task_whose_process_is_killed_is_replaced(slurm_store: Store, tmp_path: Path) -> None:
    launch = make_launch(slurm_store, tmp_path / "log", 6, seconds=0.3, kill_once=[2, 4])
    pool = run_array(slurm_store, launch, workers=2)
    assert sum(record.status == "ok" for record in slurm_store.records()) == 6
    assert pool.deaths == 2


def test_another_driver_may_continue_after_one_dies(slurm_store: Store, tmp_path: Path) -> None:
    launch = make_launch(slurm_store, tmp_path / "log", 10, seconds=0.5)
    code = (
        "import sys, time; from bench.store.store import Store; from bench.workers.pool import WorkerPool\n"
        "from bench.workers.slurm import JobArray; from bench.experiment.executors import Slurm\n"
        f"s = Store({slurm_store.location!r}); executor = JobArray(s.location, 'launch', Slurm(workers=2), {WORK!r})\n"
        "c = WorkerPool(executor, s, 'launch')\n"
        "while c.reconcile(10): time.sleep(.5)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code])
    while not (tmp_path / "log").exists():
        time.sleep(0.1)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    context = WorkerContext()
    work, cells = make_runner_for(launch, slurm_store, context)
    list(Loop(work, slurm_store, Leases(slurm_store.files, "next", 5.0), launch.name, context).run(cells))
    assert sum(record.status == "ok" for record in slurm_store.records()) == 10


def test_a_task_whose_time_is_up_is_requeued(slurm_store: Store, tmp_path: Path) -> None:
    launch = make_launch(slurm_store, tmp_path / "log", 16, seconds=12, chunks=1)
    pool = run_array(slurm_store, launch, workers=1, minutes=2)
    assert sum(record.status == "ok" for record in slurm_store.records()) == 16
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    lives = len({line[2] for line in lines})
    assert lives > 1, "16 cells of 12 s do not fit into 2 minutes"
    assert len(lines) <= 16 + lives - 1, "only what each life was at is done again"
    assert pool.deaths == 0, "the same task went on"


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Return the settings of tasks and actors with one processor, since sums may round differently with more."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_same_experiment_here_and_in_a_job_array(
    overrides: Overrides, slurm_store: Store, tmp_path: Path, one_thread: None
) -> None:
    asked = *QUICK, "executor.chunk_images=4"
    here, there = tmp_path / "here", tmp_path / "there"
    assert main(["run", *overrides(*asked, f"results={here}")]) == 0
    array = "executor=slurm", "executor.workers=3", "executor.cpus=1", f"executor.folder={tmp_path}/jobs"
    assert main(["run", *overrides(*array, *asked, f"results={there}")]) == 0
    assert len(records_and_images(here)) == 4
    assert records_and_images(here) == records_and_images(there)


def test_the_same_experiment_here_and_on_ray_inside_an_allocation(
    overrides: Overrides, slurm_store: Store, tmp_path: Path, one_thread: None
) -> None:
    pytest.importorskip("ray")
    asked = *QUICK, "executor.chunk_images=4"
    here, there = tmp_path / "here", tmp_path / "there"
    assert main(["run", *overrides(*asked, f"results={here}")]) == 0
    root, tool = Path(__file__).parents[1], Path(sys.executable).with_name("tcd-bench")
    command = ["sbatch", "--wait", "--nodes=3", "--cpus-per-task=1", f"--output={tmp_path}/log"]
    command += [str(root / "scripts/cluster/ray-in-slurm"), *overrides(*asked, f"results={there}")]
    environment = {**os.environ, "TCD_BENCH": str(tool), "TCD_BENCH_HOST_IP": "127.0.0.1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert ran.returncode == 0, (tmp_path / "log").read_text() + ran.stderr
    assert records_and_images(here) == records_and_images(there)
