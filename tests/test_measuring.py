"""The calls made to measure latency and memory of a cell, and when."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from factories import make_record
from test_sampling import make_cell

import bench.execute.cell_runner as runner
import bench.execute.measuring as measuring
from bench.__main__ import main
from bench.execute.measuring import measured
from bench.experiment.config import Measure


class Calls:
    """A sampler that records its calls, and which of them were watched for memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
        self.seen: list[str] = []
        self.memory = False
        vae = SimpleNamespace(encoder=torch.nn.Identity(), decoder=torch.nn.Identity())
        self.pipeline = SimpleNamespace(components={"unet": torch.nn.Identity()}, vae=vae, scheduler=None)
        self.cell = SimpleNamespace(device=device)
        whole = measuring.measure_memory

        def watched(call: Any, *_: Any, **more: Any) -> Any:
            self.memory = True
            try:
                return whole(call, torch.device("cpu"), 1, **more)
            finally:
                self.memory = False

        monkeypatch.setattr(measuring, "measure_memory", watched)

    def call(self, rows: range) -> None:
        self.seen.append("memory" if self.memory else "call")


def samplers_of(sampler: Calls) -> Any:
    """Returns this sampler for every cell."""
    return SimpleNamespace(sampler=lambda _: sampler, excluded_bytes=0, load_s=2.5)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("latency", "memory", "warmup", "calls"),
    [(True, True, 2, 5), (True, True, 1, 4), (True, True, 0, 3), (True, False, 1, 4), (False, True, 1, 0)],
)
def test_memory_is_measured_only_on_a_gpu_in_a_separate_call(
    models: Path, monkeypatch: pytest.MonkeyPatch, latency: bool, memory: bool, warmup: int, calls: int, device: str
) -> None:
    cell, sampler = replace(make_cell(models), device=device), Calls(monkeypatch, "cpu")
    samplers = samplers_of(sampler)
    monkeypatch.setattr(measuring, "alone_on", lambda _: nullcontext())
    wants_memory = memory and device == "cuda"
    first = wants_memory and not latency  # allocates what stays for later calls
    seen = ["call"] * (calls + first) + ["memory"] * wants_memory
    record = make_record(cell)
    measure = Measure(latency=latency, memory=memory, repeats=3, warmup=warmup)
    found = measured(record, measure, 7, samplers, None)
    assert sampler.seen == seen
    assert (found.latency is not None, found.memory is not None) == (latency, wants_memory)
    if found.latency:
        assert (found.latency.warmup, len(found.latency.call_s)) == (warmup, 3)
        assert (len(found.latency.warmup_s), found.load_s) == (warmup, 2.5)
    again = measured(found, measure, 7, samplers, None)
    assert again is found
    taken = measured(record, measure, 7, samplers, found)
    assert (taken.latency, taken.memory) == (found.latency, found.memory)
    assert sampler.seen == seen, "what is known is not measured again"


def test_figures_do_not_depend_on_the_order_of_cells(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, cells = Measure(latency=False), [replace(make_cell(models), steps=steps) for steps in (2, 4)]
    kept: list[bytes] = []  # what a process has once it did something stays in its resident set

    def figures(order: list[int]) -> list[Any]:
        found: dict[int, Any] = {}
        for i in order:
            kept.append(bytes(2**24))
            record = make_record(cells[i])
            found[i] = measured(record, measure, 7, samplers_of(Calls(monkeypatch, "cpu")), None).memory
        return [found[0], found[1]]

    assert figures([0, 1]) == figures([1, 0]) == [None, None]


@pytest.mark.parametrize(
    ("latency", "memory", "waits"), [(False, False, False), (False, True, False), (True, False, True)]
)
def test_a_run_that_measures_nothing_takes_no_device_lock(
    overrides: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, latency: bool, memory: bool, waits: bool
) -> None:
    asked: list[str] = []

    @contextmanager
    def noted(device: str) -> Iterator[None]:
        asked.append(device)
        yield

    monkeypatch.setattr(measuring, "alone_on", noted)
    monkeypatch.setattr(runner, "beside_others_on", noted)
    few = ("method=[tcd]", "methods.tcd.steps=[2]", "claim=[]", "scores=[]", "prompts.count=2")
    assert main(["run", *overrides(*few, f"measure.latency={latency}", f"measure.memory={memory}")]) == 0
    assert bool(asked) is waits
