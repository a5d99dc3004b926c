"""What differs on a GPU, on a fake one: events, memory, CUDA graphs, out of memory, a lost device, noise of the GPU.

Tests of a real one are in test_on_a_gpu.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sleeping import WORK, make_launch
from standins import sdxl_pipeline
from test_executors import cells_of, here, store  # noqa: F401
from test_pipelines import Cramped
from test_sampling import PROMPTS, make_cell

import bench.generate.loaded_pipeline as loaded_pipeline
from bench.execute.cell_runner import Runner
from bench.execute.feature_extraction import FeatureSets
from bench.execute.job import resolve_concurrent_batches
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.generate.loaded_pipeline import Loaded
from bench.generate.pipelines import _compiled, _use_vae_in_float32, load_pipeline
from bench.generate.sampling import Sampler
from bench.measure.memory import NvmlGauge, OtherProcesses, poll_peaks
from bench.measure.stopwatch import Stopwatch
from bench.parallel import OneAlone
from bench.records.cell import plain
from bench.records.errors import BenchError, CellError
from bench.store.store import Store
from bench.workers.loop import DeviceLost
from bench.workers.worker import LOST, take_part

GPU = torch.device("cuda:1")


def test_events_are_recorded_on_the_stream_of_the_measured_device(monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            self.stream = stream

        def elapsed_time(self, later: Event) -> float:
            return 7.0 if (self.stream, later.stream) == ("stream of cuda:1",) * 2 else 0.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    begun, ended = (Stopwatch.of(GPU).event() for _ in range(2))  # type: ignore[misc]
    begun.record()
    ended.record()
    assert begun.elapsed_time(ended) == 7.0


class FakeMemory:
    """The bytes of tensors on a GPU, which loading a pipeline and other things increase."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.allocated = 1_000  # extractors
        patch.setattr(torch.cuda, "memory_allocated", lambda _: self.allocated)
        patch.setattr(loaded_pipeline, "load_pipeline", self.load)
        patch.setattr(loaded_pipeline, "SharedEvaluations", lambda *_: SimpleNamespace(used_bytes=0))
        patch.setattr(loaded_pipeline, "denoisers", lambda _: {})

    def load(self, _: Any) -> Any:
        self.allocated += 500_000
        return object()


def test_what_is_loaded_after_a_pipeline_is_not_its_memory_for_the_first_pipeline_either(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, cell = FakeMemory(monkeypatch), make_cell(models, device="cuda:1")
    first = Loaded(cell)
    assert first.excluded_bytes == 1_000
    memory.allocated += 30_000  # a depth estimator at its first use, workspaces of threads, cached embeddings
    assert first.excluded_bytes == 31_000
    memory.allocated -= 500_000
    assert Loaded(cell).excluded_bytes == 31_000, "as for the pipeline that is loaded next"


def test_the_use_of_a_device_is_unknown_while_another_process_computes_on_it() -> None:
    processes = [SimpleNamespace(pid=1, usedGpuMemory=9_000)]

    class NVMLError(Exception):
        """NVML's own."""

    def listed(_: Any) -> list[Any]:
        if not processes:
            raise NVMLError
        return processes

    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlMemory_v2=2,
        nvmlDeviceGetMemoryInfo=lambda *_: SimpleNamespace(used=12_000),
        nvmlDeviceGetComputeRunningProcesses=listed,
    )
    gauge = NvmlGauge(torch.device("cpu"), own_process=False)
    gauge._nvml, gauge._handle = nvml, None
    assert gauge() == 12_000
    processes.append(SimpleNamespace(pid=2, usedGpuMemory=3_000))
    with pytest.raises(OtherProcesses):
        gauge()
    with poll_peaks({"device": gauge}) as peaks:
        pass
    assert peaks == {}
    processes.clear()  # NVML does not list them in every virtual machine
    assert gauge() == 12_000


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_cuda_graphs_serve_one_batch_at_a_time(mode: str) -> None:
    graphs = ["experiment=smoke", f"models.mini.memory_options.compile={mode}"]
    check_experiment(compose_settings([*graphs, "concurrent_batches=auto"]))
    check_experiment(compose_settings([*graphs, "concurrent_batches=1"]))
    with pytest.raises(BenchError, match=r"concurrent_batches=3 was given, but models.mini.*records CUDA graphs"):
        check_experiment(compose_settings([*graphs, "concurrent_batches=3"]))
    assert resolve_concurrent_batches("auto", "cuda", graphs=True) == 1


