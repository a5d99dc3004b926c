"""What only a CUDA device can tell; scripts/gpu-session runs these tests first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_sampling import PROMPTS, make_cell

from bench.generate.loaded_pipeline import Loaded
from bench.generate.pipelines import load_pipeline
from bench.generate.sampling import Sampler
from bench.generate.task_inputs import Inputs
from bench.measure.latency import measure_latency
from bench.measure.memory import NvmlGauge, measure_memory
from bench.measure.stopwatch import Stopwatch
from bench.parallel import ThreadedCalls
from bench.records.cell import Cell, Task

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
MIB = 2**20


def gpu_cell(models: Path, **changes: Any) -> Cell:
    """A cell of the small model on the GPU; changes of `memory_options` and `dtype` are those of its base."""
    of_base = {name: changes.pop(name) for name in ("memory_options", "dtype") if name in changes}
    cell = make_cell(models, **{"device": "cuda", **changes})
    return replace(cell, base=replace(cell.base, **of_base))


def sampled(cell: Cell, start: int = 0) -> Any:
    return Sampler(load_pipeline(cell), cell, PROMPTS).sample(start)


def apart(ours: Any, theirs: Any) -> float:
    """The mean difference of two images' pixels."""
    return float(np.abs(ours.images.astype(int) - theirs.images).mean())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_time_and_memory_on_a_second_device_are_those_of_that_device() -> None:
    device = torch.device("cuda:1")
    matrix = torch.ones(8192, 8192, device=device)
    call = lambda: torch.mm(matrix, matrix)  # noqa: E731
    latency = measure_latency(call, {}, Stopwatch.of(device), 1, repeats=3, warmup=1)
    assert latency.device_s is not None
    assert all(0.5 * whole < own <= whole for own, whole in zip(latency.device_s, latency.call_s, strict=True))
    memory = measure_memory(call, device, 1)
    assert memory.allocated_bytes is not None
    assert memory.allocated_bytes >= 2 * matrix.nbytes


def test_time_on_the_device_is_most_of_the_time_of_a_long_product() -> None:
    device = torch.device("cuda")
    matrix = torch.ones(8192, 8192, device=device)
    latency = measure_latency(lambda: torch.mm(matrix, matrix), {}, Stopwatch.of(device), 1, repeats=3, warmup=1)
    assert latency.device_s is not None
    assert all(0.5 * whole < own <= whole for own, whole in zip(latency.device_s, latency.call_s, strict=True))


def test_what_is_loaded_later_and_workspaces_of_threads_are_not_memory_of_a_call(models: Path) -> None:
    cell = gpu_cell(models)
    loaded = Loaded(cell)
    sampler = loaded.sampler(cell, PROMPTS, Inputs(Task(), "", 1, 64, 64))

    def peak() -> int:
        sampler.call(range(1))
        memory = measure_memory(
            lambda: sampler.call(range(1)), torch.device("cuda"), 1, excluded_bytes=loaded.excluded_bytes
        )
        assert memory.allocated_bytes is not None
        return memory.allocated_bytes

    before = peak()
    estimator = torch.ones(64 * MIB, dtype=torch.uint8, device="cuda")
    calls = ThreadedCalls(4)
    for row in range(8):
        [*calls.call(lambda row: sampler.call(range(row % 7, row % 7 + 1)).shape, row)]
    list(calls.rest())
    calls.close()
    assert abs(peak() - before) < MIB
    del estimator


