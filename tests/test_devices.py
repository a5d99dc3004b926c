"""The device of a run, the devices of its workers, and waits for a device."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import bench.execute.device_lock as device_lock
from bench.execute.device_lock import alone_on, beside_others_on, lock_name
from bench.execute.job import resolve_device
from bench.measure import environment
from bench.measure.environment import cuda_devices, gpu_of, machine_fingerprint, visible_gpus
from bench.records.errors import BenchError
from bench.workers.local import ThisMachine

UUIDS = [f"GPU-{i}0000000-0000-0000-0000-000000000000" for i in range(4)]
Machine = Any


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine of four GPUs in NVML; torch sees the requested number, in CUDA's order."""

    def make(seen_by_torch: list[int]) -> None:
        gpus = [{"name": f"G{i}", "memory_bytes": i, "driver": "1", "uuid": uuid} for i, uuid in enumerate(UUIDS)]
        monkeypatch.setattr(environment, "nvidia_devices", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(seen_by_torch))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(seen_by_torch))
        monkeypatch.setattr(
            torch.cuda,
            "get_device_properties",
            lambda device: SimpleNamespace(
                name="torch's", total_memory=7, uuid=UUIDS[seen_by_torch[device.index or 0]].removeprefix("GPU-")
            ),
        )

    return make


def test_auto_selects_a_device_that_torch_can_use(machine: Machine) -> None:
    machine([0, 1, 2, 3])
    assert resolve_device("auto") == "cuda"
    assert resolve_device("cuda:3") == "cuda:3"
    machine([])  # a build for processors, or CUDA_VISIBLE_DEVICES=""
    assert resolve_device("auto") == "cpu"
    for wanted in ("cuda", "cuda:0"):
        with pytest.raises(BenchError, match=rf"^device={wanted} was given, but torch can use no GPU"):
            resolve_device(wanted)
    assert resolve_device("cuda", here=False) == "cuda", "another machine's"


@pytest.mark.parametrize("wanted", ["cuda:9", "cuda:1"])
def test_a_gpu_that_is_hidden_is_refused_before_anything_runs(machine: Machine, wanted: str) -> None:
    machine([2])
    with pytest.raises(BenchError, match=rf"^device={wanted} was given, but torch can use 1 GPUs"):
        resolve_device(wanted)


@pytest.mark.parametrize("wanted", ["cuda:", "cuda:x", "cuda:-1", "cpu:0", "cpus", "mps", "", "cuda:0:1"])
def test_an_invalid_device_is_refused(machine: Machine, wanted: str) -> None:
    machine([0])
    with pytest.raises(BenchError, match=r"choose auto, cpu, cuda or cuda:<index>"):
        resolve_device(wanted)


def test_without_a_gpu_torch_is_not_imported_for_detection() -> None:
    code = (
        "import sys, bench.measure.environment as e; e.nvidia_devices = lambda: []\n"
        "from bench.execute.job import resolve_device\n"
        "print(resolve_device('auto'), e.cuda_devices(), e.visible_gpus(), 'torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["cpu", "0", "[]", "False"]


@pytest.mark.parametrize(
    ("given", "seen", "expected"),
    [
        (None, [0, 1, 2, 3], ["0", "1", "2", "3"]),
        ("2,3", [2, 3], ["2", "3"]),
        (f"{UUIDS[3]}, {UUIDS[1]}", [3, 1], [UUIDS[3], UUIDS[1]]),
        ("MIG-a,MIG-b", [0], ["MIG-a"]),
        ("1,-1,2", [1], ["1"]),
        ("", [], []),
    ],
)
def test_workers_get_the_gpus_that_the_user_was_given(
    machine: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
    seen: list[int],
    expected: list[str],
) -> None:
    machine(seen)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == expected
    started: list[str | None] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *_, env, **__: started.append(env.get("CUDA_VISIBLE_DEVICES")))
    executor = ThisMachine(str(tmp_path), "launch", 3, visible_gpus())
    executor.start(["a", "b", "c"], 0)
    executor.start(["d"], 3)
    assert started == ([expected[i % len(expected)] for i in range(4)] if expected else [given] * 4)
    executor.close()


@pytest.mark.parametrize(("workers", "given", "threads"), [(1, None, None), (2, None, "4"), (2, "7", "7")])
def test_worker_processes_share_the_cores_unless_the_user_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, given: str | None, threads: str | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    started: list[str | None] = []
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, env, **__: started.append(env.get("OMP_NUM_THREADS")))
    executor = ThisMachine(str(tmp_path), "launch", workers)
    executor.start(["a"], 0)
    executor.close()
    assert started == [threads]


