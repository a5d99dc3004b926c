"""A run from end to end on small models: records, resume, failure, and a kill at any place."""

import functools
import inspect
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from factories import records_and_images

import bench.__main__
import bench.generate.loaded_pipeline
from bench.__main__ import main
from bench.execute.job import load_job
from bench.generate import sampling
from bench.records.errors import BenchError, CellError
from bench.records.record import Record
from bench.store.store import Store
from bench.workers.launch import Launch
from bench.workers.worker import Worker

Overrides = Callable[..., list[str]]
PACKAGE = Path(__file__).parents[1] / "bench"
QUICK = ("measure.latency=false", "measure.memory=false")


def load(directory: Path) -> dict[str, Record]:
    return {record.cell.label: record for record in Store(directory, writable=False).records()}


def test_a_run_leaves_records_scores_tables_plots_grid_and_page(overrides: Overrides, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["run", *overrides()]) == 0
    lines = [Record.from_json(line) for line in (run / "records.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert all(record.status == "ok" for record in lines)
    record = next(record for record in lines if record.cell.label == "mini dpmpp_2s 4 steps guidance 3")
    assert record.calls.denoiser_evaluations == 8
    assert record.calls.orders == (1, 2, 1, 2)
    assert record.calls.arguments["guidance_scale"] == 3.0
    assert record.calls.scheduler_config["final_sigmas_type"] == "sigma_min"
    assert len(record.latency.call_s) == 1
    parts = record.latency.text_encoder_s[0] + record.latency.denoiser_s[0] + record.latency.vae_s[0]
    assert 0 < parts <= record.latency.call_s[0]
    assert record.memory is None, "on a processor the memory of a call is unknown"
    images = sorted((run / "cells" / record.key / "images").iterdir())
    assert [path.name for path in images] == [f"{i:05d}.png" for i in range(6)]
    for name in ("scores.csv", "report.html", "grid.png", "tables/scores.md", "plots/mini-quality-evaluations.svg"):
        assert (run / name).stat().st_size > 0
    assert "fid_mini_n6" in (run / "scores.csv").read_text()


def test_resuming_a_finished_run_samples_nothing(
    overrides: Overrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["run", *overrides(*QUICK)]) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cells").rglob("*")}
    monkeypatch.setattr(bench.generate.loaded_pipeline, "Loaded", lambda _: pytest.fail("a model was loaded"))
    assert main(["run", *overrides(*QUICK)]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cells").rglob("*")}


def test_later_requests_are_added_to_the_records(overrides: Overrides, tmp_path: Path) -> None:
    assert main(["run", *overrides(*QUICK)]) == 0
    plain = load(tmp_path / "run")
    assert main(["run", *overrides()]) == 0
    richer = load(tmp_path / "run")
    for label, record in plain.items():
        assert record.latency is None
        assert richer[label].latency is not None
        assert richer[label].reproducible() == record.reproducible()


def test_another_experiment_in_the_directory_is_refused_and_the_first_report_stays(
    overrides: Overrides, tmp_path: Path, models: Path, other_extractor: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *overrides(*QUICK)]) == 0
    outputs = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for override, said in (
        ("seed=1", "seed is 0 there and 1 here"),
        (f"extractors.mini.source={other_extractor}", f"is {models}/evaluator there and {other_extractor} here"),
    ):
        for verb in ("plan", "run"):
            capsys.readouterr()
            assert main([verb, *overrides(*QUICK, override)]) == 2
            shown = capsys.readouterr()
            assert shown.out == ""
            assert len(shown.err.splitlines()) == 1
            assert said in shown.err
    assert outputs == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_results_no_longer_requested_stay_in_every_output(overrides: Overrides, tmp_path: Path) -> None:
    assert main(["run", *overrides(*QUICK, "scores=[fid,sharpness]", "claim=[]")]) == 0
    first = (tmp_path / "run" / "scores.csv").read_text().splitlines()
    assert main(["run", *overrides(*QUICK, "scores=[kid]", "claim=[]", "method=[ddim]", "methods.ddim.steps=[2]")]) == 0
    after = (tmp_path / "run" / "scores.csv").read_text().splitlines()
    assert set(first) <= set(after)
    assert len(after) == len(first) + 4 * 1 + 3, "a score more for four cells, and a cell with three scores"
    assert len((tmp_path / "run" / "records.jsonl").read_text().splitlines()) == 5
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "sharpness_pixels_n6" in page


def test_looks_at_claims_are_counted_as_the_images_grow(overrides: Overrides, tmp_path: Path) -> None:
    looks = []
    for count in (5, 10, 20):
        assert main(["run", *overrides(*QUICK, f"prompts.count={count}")]) == 0
        assert main(["report", f"results={tmp_path}/run"]) == 0
        looks.append(Store(tmp_path / "run", writable=False).run().history(count))
    assert looks == [((5, 5),), ((5, 5), (10, 10)), ((5, 5), (10, 10), (20, 20))]


def test_a_failed_cell_is_recorded_the_others_run_and_the_next_run_tries_again(
    overrides: Overrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quantise = sampling.quantise

    def black_at_four_steps(images: Any, rows: Any) -> Any:
        return quantise(images * 0 if own.failing else images, rows)

    own = threading.local()
    begin = sampling.Sampler.begin

    def watched(self: sampling.Sampler, start: int) -> Any:
        own.failing = self.cell.steps == 4 and self.cell.method == "tcd"
        return begin(self, start)

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "quantise", black_at_four_steps)
        patch.setattr(sampling.Sampler, "begin", watched)
        assert main(["run", *overrides(*QUICK)]) == 1
    assert "image 0 is all black" in capsys.readouterr().err
    records = load(tmp_path / "run")
    failed = records["mini tcd 4 steps eta 0.3"]
    assert failed.status == "error"
    assert failed.failure.kind == "CellError"
    assert "Traceback" in failed.failure.traceback
    assert sum(record.status == "ok" for record in records.values()) == 3
    page = (tmp_path / "run" / "report.html").read_text()
    assert "image 0 is all black" in page
    assert main(["run", *overrides(*QUICK)]) == 0
    assert all(record.status == "ok" for record in load(tmp_path / "run").values())


def test_a_cell_that_failed_on_a_worker_which_joined_the_run_fails_the_run(
    overrides: Overrides, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def elsewhere(self: Worker, make_runner: Any) -> Iterator[Iterator[Record]]:
        work, cells = make_runner(self.launch, self.store, self)
        for cell in cells:
            work.fail(cell, CellError("failed on another machine"))
        yield iter(())

    monkeypatch.setattr(Worker, "records", elsewhere)
    few = ("method=[tcd]", "methods.tcd.steps=[2]", "claim=[]", "scores=[]", "prompts.count=2")
    assert main(["run", *overrides(*QUICK, *few)]) == 1
    assert "failed on another machine" in capsys.readouterr().err


def test_keeping_the_grid_only_leaves_the_first_images(overrides: Overrides, tmp_path: Path) -> None:
    assert main(["run", *overrides(*QUICK, "keep=grid", "prompts.count=20", "method=[tcd]", "claim=[]")]) == 0
    for record in load(tmp_path / "run").values():
        assert len(list((tmp_path / "run" / "cells" / record.key / "images").iterdir())) == 8


def test_prompts_from_a_file(overrides: Overrides, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n<script>alert(1)</script>\n$x_1$ & 50% {of} \\all\nfour\n", encoding="utf-8")
    more = (f"prompts.source={prompts}", "prompts.count=4", "scores=[fid,clip_score]", "claim=[]")
    assert main(["run", *overrides(*QUICK, *more)]) == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


KILLED = """
import inspect, json, os, random, signal, sys
from bench.__main__ import main
from bench.execute import cell_runner, job, run as _  # once, for all runs
from bench.store.local import LocalFiles
from bench.store.store import Store

OURS = (inspect.getfile(Store), os.path.dirname(inspect.getfile(LocalFiles)))

def traced(last):  # kills the process at that line of what writes and reads a run's files
    seen = [0]
    def trace(frame, event, arg):
        seen[0] += event == "line"
        if seen[0] == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(lambda frame, *rest: trace(frame, *rest) if frame.f_code.co_filename.startswith(OURS) else None)
    return seen

def run(results, last=-1):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        lines = traced(last)
        code = main([*json.loads(sys.argv[1]), f"results={results}"])
        sys.settrace(None)
        os.write(write, str(lines[0]).encode())
        os._exit(code)
    os.close(write)
    with os.fdopen(read) as said:
        lines = int(said.read() or 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), lines

_, undisturbed, killed, ended = sys.argv[1:]
code, lines = run(undisturbed)
assert code == 0
dice = random.Random(0)
places = [dice.uniform(0.02, 0.28) for _ in range(4)]  # a run that only reads what is there takes more
codes = [run(killed, int(lines * place))[0] for place in places] + [run(killed)[0]]
with open(ended, "w") as file:
    json.dump(codes, file)
"""


def frames_of_ours() -> list[str]:
    """The functions of this package on the calling thread's stack, the innermost first."""
    found, frame = [], inspect.currentframe()
    while frame is not None:
        if Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
            found.append(frame.f_code.co_name)
        frame = frame.f_back
    return found


@pytest.mark.parametrize("concurrent_batches", [1, 2])
def test_at_most_eleven_frames_lie_between_the_command_and_a_call_of_the_pipeline(
    overrides: Overrides, monkeypatch: pytest.MonkeyPatch, concurrent_batches: int
) -> None:
    """Counts `main`, what calls the pipeline, and every frame of this package between them, for all calls of a run:
    those that sample images and those that are timed.

    With several concurrent batches a batch is sampled in a separate thread: its frames count, and those of the thread
    that gave it the batch, at that moment. A generator counts where it is running, not where it is suspended. Frames of
    libraries do not count, such as those of torch's and contextlib's decorators.
    """
    from diffusers import StableDiffusionPipeline

    stacks: set[tuple[str, ...]] = set()
    own = threading.local()
    call, submit = StableDiffusionPipeline.__call__, ThreadPoolExecutor.submit

    @functools.wraps(call)
    def watched(self: Any, *arguments: Any, **more: Any) -> Any:
        stacks.add((*frames_of_ours(), *getattr(own, "giver", ())))
        return call(self, *arguments, **more)

    def submitted(pool: ThreadPoolExecutor, work: Any, *arguments: Any) -> Any:
        giver = frames_of_ours()

        def begun(*arguments: Any) -> Any:
            own.giver = giver
            return work(*arguments)

        return submit(pool, begun, *arguments)

    monkeypatch.setattr(StableDiffusionPipeline, "__call__", watched)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", submitted)
    assert main(["run", *overrides(f"concurrent_batches={concurrent_batches}")]) == 0
    assert {stack[-1] for stack in stacks} == {"main"}
    assert {stack[0] for stack in stacks} == {"_try_part", "call"}, "images were sampled, and calls were timed"
    assert max(map(len, stacks)) <= 11, max(stacks, key=len)


@pytest.mark.slow
def test_a_run_killed_at_random_places_ends_with_the_same_records_and_images(
    overrides: Overrides, tmp_path: Path
) -> None:
    undisturbed, killed, ended = tmp_path / "undisturbed", tmp_path / "killed", tmp_path / "ended"
    arguments = ["run", *overrides(*QUICK, "batch_size=2", "prompts.count=8", "executor.max_attempts=9")]
    command = [sys.executable, "-c", KILLED, json.dumps(arguments), *map(str, (undisturbed, killed, ended))]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    codes = json.loads(ended.read_text())
    assert codes[-1] == 0
    assert codes.count(-signal.SIGKILL) >= 3, codes
    assert records_and_images(killed) == records_and_images(undisturbed)
    assert not list((killed / "cells").rglob("*partial"))


def test_the_report_is_made_from_records_alone(overrides: Overrides, tmp_path: Path) -> None:
    assert main(["run", *overrides()]) == 0
    run = tmp_path / "run"
    page = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    code = (
        "import sys; from bench.__main__ import main\n"
        f"assert main(['report', 'results={run}']) == 0\n"
        "print(json.dumps([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules]))"
    )
    ran = subprocess.run([sys.executable, "-c", "import json\n" + code], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout.splitlines()[-1]) == []
    assert (run / "report.html").read_bytes() == page, "the same records give the same page, byte for byte"


@pytest.mark.slow
def test_worker_processes_give_the_same_records_and_images(overrides: Overrides, tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    small = (*QUICK, "prompts.count=8", "batch_size=2")
    assert main(["run", *overrides(*small, f"results={alone}")]) == 0
    chunks = ("executor.workers=2", "executor.chunk_images=4")
    assert main(["run", *overrides(*small, *chunks, f"results={shared}")]) == 0
    assert records_and_images(shared) == records_and_images(alone)
    assert (shared / "report.html").exists()


def test_a_worker_whose_installation_differs_cannot_take_part(overrides: Overrides, tmp_path: Path) -> None:
    assert main(["run", *overrides(*QUICK)]) == 0
    launch = Launch.latest(Store(tmp_path / "run").files)
    assert set(load_job(launch).run.cells) == set(launch.cells)
    with pytest.raises(BenchError, match="1 of 5 cells of this launch differ on"):
        load_job(replace(launch, cells=(*launch.cells, "f" * 16)))


def test_the_status_of_a_finished_run(overrides: Overrides, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", f"results={tmp_path}/run"]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main(["run", *overrides(*QUICK)]) == 0
    assert main(["status", f"results={tmp_path}/run"]) == 0
    assert "4 of 4 cells done" in capsys.readouterr().out
