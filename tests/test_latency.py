"""Latency is measured by an injected clock, of the whole call and of its parts, sample by sample."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.measure.latency import measure_latency
from bench.measure.reference_workload import ReferenceWorkload
from bench.measure.stopwatch import Stopwatch
from bench.records.record import Latency


class FakeProcessor:
    """A CPU with a simulated clock: work takes exactly as long as it says, and reading the clock takes no time."""

    def __init__(self) -> None:
        self.time_s = 100.0
        self.readings = 0

    def work(self, seconds: float) -> None:
        self.time_s += seconds

    def now_s(self) -> float:
        self.readings += 1
        return self.time_s

    def stopwatch(self) -> Stopwatch:
        return Stopwatch(self.now_s, lambda: None, None, "fake clock")


class FakeDevice(FakeProcessor):
    """A device that queues its work. Waiting for it takes as long as the queue, and `wait_s` on top."""

    def __init__(self, wait_s: float = 0.0) -> None:
        super().__init__()
        self.queued_s, self.wait_s = 0.0, wait_s

    def work(self, seconds: float) -> None:
        self.queued_s += seconds

    def synchronise(self) -> None:
        self.time_s += self.queued_s + self.wait_s
        self.queued_s = 0.0

    def stopwatch(self) -> Stopwatch:
        return Stopwatch(self.now_s, self.synchronise, lambda: FakeEvent(self), "fake events")


class FakeEvent:
    """Records the time at which the device reaches it, as a CUDA event does; milliseconds."""

    def __init__(self, device: FakeDevice) -> None:
        self.device = device

    def record(self) -> None:
        self.reached_s = self.device.time_s + self.device.queued_s

    def elapsed_time(self, end: FakeEvent) -> float:
        return (end.reached_s - self.reached_s) * 1000


class Part(torch.nn.Module):
    """A module whose uses take the given seconds, in turn; the last value repeats."""

    def __init__(self, processor: FakeProcessor, *seconds: float) -> None:
        super().__init__()
        self.processor, self.seconds, self.uses = processor, seconds, 0

    def forward(self) -> None:
        self.processor.work(self.seconds[min(self.uses, len(self.seconds) - 1)])
        self.uses += 1


def pipeline(parts: dict[str, Part], processor: FakeProcessor, steps: int) -> Callable[[], None]:
    """A call that uses the text encoder twice, the denoiser once per step, the decoder once; 0.25 s in addition."""

    def call() -> None:
        parts["text_encoder"]()
        parts["text_encoder"]()
        for _ in range(steps):
            parts["denoiser"]()
        processor.work(0.25)
        parts["vae"]()

    return call


def measure(call: Callable[[], object], parts: Mapping[str, torch.nn.Module], *rest: Any, **more: Any) -> Latency:
    """`measure_latency` where every part is one module."""
    return measure_latency(call, {name: [module] for name, module in parts.items()}, *rest, **more)


def three_parts(processor: FakeProcessor) -> dict[str, Part]:
    return {"text_encoder": Part(processor, 0.125), "denoiser": Part(processor, 0.5), "vae": Part(processor, 2.0)}


def test_the_reference_workload_is_timed_on_the_clock_of_latencies(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    monkeypatch.setattr(torch, "mm", lambda *_: device.work(0.5))
    state = torch.random.get_rng_state()
    workload = ReferenceWorkload(torch.device("cpu"), device.stopwatch())
    assert workload.time_s() == workload.time_s() == 0.5
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(("call_s", "calls"), [(0.0625, 4), (0.25, 1)])
def test_reference_workloads_are_interleaved_with_calls_and_each_call_has_their_time(call_s: float, calls: int) -> None:
    processor = FakeProcessor()
    took = itertools.count(1.0)
    made: list[str] = []

    def call() -> None:
        made.append("c")
        processor.work(call_s)

    def workload() -> float:
        made.append("w")
        seconds = next(took)
        processor.work(seconds)
        return seconds

    latency = measure(call, {}, processor.stopwatch(), 1, 6, 1, SimpleNamespace(time_s=workload))
    assert latency.call_s == (call_s,) * 6
    whole, rest = divmod(6, calls)
    runs = [calls] * whole + [rest] * (rest > 0)
    assert "".join(made) == "cww" + "".join("c" * run + "w" for run in runs)
    assert latency.workload_s == tuple(second + 2.5 for second, run in enumerate(runs) for _ in range(run))


@pytest.mark.parametrize("kind", [FakeProcessor, FakeDevice])
@pytest.mark.parametrize("steps", [1, 4])
def test_parts_are_summed_over_their_uses_in_a_call(kind: type[FakeProcessor], steps: int) -> None:
    processor = kind()
    parts = three_parts(processor)
    latency = measure(pipeline(parts, processor, steps), parts, processor.stopwatch(), 1, repeats=3, warmup=1)
    assert latency.text_encoder_s == (0.25,) * 3
    assert latency.denoiser_s == (0.5 * steps,) * 3
    assert latency.vae_s == (2.0,) * 3
    assert latency.call_s == (2.5 + 0.5 * steps,) * 3


def test_every_sample_is_kept_in_order_and_warm_up_is_not_among_them() -> None:
    processor = FakeProcessor()
    parts = {"denoiser": Part(processor, 64.0, 32.0, 3.0, 1.0, 2.0)}
    latency = measure(parts["denoiser"], parts, processor.stopwatch(), 1, repeats=3, warmup=2)
    assert latency.call_s == latency.denoiser_s == (3.0, 1.0, 2.0)


def test_warm_up_makes_the_same_call_that_is_measured() -> None:
    processor = FakeProcessor()
    parts = three_parts(processor)
    per_call: list[int] = []

    def call() -> None:
        before = parts["denoiser"].uses
        pipeline(parts, processor, steps=4)()
        per_call.append(parts["denoiser"].uses - before)

    latency = measure(call, parts, processor.stopwatch(), 1, repeats=3, warmup=2)
    assert per_call == [4] * (2 + 3)
    assert latency.warmup == 2


def test_a_device_is_warmed_up_then_timed_whole_and_in_parts_alternately() -> None:
    device = FakeDevice()
    parts = {"denoiser": Part(device, 64.0, 3.0, 1.0, 5.0, 7.0)}
    latency = measure(parts["denoiser"], parts, device.stopwatch(), 1, repeats=2, warmup=1)
    assert latency.call_s == (3.0, 5.0)
    assert latency.denoiser_s == (1.0, 7.0)


def test_a_part_that_is_not_used_or_not_named_took_no_time() -> None:
    processor = FakeProcessor()
    parts = {"denoiser": Part(processor, 0.5), "vae": Part(processor, 2.0)}
    latency = measure(parts["denoiser"], parts, processor.stopwatch(), 1, repeats=2, warmup=0)
    assert latency.vae_s == latency.text_encoder_s == (0.0, 0.0)


def test_the_protocol_is_written_down() -> None:
    processor = FakeProcessor()
    latency = measure(lambda: None, {}, processor.stopwatch(), batch_size=7, repeats=1, warmup=3)
    assert (latency.batch_size, latency.warmup, latency.clock) == (7, 3, "fake clock")


def test_device_events_give_the_device_time_and_whole_calls_do_not_wait_for_their_parts() -> None:
    device = FakeDevice(wait_s=0.5)
    parts = three_parts(device)
    latency = measure(pipeline(parts, device, 4), parts, device.stopwatch(), 1, repeats=2, warmup=1)
    assert latency.device_s == pytest.approx((4.5, 4.5))
    assert latency.call_s == (4.5 + 0.5,) * 2, "the only wait is the one for the end"


def test_without_device_events_there_is_no_device_time() -> None:
    processor = FakeProcessor()
    assert measure(lambda: None, {}, processor.stopwatch(), 1, repeats=2, warmup=0).device_s is None


def test_work_queued_before_a_call_is_not_counted_to_it() -> None:
    device = FakeDevice()
    device.work(1000.0)
    part = Part(device, 0.5)
    latency = measure(part, {"denoiser": part}, device.stopwatch(), 1, repeats=1, warmup=0)
    assert latency.call_s == latency.denoiser_s == latency.device_s == (0.5,)


def assert_no_hook_is_left(modules: Iterable[Part], processor: FakeProcessor) -> None:
    before = processor.readings
    for module in modules:
        module()
    assert processor.readings == before, "a hook still reads the clock"


@pytest.mark.parametrize("kind", [FakeProcessor, FakeDevice])
def test_hooks_are_removed_afterwards(kind: type[FakeProcessor]) -> None:
    processor = kind()
    parts = three_parts(processor)
    measure(pipeline(parts, processor, 1), parts, processor.stopwatch(), 1, repeats=1, warmup=1)
    assert_no_hook_is_left(parts.values(), processor)


def test_hooks_are_removed_after_a_call_that_fails() -> None:
    processor = FakeProcessor()
    parts = three_parts(processor)

    def call() -> None:
        parts["denoiser"]()
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        measure(call, parts, processor.stopwatch(), 1, repeats=1, warmup=0)
    assert_no_hook_is_left(parts.values(), processor)


def test_a_cpu_is_timed_by_the_host_clock_alone() -> None:
    stopwatch = Stopwatch.of(torch.device("cpu"))
    assert stopwatch.event is None
    assert stopwatch.name == "perf_counter"
    assert stopwatch.now_s() <= stopwatch.now_s()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_call_lasts_at_least_as_long_as_its_work_on_the_device() -> None:
    device = torch.device("cuda")
    layer = torch.nn.Linear(4096, 4096, device=device)
    rows = torch.ones(4096, 4096, device=device)
    stopwatch = Stopwatch.of(device)
    latency = measure(lambda: layer(rows), {"denoiser": layer}, stopwatch, 1, repeats=3, warmup=2)
    assert all(0 < on_device <= whole for on_device, whole in zip(latency.device_s, latency.call_s, strict=True))
    assert all(part > 0 for part in latency.denoiser_s)


def test_a_part_of_several_modules_is_their_sum() -> None:
    processor = FakeProcessor()
    encoders = [Part(processor, 0.5), Part(processor, 2.0)]

    def call() -> None:
        for encoder in encoders:
            encoder()

    latency = measure_latency(call, {"text_encoder": encoders}, processor.stopwatch(), 1, repeats=2, warmup=0)
    assert latency.text_encoder_s == (2.5, 2.5)