def test_the_gpu_in_use_is_recorded_and_no_other(machine: Machine) -> None:
    machine([2, 3])
    assert cuda_devices() == 2
    for device, number in (("cuda", 2), ("cuda:0", 2), ("cuda:1", 3)):
        gpu = gpu_of(device)
        assert (gpu["name"], gpu["uuid"]) == (f"G{number}", UUIDS[number])
        assert machine_fingerprint(device)["gpus"] == [{"name": f"G{number}", "memory_bytes": number, "driver": "1"}]
    assert machine_fingerprint("cpu")["gpus"] == []


def test_a_lock_is_named_by_the_gpu_itself(machine: Machine) -> None:
    machine([0, 1, 2, 3])
    third = lock_name("cuda:2")
    machine([2])
    assert lock_name("cuda") == lock_name("cuda:0") == third
    assert lock_name("cpu") == "cpu"
    assert third == UUIDS[2], "characters that no file name may have are replaced, and no others"


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of locks, which does not exist yet."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(device_lock, "_said", set())
    return tmp_path / f"tcd-bench-{os.getuid()}"


HOLDER = """
import sys
from bench.execute.device_lock import alone_on, beside_others_on
with {how}("cpu"):
    print("in", flush=True)
    sys.stdin.read()
"""


def hold(locks: Path, how: str) -> subprocess.Popen[str]:
    """Another process that holds the device until its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(how=how), "a run of somebody"],
        env={**os.environ, "TMPDIR": str(locks.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "in\n"
    return process


@pytest.mark.parametrize("how", ["alone_on", "beside_others_on"])
def test_a_wait_is_reported_once_for_all_threads_and_names_the_process(
    locks: Path, capfd: pytest.CaptureFixture[str], how: str
) -> None:
    holder, got = hold(locks, how), list[str]()

    def take() -> None:
        for _ in range(2):
            with alone_on("cpu") if how == "beside_others_on" else beside_others_on("cpu"):
                got.append("in")

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    said = ""
    deadline = time.monotonic() + 600  # against hanging for ever
    while "Waiting" not in said and time.monotonic() < deadline:
        said += capfd.readouterr().err
        time.sleep(0.01)
    assert got == []
    holder.communicate()
    for thread in threads:
        thread.join()
    said += capfd.readouterr().err
    assert len(got) == 16
    assert said.count("Waiting") == 1, said
    assert f"process {holder.pid} (" in said
    assert "-c" in said, "the beginning of its command"
    assert said.endswith(f"{'measures' if how == 'alone_on' else 'samples or measures'} on cpu\n")


def test_measuring_is_exclusive_and_sampling_is_shared(locks: Path) -> None:
    order: list[str] = []
    asked = threading.Event()

    def measure() -> None:
        asked.set()
        with alone_on("cpu"):
            order.append("measured")

    measurer = threading.Thread(target=measure)
    with beside_others_on("cpu"), beside_others_on("cpu"):
        measurer.start()
        asked.wait()
        with alone_on("other"):
            order.append("sampled")  # another device is another matter
    measurer.join()
    assert order == ["sampled", "measured"]


def test_the_folder_of_locks_is_the_users_own(locks: Path) -> None:
    for _ in range(2):
        with alone_on("cpu"):
            pass
        assert locks.stat().st_mode & 0o777 == 0o700
        locks.chmod(0o777)


def test_a_folder_or_lock_that_is_a_link_or_of_another_user_is_refused(
    locks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    locks.symlink_to(elsewhere)
    with pytest.raises(BenchError, match=r"the folder of device locks .* cannot be used"), alone_on("cpu"):
        pass
    assert list(elsewhere.iterdir()) == []
    locks.unlink()
    locks.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (locks / "cpu-door.lock").symlink_to(victim)
    with pytest.raises(BenchError, match=r"the lock .*cpu-door.lock cannot be opened"), beside_others_on("cpu"):
        pass
    assert victim.read_text() == "precious"
    (locks / "cpu-door.lock").unlink()
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    (tmp_path / "tcd-bench-4711").mkdir()
    with pytest.raises(BenchError, match="belongs to another user"), alone_on("cpu"):
        pass


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"pid": "x"}', json.dumps({"pid": 10**30}).encode()])
def test_a_lock_file_of_any_content_locks(locks: Path, content: bytes) -> None:
    locks.mkdir(mode=0o700)
    (locks / "cpu-door.lock").write_bytes(content)
    holder = os.open(locks / "cpu-door.lock", os.O_RDWR)
    device_lock._tell(holder, "measures on cpu")
    os.close(holder)
    with alone_on("cpu"):
        pass
