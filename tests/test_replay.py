"""A replay gives the module's own bits, or is not used."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_sampling import PROMPTS, make_cell

import bench.generate.replay as replay
from bench.execute.lanes import side_by_side
from bench.generate.pipelines import load_pipeline
from bench.generate.replay import COMPARED, Replayed, replay_models, replaying
from bench.generate.sampling import Sampler


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "RECORD_AFTER", 2)


def calls_until_replayed() -> int:
    return replay.RECORD_AFTER + COMPARED


def call(module: torch.nn.Module, *tensors: torch.Tensor) -> Any:
    with replaying(), torch.inference_mode():
        return module(*tensors)


@pytest.mark.parametrize("guidance", [0.0, 3.0])
def test_images_of_replays_are_the_same_bytes(models: Path, guidance: float) -> None:
    cell = make_cell(models, steps=6, guidance_scale=guidance)
    pipeline = load_pipeline(cell)
    starts = range(0, 7, 2)
    plain = {start: Sampler(pipeline, replace(cell, batch_size=2), PROMPTS).sample(start) for start in starts}
    unet, decoder = Replayed(pipeline.unet), Replayed(pipeline.vae.decoder)
    for _ in range(3):
        for start in starts:
            again = Sampler(pipeline, replace(cell, batch_size=2), PROMPTS).sample(start)
            assert np.array_equal(again.images, plain[start].images)
            assert again.calls == plain[start].calls
    whole = 3 * 3 - calls_until_replayed()  # of the batches of two; the last one is of another shape
    assert decoder.replays == whole
    assert unet.replays >= 6 * whole
    recordings = [kind.replay for kind in unet._kinds.values() if kind.replay]
    assert recordings
    for recording in recordings:
        assert len(recording.ahead.graph.findAllNodes("aten::linear")) >= 2, "keys and values of the text"
    Sampler(pipeline, cell, PROMPTS).call(range(2))
    assert decoder.replays == whole, "what is timed is the module's own call"


def test_lanes_replay_side_by_side(models: Path) -> None:
    cell = make_cell(models, steps=4, batch_size=1)
    pipeline = load_pipeline(cell)

    def sample() -> list[Any]:
        return list(side_by_side(lambda start: Sampler(pipeline, cell, PROMPTS).sample(start).images, range(7), 2))

    plain = sample()
    unet = Replayed(pipeline.unet)
    for _ in range(2):
        assert all(map(np.array_equal, sample(), plain))
    assert unet.replays > 0


class Depends(torch.nn.Module):
    """A recording knows one way of two."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


def test_what_differs_from_the_module_is_found_out() -> None:
    module = Depends()
    replayed = Replayed(module)
    inputs = [torch.full((2, 3), sign) for sign in (1.0, 1.0, 1.0, -1.0, 1.0, -1.0, -1.0, 1.0)]
    assert [call(module, x)[0, 0].item() for x in inputs] == [2, 2, 2, -2, 2, -2, -2, 2]
    assert replayed.replays == 0


class WithText(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        return {"doubled": 2 * x, "note": "not a tensor"}


def test_what_is_no_tensor_is_not_recorded() -> None:
    module = WithText()
    replayed = Replayed(module)
    for i in range(8):
        assert call(module, torch.full((2,), float(i)))["doubled"].tolist() == [2 * i, 2 * i]
    assert replayed.replays == 0


def test_slow_calls_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "WORTH_S", 0.0)
    module = torch.nn.Linear(2, 2)
    replayed = Replayed(module)
    for _ in range(8):
        call(module, torch.ones(1, 2))
    assert replayed.replays == 0


class Block(torch.nn.Module):
    """What can be left out, and beside it what only looks like it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.convolution = torch.nn.GroupNorm(2, 4), torch.nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        normed = self.norm(x)
        kept = self.norm(x + 1)
        one = torch.nn.functional.silu(normed) / 1.0
        two = torch.nn.functional.silu(kept) + kept
        rows = one.permute(0, 2, 3, 1).contiguous().flatten(1, 2)
        return self.convolution((one + two).contiguous()), counts / 1, rows, torch.nn.functional.silu(x)


@pytest.mark.parametrize(("memory_format", "copies"), [(torch.channels_last, 1), (torch.contiguous_format, 2)])
def test_only_what_changes_no_bit_is_left_out(memory_format: torch.memory_format, copies: int) -> None:
    module = Block().to(memory_format=memory_format)
    inputs = torch.randn(2, 4, 8, 8).contiguous(memory_format=torch.channels_last), torch.arange(3)
    replayed = Replayed(module)
    with torch.inference_mode():
        own = module(*inputs)
    for _ in range(calls_until_replayed() + 2):
        for ours, theirs in zip(call(module, *inputs), own, strict=True):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
    assert replayed.replays == 2
    (kind,) = replayed._kinds.values()
    assert kind.replay is not None
    nodes = [node.kind() for node in kind.replay.rest.graph.nodes()]
    assert [nodes.count(f"aten::{name}") for name in ("div", "contiguous", "silu", "silu_")] == [1, copies, 2, 1]


def test_replays_are_for_processors_and_modules_that_are_not_compiled(models: Path) -> None:
    cell = make_cell(models)
    pipeline = load_pipeline(cell)
    own = pipeline.unet.forward
    replay_models(pipeline, replace(cell, device="cuda"))
    replay_models(pipeline, replace(cell, base=replace(cell.base, levers={"compile": "default"})))
    assert pipeline.unet.forward == own
    replay_models(pipeline, cell)
    assert isinstance(pipeline.unet.forward.__self__, Replayed)
    assert isinstance(pipeline.vae.decoder.forward.__self__, Replayed)