def test_an_output_of_a_cuda_graph_outlives_the_next_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    static = torch.zeros(2)

    def fake_compile(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
        def replay(value: float) -> tuple[torch.Tensor]:
            return (static.fill_(value),)

        return replay

    monkeypatch.setattr(torch, "compile", fake_compile)
    for graphs, expected in ((True, 1.0), (False, 2.0)):
        call = _compiled(lambda value: value, "reduce-overhead", graphs)
        (first,) = call(1.0)
        call(2.0)
        assert float(first[0]) == expected


def test_a_vae_that_is_used_in_float32_is_cast_once_and_gives_the_image_of_the_pipeline_s_own_cast() -> None:
    torch.manual_seed(0)
    pipeline = sdxl_pipeline().to(torch.float16)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.register_to_config(force_upcast=True)
    casts: list[Any] = []
    to = pipeline.vae.to
    pipeline.vae.to = lambda *given, **named: casts.append(given or named) or to(*given, **named)

    def image() -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        given = {"height": 16, "width": 16, "num_inference_steps": 1, "guidance_scale": 0.0, "output_type": "pt"}
        with torch.inference_mode():
            found: torch.Tensor = pipeline(prompt="a red circle", generator=generator, **given).images
        return found

    own = image()
    assert len(casts) == 2, "there and back"
    _use_vae_in_float32(pipeline)
    casts.clear()
    once = image()
    assert (casts, once.dtype, pipeline.vae.dtype) == ([], torch.float32, torch.float32)
    assert float((once - own).abs().max()) < 2e-3, "but for the scaling of latents in half precision"
    encoded = pipeline.vae.encode(torch.zeros(1, 3, 16, 16, dtype=torch.float16)).latent_dist.mean
    assert encoded.dtype == torch.float32


def rows_of(most: int, calls: list[int]) -> Any:
    """A set of features that fits into memory for so many images."""

    def compute(images: Any, start: int, shared: dict[str, Any]) -> dict[str, Any]:
        calls.append(len(images))
        if len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"row": np.arange(start, start + len(images)), "mean": images.mean(axis=(1, 2, 3))}

    return compute


def test_extractors_that_do_not_fit_take_a_batch_in_halves() -> None:
    images = np.random.default_rng(0).integers(256, size=(7, 4, 4, 3), dtype=np.uint8)
    calls: list[int] = []
    found = FeatureSets({"a": rows_of(2, calls)}).extract(images, 10, ["a"])["a"]
    assert calls == [7, 3, 1, 2, 4, 2, 2]
    assert found["row"].tolist() == [*range(10, 17)]
    assert np.array_equal(found["mean"], images.mean(axis=(1, 2, 3)))


def test_images_of_one_prompt_are_not_separated_where_memory_is_short() -> None:
    images, calls = np.zeros((8, 4, 4, 3), np.uint8), list[int]()
    found = FeatureSets({"a": rows_of(4, calls)}, together=4).extract(images, 0, ["a"])["a"]
    assert calls == [8, 4, 4]
    assert found["row"].tolist() == [*range(8)]
    with pytest.raises(CellError, match="the extractors do not fit into the device's memory with 4 images at a time"):
        FeatureSets({"a": rows_of(3, calls)}, together=4).extract(images, 0, ["a"])


def test_a_batch_that_lacked_the_memory_of_extractors_is_sampled_whole_afterwards(models: Path) -> None:
    pipeline: Any = load_pipeline(make_cell(models))
    cramped = Cramped(pipeline, rows=2)
    sampler = Sampler(pipeline, make_cell(models), PROMPTS)

    @contextmanager
    def alone() -> Iterator[None]:
        rows, forward = len(PROMPTS), pipeline.unet.forward
        pipeline.unet.forward = type(pipeline.unet).forward.__get__(pipeline.unet)  # the memory is free
        yield
        pipeline.unet.forward = forward
        assert cramped.calls == [rows]

    sampler.alone = alone
    batch = sampler.sample(0)
    assert batch.calls.batch_size == 7
    assert batch.calls.scheduler_steps == 2, "the call that failed is not counted"


