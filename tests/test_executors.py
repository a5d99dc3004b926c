"""Workers here and elsewhere: every cell is done once or abandoned with its reason, whichever worker dies."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sleeping import WORK, make_cell, make_launch, make_runner_for, oversee, ray_here

import bench.workers.local
import bench.workers.loop
import bench.workers.worker
from bench.records.cell import Cell
from bench.records.errors import BenchError, StoreError
from bench.store.store import Store
from bench.workers.launch import Launch, Reporter, WorkerState
from bench.workers.leases import Leases
from bench.workers.local import Process, ThisMachine
from bench.workers.loop import Loop, Stopped, WorkerContext, from_group
from bench.workers.pool import Executor, WorkerPool
from bench.workers.status import describe, read_status
from bench.workers.worker import DONE, STOPPED, Worker, signals_stop


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return Store(tmp_path / "run")


def starts(tmp_path: Path) -> Counter[tuple[str, str]]:
    """Return how often each (cell, chunk) was begun."""
    lines = (tmp_path / "log").read_text().splitlines()
    return Counter((line.split()[0], line.split()[1]) for line in lines)


def here(store: Store, launch: Launch, name: str = "here", context: WorkerContext | None = None) -> Loop:
    """Return a loop in this process."""
    context = context or WorkerContext()
    work, _ = make_runner_for(launch, store, context)
    return Loop(work, store, Leases(store.files, name), launch.name, context)


def cells_of(launch: Launch) -> list[Any]:
    return make_runner_for(launch, None, WorkerContext())[1]  # type: ignore[arg-type]


def test_a_worker_that_ignores_its_termination_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.workers.local, "GRACE_S", 0.0)
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(20)"
    process = subprocess.Popen([sys.executable, "-c", ignore], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()  # it ignores from now on
    Process("w", process, tmp_path / "log").stop()
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()


def test_one_worker_does_all_work_and_leaves_no_files(store: Store, tmp_path: Path) -> None:
    launch = make_launch(store, tmp_path / "log", 5, chunks=3)
    assert len(list(here(store, launch).run(cells_of(launch)))) == 5
    assert set(starts(tmp_path).values()) == {1}
    assert len(starts(tmp_path)) == 15
    left = {name.rpartition("/")[2] for name in store.files.tree("cells")}
    assert left == {"record.json", "features-e.npz"}


def test_a_cell_that_fails_is_abandoned_in_this_launch_and_tried_again_in_the_next(
    store: Store, tmp_path: Path
) -> None:
    launch = make_launch(store, tmp_path / "log", 3, **{"raise": [1]})
    records = list(here(store, launch).run(cells_of(launch)))
    assert sorted(record.status for record in records) == ["error", "ok", "ok"]
    assert list(here(store, launch, "other").run(cells_of(launch))) == []
    again = make_launch(store, tmp_path / "log", 3, "again")
    assert [record.status for record in here(store, again).run(cells_of(again))] == ["ok"]


@pytest.mark.parametrize(("flow_s", "order"), [(2.5, "s0 s2 s4 f0 f2 f4 s6 f6 s1 s3 s5 f1 f3 f5"), (0, None)])
def test_cells_of_one_pipeline_are_sampled_without_a_pause_for_a_while_and_then_finished(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flow_s: float, order: str | None
) -> None:
    monkeypatch.setattr(bench.workers.loop, "FLOW_S", flow_s)
    launch, did, now = make_launch(store, tmp_path / "log", 7, groups=2), [], [0.0]
    context = WorkerContext()
    monkeypatch.setattr(context, "now_s", lambda: now[0])
    loop = here(store, launch, context=context)
    work: Any = loop.work
    sample, finish = work._sample, work.finish

    def sampling(cell: Any, chunk: range) -> None:
        did.append(f"s{cell.scheduler.settings['i']}")
        now[0] += 1
        sample(cell, chunk)

    def finishing(cell: Any) -> Any:
        did.append(f"f{cell.scheduler.settings['i']}")
        return finish(cell)

    work._sample, work.finish = sampling, finishing
    list(loop.run(cells_of(launch)))
    assert " ".join(did) == (order or "s0 f0 s2 f2 s4 f4 s6 f6 s1 f1 s3 f3 s5 f5")


def test_workers_begin_with_different_pipelines() -> None:
    cells = [make_cell(i, i % 3) for i in range(6)]
    assert [cell.scheduler.settings["i"] for cell in from_group(cells, 0)] == [0, 3, 1, 4, 2, 5]
    assert [cell.scheduler.settings["i"] for cell in from_group(cells, 2)] == [2, 5, 0, 3, 1, 4]
    assert from_group([], 3) == []


def test_a_worker_that_is_asked_to_stop_releases_its_leases(store: Store, tmp_path: Path) -> None:
    launch = make_launch(store, tmp_path / "log", 3)

    class StoppedAtTheSecondImage(WorkerContext):
        sampled = 0

        def progress(self, cell: Cell, images: int) -> None:
            self.sampled += images
            if self.sampled == 2:
                self.stop.set()

    with pytest.raises(Stopped):
        list(here(store, launch, context=StoppedAtTheSecondImage()).run(cells_of(launch)))
    assert list(store.records()) == []
    assert len(list(here(store, launch, "next").run(cells_of(launch)))) == 3
    assert set(starts(tmp_path).values()) == {1}, "what was sampled is not sampled again"


def test_two_runs_at_the_same_time_share_the_work(store: Store, tmp_path: Path) -> None:
    launches = [make_launch(store, tmp_path / "log", 12, name, chunks=2) for name in ("a", "b")]
    meeting = threading.Barrier(2, timeout=300)

    class Meeting(WorkerContext):
        sampled = 0

        def progress(self, cell: Cell, images: int) -> None:
            self.sampled += images
            if self.sampled <= 6:
                meeting.wait()  # for the other loop's chunk: both are sampled at once

    contexts = [Meeting(), Meeting()]
    loops = [here(store, launch, launch.name, context) for launch, context in zip(launches, contexts, strict=True)]
    done: list[list[Any]] = [[], []]
    threads = [
        threading.Thread(target=lambda i=i: done[i].extend(loops[i].run(cells_of(launches[i])))) for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert len(done[0]) + len(done[1]) == 12
    assert sum(context.sampled for context in contexts) == 24
    assert min(context.sampled for context in contexts) >= 6, "each did a fair part"
    assert set(starts(tmp_path).values()) == {1}, "nothing was done twice"


def test_an_error_of_the_store_is_not_a_failure_of_a_cell(store: Store, tmp_path: Path) -> None:
    launch = make_launch(store, tmp_path / "log", 1)
    loop = here(store, launch)

    def full(*_: Any) -> None:
        raise StoreError("the disk is full")

    loop.work.sample = full  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        list(loop.run(cells_of(launch)))
    assert list(store.records()) == []


def this_machine(store: Store, launch: Launch, workers: int) -> Executor:
    return ThisMachine(store.location, launch.name, workers, (), WORK)


EXECUTORS = pytest.mark.parametrize("executor", [this_machine, ray_here], ids=["processes", "ray"])
MakeExecutor = Callable[[Store, Launch, int], Executor]


@EXECUTORS
@pytest.mark.parametrize("ahead", [0, 3])
def test_every_cell_is_done_once_or_abandoned_with_its_reason_whichever_worker_dies(
    executor: MakeExecutor, store: Store, tmp_path: Path, ahead: int
) -> None:
    more = {"seconds": 0.02, "ahead": ahead, "raise": [6]}
    launch = make_launch(store, tmp_path / "log", 8, kill=[3], kill_once=[5], **more)
    pool = oversee(executor(store, launch, 2), store, launch)
    records = {record.cell.scheduler.settings["i"]: record for record in store.records()}
    assert sorted(records) == list(range(8))
    assert {i for i, record in records.items() if record.status != "ok"} == {3, 6}
    assert records[3].failure is not None
    assert "3 workers died at this cell" in records[3].failure.message
    assert records[6].failure is not None
    assert records[6].failure.message == "cell 6 cannot be done"
    begun = starts(tmp_path)
    assert (begun["3", "0"], begun["5", "0"], begun["1", "0"]) == (3, 2, 1)
    assert pool.deaths == 4


def test_a_cell_at_which_a_worker_died_is_done_before_the_next_ones(store: Store, tmp_path: Path) -> None:
    launch = make_launch(store, tmp_path / "log", 3, kill_once=[1], chunks=3, ahead=1)
    oversee(this_machine(store, launch, 1), store, launch)
    begun = [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()]
    assert "".join(begun) == "0001111222", "one chunk of cell 1 twice"


def test_a_cell_that_hangs_is_ended_and_recorded_with_its_stack(store: Store, tmp_path: Path) -> None:
    launch = make_launch(store, tmp_path / "log", 3, common={"cell_timeout_s": 5.0}, hang=[1])
    oversee(this_machine(store, launch, 1), store, launch)
    records = {record.cell.scheduler.settings["i"]: record for record in store.records()}
    assert [records[i].status for i in range(3)] == ["ok", "error", "ok"]
    failure = records[1].failure
    assert "longer than executor.cell_timeout_s=5 s" in failure.message
    assert "sleeping.py" in failure.traceback, "the stack says where it hung"
    assert starts(tmp_path)["1", "0"] == 1


def test_workers_that_cannot_begin_end_the_run_with_their_last_output(store: Store, tmp_path: Path) -> None:
    launch = make_launch(store, tmp_path / "log", 2)
    with pytest.raises(BenchError, match=r"3 workers in a row died before they began to work \(last output: .*no_such"):
        oversee(ThisMachine(store.location, launch.name, 1, (), "no_such:work"), store, launch)


def worker_command(store: Store, name: str) -> list[str]:
    return [sys.executable, "-m", "bench.workers.worker", store.location, "launch", name, "0", WORK]


def begun_worker(store: Store, log: Path) -> subprocess.Popen[bytes]:
    """A worker process that has begun its first cell."""
    process = subprocess.Popen(worker_command(store, "first"))
    while not log.exists():
        time.sleep(0.02)
    return process


def test_a_worker_that_is_asked_to_stop_exits_and_another_continues(store: Store, tmp_path: Path) -> None:
    make_launch(store, tmp_path / "log", 6, until_stopped=[0])
    process = begun_worker(store, tmp_path / "log")
    process.send_signal(signal.SIGTERM)
    assert process.wait(300) == 75
    assert [state.state for state in WorkerState.all_of(store.files, "launch")] == ["stopped"]
    assert subprocess.run(worker_command(store, "second"), check=False).returncode == 0
    assert sum(record.status == "ok" for record in store.records()) == 6


def test_status_shows_progress_of_a_run_and_of_each_worker(store: Store, tmp_path: Path) -> None:
    launch = make_launch(store, tmp_path / "log", 4, **{"raise": [2]})
    oversee(this_machine(store, launch, 1), store, launch)
    text = describe(read_status(store, launch, 1))
    assert "3 of 4 cells done, 0 begun, 1 failed" in text
    assert "finished" in text
    assert "model0 sleep 1 steps: cell 2 cannot be done" in text
    assert " done " in text
    silent = describe(read_status(store, make_launch(store, tmp_path / "log", 6, "later"), 1))
    assert "no worker is running; start the same command again" in silent


def test_no_worker_waits_for_a_process_that_was_killed_on_this_machine(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_launch(store, tmp_path / "log", 1, common={"lease_s": 100.0}, hang=[0])
    process = begun_worker(store, tmp_path / "log")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    well = make_launch(store, tmp_path / "log", 1)
    context = WorkerContext()
    monkeypatch.setattr(context, "sleep", lambda _: pytest.fail("it waits for a process that is dead on this machine"))
    loop = here(store, well, context=context)
    assert len(list(loop.run(cells_of(well)))) == 1


class FakeExecutor:
    """Capacity for three workers, which end with the code that a test gives them."""

    def __init__(self) -> None:
        self.workers: list[Any] = []

    def capacity(self) -> int:
        return 3

    def start(self, names: Sequence[str], first: int) -> list[Any]:
        new = [SimpleNamespace(name=name, code=None, last_log_line=str) for name in names]
        for worker in new:
            worker.poll = lambda worker=worker: worker.code
        self.workers += new
        return new


def test_a_pool_replaces_workers_that_stop_or_die_while_work_is_left(store: Store) -> None:
    executor: Any = FakeExecutor()
    pool = WorkerPool(executor, store, "launch")
    assert pool.reconcile(2)
    assert len(executor.workers) == 2, "not more than there are cells"
    for death in range(4):
        Reporter(store.files, "launch", executor.workers[-1].name, "cpu").enter("sampling", None)
        executor.workers[-1].code = -9
        assert pool.reconcile(2)
        assert pool.deaths == death + 1, "a worker that had begun to work did not fail to start"
    executor.workers[-1].code = STOPPED
    assert pool.reconcile(2)
    assert pool.deaths == 4
    assert [worker.name for worker in executor.workers] == [f"launch-{i}" for i in range(7)]
    executor.workers[0].code = executor.workers[-1].code = DONE
    assert not pool.reconcile(2), "nothing is left to do"


def test_signals_of_a_cluster_stop_a_worker_and_have_their_old_handlers_afterwards() -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        before = signal.getsignal(number)
        with signals_stop(stop):
            os.kill(os.getpid(), number)
            assert stop.wait(300)
        stop.clear()
        assert signal.getsignal(number) == before


@pytest.mark.parametrize("may_exit", [True, False])
def test_the_time_limit_is_that_of_the_current_cell(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_exit: bool
) -> None:
    launch, did = make_launch(store, tmp_path / "log", 1, common={"cell_timeout_s": 5.0}), []
    common: Any = SimpleNamespace(**launch.settings["executor"])
    worker = Worker(store=store, launch=launch, common=common, name="w", device="cpu", may_exit=may_exit)
    timer = SimpleNamespace(start=lambda: did.append("start"), cancel=lambda: did.append("cancel"))
    monkeypatch.setattr(bench.workers.worker.threading, "Timer", lambda *_: timer)
    (cell,) = cells_of(launch)
    worker.entering("sampling", cell)
    worker.entering("finishing", cell)
    worker.entering("waiting", None)
    assert did == ["start", "cancel"] * 2 * may_exit