@pytest.fixture
def capped() -> Iterator[Any]:
    """A function that limits what this process may allocate, to so many bytes more than it has."""

    def cap(more: int) -> None:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties("cuda").total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + more) / total)

    yield cap
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def test_a_batch_that_does_not_fit_for_real_is_sampled_in_halves(models: Path, capped: Any) -> None:
    prompts = PROMPTS * 64
    cell = gpu_cell(models, batch_size=len(prompts))
    sampler = Sampler(load_pipeline(cell), cell, prompts)
    peaks = []
    for rows in (len(prompts) // 4, len(prompts)):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        expected = sampler.call(range(rows))
        peaks.append(torch.cuda.max_memory_allocated() - before)
    capped(int(0.4 * peaks[0] + 0.6 * peaks[1]))
    batch = sampler.sample(0)
    assert batch.calls.batch_size in (len(prompts) // 2, len(prompts) // 4)
    assert np.abs(batch.images.astype(int) - expected).mean() < 1


LOST = """
import torch
from bench.execute.cell_runner import Runner
runner = Runner.__new__(Runner)
print(runner.lost_device("cuda"))
try:
    torch.ones(2**50, device="cuda")
except torch.OutOfMemoryError:
    print(runner.lost_device("cuda"))
try:
    torch.zeros(2, device="cuda")[torch.tensor([7], device="cuda")].cpu()
except RuntimeError:
    print(runner.lost_device("cuda"))
"""


def test_only_an_error_that_ends_the_context_loses_the_device() -> None:
    shown = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, check=False).stdout
    first, after_memory, after_assert = shown.splitlines()
    assert (first, after_memory) == ("None", "None")
    assert "CUDA error" in after_assert


@pytest.mark.parametrize("options", [{"compile": "reduce-overhead"}, {"compile": "default", "offload": "model"}])
def test_a_compiled_model_gives_nearly_the_images_of_the_eager_one(models: Path, options: dict[str, str]) -> None:
    eager = sampled(gpu_cell(models))
    cell = gpu_cell(models, memory_options=options)
    sampler = Sampler(load_pipeline(cell), cell, PROMPTS)
    assert apart(sampler.sample(0), eager) < 1
    assert apart(sampler.sample(0), eager) < 1, "a replay"


def test_noise_of_the_device_is_each_image_s_own(models: Path) -> None:
    cell = gpu_cell(models, noise="device")
    whole, pipeline = sampled(cell), load_pipeline(cell)
    part = Sampler(pipeline, replace(cell, batch_size=2), PROMPTS).sample(4)
    assert np.abs(part.images.astype(int) - whole.images[4:6]).mean() < 1
    assert apart(whole, sampled(gpu_cell(models))) > apart(whole, sampled(cell)), "other noise than the host's"
    still = gpu_cell(models, eta=0.0)
    assert apart(sampled(still), sampled(replace(still, noise="device"))) < 0.01, "the same latents"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gives_nearly_the_images_of_single(models: Path, dtype: str) -> None:
    assert apart(sampled(gpu_cell(models, dtype=dtype)), sampled(gpu_cell(models))) < 8


OTHER = """
import sys, torch
kept = torch.ones(64 * 2**20, dtype=torch.uint8, device="cuda")
print("there", flush=True)
sys.stdin.read()
"""


def test_the_whole_device_s_use_is_unknown_beside_another_process() -> None:
    torch.ones(1, device="cuda")
    gauge = NvmlGauge(torch.device("cuda"), own_process=False)
    alone = gauge()
    other = subprocess.Popen([sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "there\n"
    try:
        processes = gauge._nvml.nvmlDeviceGetComputeRunningProcesses(gauge._handle)
        if len(processes) < 2:
            pytest.skip("NVML does not list processes here")
        memory = measure_memory(lambda: None, torch.device("cuda"), 1)
        assert (alone is None or alone > 0, memory.device_bytes) == (True, None)
    finally:
        other.communicate()


@pytest.mark.slow
def test_two_workers_on_one_gpu_give_the_images_of_one(overrides: Any, tmp_path: Path) -> None:
    hashes = []
    for name, more in (("one", ()), ("two", ("executor=local", "executor.workers=2"))):
        results = tmp_path / name
        given = overrides("device=cuda", f"results={results}", "measure.latency=false", *more)
        subprocess.run([sys.executable, "-m", "bench", "run", *given], check=True, capture_output=True)
        from bench.store.store import Store

        records = Store(results, writable=False).records()
        assert all(record.status == "ok" for record in records)
        hashes.append({record.key: record.images_hash for record in records})
    assert hashes[0] == hashes[1]
