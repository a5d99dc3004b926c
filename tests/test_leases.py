"""One worker at a time holds a lease, no worker waits for a dead one, and damaged files of workers are recognised."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from contended import ContendedLock

from bench.records.errors import BenchError
from bench.store.files import Files
from bench.store.local import LocalFiles
from bench.store.retrying import RetryingFiles
from bench.workers.launch import Launch, Reporter, WorkerState
from bench.workers.leases import Lease, Leases, expire_leases_of, new_worker_name

NAME = "cells/k/lease-00000"


class Clock:
    """Simulated time, which passes on request."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return LocalFiles(tmp_path)


def take(leases: Leases, name: str = NAME, reached: int = 0) -> Lease:
    """Take a lease that no other worker holds."""
    lease = leases.take(name, reached)
    assert lease is not None
    return lease


def change(files: Files, lease: Lease, **changes: object) -> None:
    """Change what the file of a lease says."""
    files.write(lease.file, json.dumps({**json.loads(files.read(lease.file)), **changes}).encode())


def test_of_two_workers_one_gets_a_lease_and_the_other_after_its_release(files: Files) -> None:
    a, b = Leases(files, "a"), Leases(files, "b")
    lease = take(a)
    assert b.take(NAME) is None
    a.release(lease, done=False)
    assert take(b).deaths == 0, "a release is not a death"


def test_no_file_of_a_lease_is_left_when_the_work_is_done(files: Files) -> None:
    a = Leases(files, "a")
    for done in (False, False, True):
        a.release(take(a), done)
    assert list(files.tree("cells")) == []


def test_of_many_workers_at_once_exactly_one_gets_a_lease(files: Files) -> None:
    with ThreadPoolExecutor(8) as pool:
        for round_ in range(20):
            name = f"cells/{round_}/lease-00000"
            taken = list(pool.map(lambda i, name=name: Leases(files, f"w{i}").take(name), range(8)))
            assert sum(lease is not None for lease in taken) == 1


def test_a_silent_lease_of_another_machine_expires_by_the_observers_clock(files: Files) -> None:
    clock = Clock()
    a, b = Leases(files, "a"), Leases(files, "b", lease_s=10, clock=clock)
    lease = take(a)
    change(files, lease, machine="elsewhere")
    assert b.take(NAME) is None
    clock.now = 9.9
    assert b.take(NAME) is None
    clock.now = 10.0
    assert take(b).deaths == 1


def test_a_lease_that_is_renewed_never_expires(files: Files) -> None:
    clock = Clock()
    a, b = Leases(files, "a"), Leases(files, "b", lease_s=10, clock=clock)
    lease = take(a)
    for second in range(0, 100, 5):
        clock.now = float(second)
        a.renew()
        change(files, lease, machine="elsewhere")
        assert b.take(NAME) is None


def test_a_lease_that_was_fresh_a_moment_ago_is_not_read_again(files: Files) -> None:
    clock = Clock()
    a, b = Leases(files, "a"), Leases(files, "b", lease_s=10, clock=clock)
    lease = take(a)
    change(files, lease, machine="elsewhere")
    assert b.take(NAME) is None
    expire_leases_of(files, "a")
    clock.now = 2.4
    assert b.take(NAME) is None
    clock.now = 2.5
    assert b.take(NAME) is not None


def test_an_old_listing_does_not_give_a_lease_twice(files: Files) -> None:
    a, b = Leases(files, "a"), Leases(files, "b")
    assert a.take(NAME, there={}) is not None
    assert b.take(NAME, there={}) is None


