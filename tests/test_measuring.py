"""Which calls a cell's latency and memory take, and when."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from test_sampling import make_cell

import bench.execute.measuring as measuring
from bench.execute.measuring import measured
from bench.experiment.config import Measure
from bench.generate.sampling import Sampler
from bench.records import Record


class Calls:
    """A sampler that notes its calls, and which of them were watched for memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
        self.seen: list[str] = []
        self.memory = False
        vae = SimpleNamespace(encoder=torch.nn.Identity(), decoder=torch.nn.Identity())
        self.pipeline = SimpleNamespace(unet=torch.nn.Identity(), vae=vae, scheduler=None)
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


@pytest.mark.parametrize(
    ("latency", "memory", "warmup", "calls"),
    [
        (True, True, 2, ["memory", *["call"] * 4]),
        (True, True, 1, ["memory", *["call"] * 3]),
        (True, True, 0, [*["call"] * 3, "memory"]),
        (True, False, 1, ["call"] * 4),
        (False, True, 1, ["memory"]),
        (False, False, 1, []),
    ],
)
def test_memory_is_measured_in_the_warm_up(
    models: Path, monkeypatch: pytest.MonkeyPatch, latency: bool, memory: bool, warmup: int, calls: list[str]
) -> None:
    cell, sampler = make_cell(models), Calls(monkeypatch, "cpu")
    record = Record(cell.key, cell, "ok", {}, 1.0)
    measure = Measure(latency=latency, memory=memory, repeats=3, warmup=warmup)
    found = measured(record, measure, 7, lambda: cast(Sampler, sampler), lambda: 0, None)
    assert sampler.seen == calls
    assert (found.latency is not None, found.memory is not None) == (latency, memory)
    if found.latency:
        assert (found.latency.warmup, len(found.latency.call_s)) == (warmup, 3)
    again = measured(found, measure, 7, lambda: cast(Sampler, sampler), lambda: 0, None)
    assert again is found
    lent = measured(record, measure, 7, lambda: cast(Sampler, sampler), lambda: 0, found)
    assert (lent.latency, lent.memory) == (found.latency, found.memory)
    assert sampler.seen == calls, "what is known is not measured again"