def test_a_thread_that_is_alone_waits_for_the_others_and_keeps_them_out() -> None:
    door, order, inside, leave = OneAlone(), list[str](), threading.Event(), threading.Event()

    def extract() -> None:
        with door.beside():
            inside.set()
            leave.wait(300)
            order.append("extracted")

    def later() -> None:
        with door.beside():
            order.append("extracted later")

    threads = [threading.Thread(target=extract)]
    threads[0].start()
    inside.wait(300)
    with door.beside():  # any number at once
        order.append("beside")
    leave.set()
    with door.alone():
        threads.append(threading.Thread(target=later))
        threads[1].start()
        threads[1].join(0.05)
        order.append("alone")
    for thread in threads:
        thread.join()
    assert order == ["beside", "extracted", "alone", "extracted later"]


def test_after_the_loss_of_the_device_one_cell_has_failed_and_the_others_are_left(
    store: Store,  # noqa: F811
    tmp_path: Path,
) -> None:
    launch = make_launch(store, tmp_path / "log", 4, ahead=2, lost=True, **{"raise": [1, 2]})
    ended = []
    with pytest.raises(DeviceLost, match="no kernel runs"):
        ended.extend(here(store, launch).run(cells_of(launch)))
    records = {record.cell.scheduler.settings["i"]: record.status for record in store.records()}
    assert records == {0: "ok", 1: "error"}, "cell 2 failed too, in the same process"
    assert take_part(store.location, launch.name, "next", work=WORK) == LOST
    records = {record.cell.scheduler.settings["i"]: record.status for record in store.records()}
    assert records[2] == "error"
    assert take_part(store.location, launch.name, "last", work=WORK) == 0
    records = {record.cell.scheduler.settings["i"]: record.status for record in store.records()}
    assert records == {0: "ok", 1: "error", 2: "error", 3: "ok"}


def test_a_device_is_lost_where_it_cannot_even_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, waited = Runner.__new__(Runner), list[str]()
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    assert runner.lost_device("cpu") is runner.lost_device("cuda:1") is None
    assert waited == ["cuda:1"]

    def broken(_: str) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    assert runner.lost_device("cuda") == "CUDA error: device-side assert triggered"


def test_noise_of_the_device_is_a_separate_axis_and_changes_stochastic_steps_alone(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(device: str, *more: str) -> Any:
        monkeypatch.setattr("bench.execute.job.resolve_device", lambda *_, **__: device)
        from bench.execute.job import plan_job

        return plan_job(check_experiment(compose_settings(["experiment=smoke", *more]))).plan.cells[0]

    assert planned("cpu", "noise=device").key == planned("cpu").key, "the host is the device"
    host, device = planned("cuda"), planned("cuda", "noise=device")
    assert (host.noise, device.noise) == ("host", "device")
    assert host.key != device.key
    assert "noise" not in plain(host), "at its default it is in no file and no hash"
    pipeline: Any = load_pipeline(make_cell(models))
    for eta, equal in ((0.3, False), (0.0, True)):
        ours, other = (
            Sampler(pipeline, make_cell(models, noise=noise, eta=eta), PROMPTS).sample(0).images
            for noise in ("host", "device")
        )
        assert np.array_equal(ours, other) is equal, "the latents are the same"
    cell = make_cell(models, noise="device", batch_size=2)
    parts = [Sampler(pipeline, cell, PROMPTS).sample(start).images for start in (6, 0, 2, 4)]
    together = Sampler(pipeline, replace(cell, batch_size=7), PROMPTS).sample(0).images
    joined = np.concatenate([*parts[1:], parts[0]])
    assert np.abs(joined.astype(int) - together).max() <= 1, "each image has its own noise"