def test_a_renewal_under_way_does_not_bring_back_a_released_lease(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(LocalFiles):
        def write(self, name: str, content: bytes, durable: bool = True) -> None:
            begun.set()
            go_on.wait(300)
            super().write(name, content, durable)

    lock = ContendedLock()
    leases = Leases(Slow(tmp_path), "a", _lock=lock)  # type: ignore[arg-type]
    lease = take(leases)

    def let_go() -> None:
        leases.release(lease, True)
        lock.contended.set()  # where it did not wait for the beat

    beat, release = threading.Thread(target=leases.renew), threading.Thread(target=let_go)
    beat.start()
    begun.wait(300)
    release.start()
    lock.contended.wait(300)
    go_on.set()
    for thread in (beat, release):
        thread.join(300)
    assert list(LocalFiles(tmp_path).tree("cells")) == []


def test_a_dead_process_of_this_machine_is_noticed_at_once(files: Files, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from bench.workers.leases import *\n"
        "from bench.store.local import LocalFiles\n"
        f"assert Leases(LocalFiles(Path(sys.argv[1])), 'gone').take({NAME!r})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert take(Leases(files, "b")).deaths == 1


def test_a_later_process_with_the_same_number_is_a_different_process(files: Files) -> None:
    lease = take(Leases(files, "a"))
    note = json.loads(files.read(lease.file))
    assert note["pid"] == os.getpid()
    change(files, lease, born=note["born"] - 100)
    take(Leases(files, "b"))


def test_expired_leases_are_not_waited_for_and_deaths_are_counted(files: Files) -> None:
    clock = Clock()
    for deaths in range(3):
        lease = take(Leases(files, f"w{deaths}", clock=clock))
        assert lease.deaths == deaths
        change(files, lease, machine="elsewhere")
        expire_leases_of(files, f"w{deaths}")
    expire_leases_of(files, "somebody else")


def test_deaths_are_counted_from_zero_where_a_worker_got_further(files: Files) -> None:
    counted = []
    for reached in [0, 0, 0, 2, 2, 5]:
        counted.append(take(Leases(files, "w"), reached=reached).deaths)
        expire_leases_of(files, "w")
    assert counted == [0, 1, 2, 1, 2, 1]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\x00garbage", b"\xff", b"null", b"[]", b"{}", b"1e999", b"[" * 100_000),
        *({name: value} for name in ("pid", "born", "deaths", "progress", "state", "machine") for value in ("x", [1])),
        *({"pid": None}, {"pid": -1}, {"pid": 10**30}, {"deaths": None}, {"deaths": 1.5}, {"born": None}),
    ],
)
def test_a_malformed_lease_is_waited_for_like_a_silent_one(files: Files, content: bytes | dict[str, object]) -> None:
    clock = Clock()
    lease = take(Leases(files, "a"))
    if isinstance(content, dict):
        change(files, lease, **{"machine": "elsewhere", **content})
    else:
        files.write(lease.file, content)
    other = Leases(files, "b", lease_s=1, clock=clock)
    assert other.take(NAME) is None
    expire_leases_of(files, "a")
    clock.now = 2.0
    other.release(take(other), done=True)
    assert list(files.tree("cells")) == []


def test_a_holder_of_this_machine_that_dies_a_moment_after_it_was_seen_is_not_waited_for(files: Files) -> None:
    b = Leases(files, "b", clock=Clock())
    lease = take(Leases(files, "a"))
    assert b.take(NAME) is None
    change(files, lease, born=json.loads(files.read(lease.file))["born"] - 100)
    take(b)


def test_a_process_that_may_not_be_inspected_counts_as_alive(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Leases(files, "a").take(NAME) is not None
    b = Leases(files, "b")
    assert b.take("cells/k/lease-00001") is not None

    def refuse(_: object) -> float:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "create_time", refuse)
    assert b.take(NAME) is None


def test_only_held_leases_are_renewed_and_an_error_with_one_does_not_stop_the_others(tmp_path: Path) -> None:
    class Troubled(LocalFiles):
        def write(self, name: str, content: bytes, durable: bool = True) -> None:
            if name.startswith(NAME):
                raise OSError("the disk is full")
            super().write(name, content, durable)

    a = Leases(Troubled(tmp_path), "a")
    leases = [take(a, name) for name in (NAME, "cells/k/lease-00001")]
    before = [a.files.read(lease.file) for lease in leases]
    a.renew()
    after = [a.files.read(lease.file) for lease in leases]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False]


