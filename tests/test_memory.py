"""Peak memory is the maximum of the gauges; values that no gauge reports are None, never 0."""

from __future__ import annotations

import threading

import pytest
import torch

from bench.measure.memory import Gauge, NvmlGauge, measure_memory, poll_peaks
from bench.records.record import Memory

CPU = torch.device("cpu")


class Use:
    """Bytes in use, set by a call and read by a gauge; signals when a value was seen."""

    def __init__(self, value: int | None) -> None:
        self.value = value
        self.seen = threading.Event()

    def __call__(self) -> int | None:
        value = self.value
        if threading.current_thread() is not threading.main_thread():
            self.seen.set()
        return value

    def hold_until_seen(self, value: int | None) -> None:
        """Use this many bytes until the polling thread has read them."""
        self.value = value
        for _ in range(2):  # the first reading may have begun before the value was set
            self.seen.clear()
            assert self.seen.wait(timeout=300), "no poll while the call runs"


def polling_threads() -> int:
    return sum(thread.daemon for thread in threading.enumerate())


@pytest.mark.parametrize("which", ["process_bytes", "device_bytes"])
def test_a_peak_in_the_midst_of_a_call_is_seen(which: str) -> None:
    use = Use(1_000)

    def call() -> None:
        use.hold_until_seen(9_000)
        use.value = 2_000

    gauges: dict[str, Gauge] = {which: use}
    memory = measure_memory(call, CPU, 4, **gauges)
    assert getattr(memory, which) == 9_000
    assert memory.batch_size == 4


def test_a_call_shorter_than_the_polling_period_is_read_at_both_ends() -> None:
    rising, falling = Use(1), Use(8)
    with poll_peaks({"rising": rising, "falling": falling}, period_s=3600):
        rising.value, falling.value = 5, 2
    with poll_peaks({"rising": rising, "falling": falling}, period_s=3600) as peaks:
        rising.value, falling.value = 7, 1
    assert peaks == {"rising": 7, "falling": 2}


def test_a_gauge_without_data_gives_none_and_not_zero() -> None:
    memory = measure_memory(lambda: None, CPU, 1, process_bytes=Use(None), device_bytes=Use(None))
    assert (memory.process_bytes, memory.device_bytes) == (None, None)


def test_a_processor_has_no_device_memory() -> None:
    assert measure_memory(lambda: None, CPU, 1) == Memory(1, None, None, None, None)


def test_a_device_that_uses_nothing_uses_zero_bytes() -> None:
    assert measure_memory(lambda: None, CPU, 1, device_bytes=Use(0)).device_bytes == 0


def test_a_gauge_that_falls_silent_does_not_lose_its_peak() -> None:
    use = Use(6_000)

    def call() -> None:
        use.value = None

    assert measure_memory(call, CPU, 1, device_bytes=use).device_bytes == 6_000


def test_the_call_is_made_once() -> None:
    calls: list[int] = []
    measure_memory(lambda: calls.append(1), CPU, 1)
    assert calls == [1]


def test_a_failing_call_raises_and_leaves_no_thread_behind() -> None:
    before = polling_threads()
    during: list[int] = []

    def call() -> None:
        during.append(polling_threads())
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        measure_memory(call, CPU, 1)
    assert during == [before + 1]
    assert polling_threads() == before


class FakeAllocator:
    """Simulates PyTorch's CUDA allocator: queued work takes its memory when it is waited for."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.peak = 77_000
        self.queued: list[int] = []
        patch.setattr(torch.cuda, "synchronize", self.synchronise)
        patch.setattr(torch.cuda, "empty_cache", lambda: None)
        patch.setattr(torch.cuda, "reset_peak_memory_stats", self.reset)
        patch.setattr(torch.cuda, "max_memory_allocated", lambda _: self.peak)
        patch.setattr(torch.cuda, "max_memory_reserved", lambda _: 2 * self.peak)

    def synchronise(self, device: torch.device) -> None:
        self.peak, self.queued = max(self.peak, *self.queued, 0), []

    def reset(self, device: torch.device) -> None:
        self.peak = 0


def test_the_allocator_s_peaks_are_those_of_this_call_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = FakeAllocator(monkeypatch)
    allocator.queued.append(55_000)

    def call() -> None:
        allocator.queued.append(3_000)

    memory = measure_memory(call, torch.device("cuda"), 1, process_bytes=Use(None), device_bytes=Use(None))
    assert memory.allocated_bytes == 3_000, "neither what ran before, nor only what was done when the call returned"
    assert memory.reserved_bytes == 6_000


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("own_process", [True, False])
def test_without_a_gpu_nvml_says_none(own_process: bool) -> None:
    assert NvmlGauge(torch.device("cuda"), own_process=own_process)() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_peak_of_a_known_tensor_on_a_gpu_is_its_size() -> None:
    device, size = torch.device("cuda"), 512 * 2**20
    torch.ones(2 * size, dtype=torch.uint8, device=device)  # an earlier, greater peak
    before = torch.cuda.memory_allocated(device)
    memory = measure_memory(lambda: torch.ones(size, dtype=torch.uint8, device=device), device, 1)
    assert memory.allocated_bytes - before == pytest.approx(size, rel=0.01)
    assert memory.reserved_bytes >= memory.allocated_bytes
    assert memory.device_bytes is None or memory.device_bytes >= memory.allocated_bytes


def test_excluded_memory_is_subtracted_from_the_gpu_s_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = FakeAllocator(monkeypatch)

    def call() -> None:
        allocator.queued.append(9_000)

    gauges: dict[str, Gauge] = {"process_bytes": Use(11_000), "device_bytes": Use(12_000)}
    memory = measure_memory(call, torch.device("cuda"), 1, **gauges, excluded_bytes=4_000)
    peaks = memory.allocated_bytes, memory.reserved_bytes, memory.process_bytes, memory.device_bytes
    assert peaks == (5_000, 14_000, 7_000, 8_000)
    assert memory.excluded_bytes == 4_000
    plain = measure_memory(call, torch.device("cuda"), 1, **gauges)
    assert (plain.allocated_bytes, plain.excluded_bytes) == (9_000, 0)