def test_only_held_leases_of_the_worker_that_died_expire(files: Files) -> None:
    names = [f"cells/k/lease-0000{i}" for i in range(3)]
    a, other = Leases(files, "a"), Leases(files, "other")
    held, let_go, others = take(a, names[0]), take(a, names[1]), take(other, names[2])
    a.release(let_go, done=False)
    expire_leases_of(files, "a")
    states = [json.loads(files.read(lease.file))["state"] for lease in (held, let_go, others)]
    assert states == ["dead", "released", "held"]


@pytest.mark.parametrize("wrong", [{"pid": "x"}, {"born": [1]}, {"deaths": "x"}, {"progress": "x"}, {"beat": None}])
def test_a_lease_with_a_field_of_another_type_is_not_believed(files: Files, wrong: dict[str, object]) -> None:
    lease = take(Leases(files, "a"))
    change(files, lease, **{"state": "dead", **wrong})
    assert Leases(files, "b").take(NAME) is None


def test_a_worker_whose_lease_expired_leaves_the_lease_of_its_successor(files: Files) -> None:
    a, b = Leases(files, "a"), Leases(files, "b")
    slow = take(a)
    expire_leases_of(files, "a")
    successor = take(b)
    a.release(slow, done=True)
    assert list(files.tree("cells")) == [successor.file]


@pytest.mark.parametrize("pid", [-1, 2**31, 10**30])
def test_an_impossible_process_counts_as_dead(files: Files, pid: int) -> None:
    lease = take(Leases(files, "a"))
    change(files, lease, pid=pid)
    take(Leases(files, "b"))


@pytest.mark.parametrize("name", ["lease-00000.²", "lease-00000.x", "lease-00000.", f"lease-00000.{10**30}"])
def test_a_file_that_is_not_a_lease_is_left_alone(files: Files, name: str) -> None:
    files.write(f"cells/k/{name}", b"")
    leases = Leases(files, "a")
    leases.release(take(leases), done=True)
    assert list(files.tree("cells")) == [f"cells/k/{name}"]


@pytest.mark.parametrize("store_retry_s", [0.0, 1.0])
def test_a_folder_in_place_of_a_lease_is_garbage(tmp_path: Path, store_retry_s: float) -> None:
    files: Files = RetryingFiles(LocalFiles(tmp_path), store_retry_s) if store_retry_s else LocalFiles(tmp_path)
    (tmp_path / f"{NAME}.0").mkdir(parents=True)
    clock = Clock()
    leases = Leases(files, "a", lease_s=1, clock=clock)
    assert leases.take(NAME) is None
    clock.now = 2.0
    leases.release(take(leases), done=True)
    assert list((tmp_path / "cells" / "k").iterdir()) == []


def test_workers_have_unique_names() -> None:
    assert len({new_worker_name() for _ in range(100)}) == 100


LAUNCH = Launch(
    "20261129-101500-abcdef", {"name": "x", "executor": {"max_attempts": 3}}, (0.5, 1.0), ("k1", "k2"), 4, 1.5
)


def test_a_launch_is_read_as_it_was_written(files: Files) -> None:
    LAUNCH.save(files)
    files.write("launches/.DS_Store", b"\x00")
    files.write("launches/zzz.txt", b"")
    assert Launch.latest(files) == LAUNCH


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"{}", json.dumps({**asdict(LAUNCH), "cells": 3}).encode(), b'{"name": "x"}']
)
def test_a_damaged_launch_is_refused_in_a_sentence(files: Files, content: bytes) -> None:
    files.write("launches/x.json", content)
    with pytest.raises(BenchError, match=r"launches/x.json is damaged; start the run again"):
        Launch.load(files, "x")


@pytest.mark.parametrize("changed", [{"since": "x"}, {"images": None}, {"state": 3}, [], "garbage"])
def test_a_damaged_state_of_a_worker_is_ignored(files: Files, changed: Any) -> None:
    for worker in ("a", "b"):
        Reporter(files, "l", worker, "cpu").say()
    (files.root / "workers" / "c.json").mkdir()  # type: ignore[attr-defined]
    damaged = {**json.loads(files.read("workers/a.json")), **changed} if isinstance(changed, dict) else changed
    files.write("workers/a.json", json.dumps(damaged).encode())
    assert [state.worker for state in WorkerState.all_of(files, "l")] == ["b"]
