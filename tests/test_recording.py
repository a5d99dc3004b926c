"""What depends on the text alone is made once a text, and never taken for another's."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from bench.generate.recording import Recording

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")


class Attending(torch.nn.Module):
    """Keys of a text, which `forward` may write to, or give to its caller to write to."""

    def __init__(self, writes: bool = False, returns: bool = False) -> None:
        super().__init__()
        self.key, self.writes, self.returns = torch.nn.Linear(3, 4), writes, returns

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, ...]:
        key = self.key(text)
        if self.writes:
            key += x.mean()
        return torch.nn.functional.silu(x @ key.mT), key[1:] if self.returns else key + x.mean()


def recorded(module: Attending, lasting: Any = (1,)) -> Recording:
    module.requires_grad_(False)
    return Recording(lambda *tensors: module(*tensors), (torch.randn(2, 4), torch.randn(5, 3)), lasting, False)


def check(recording: Recording, module: Attending, x: torch.Tensor, text: torch.Tensor) -> None:
    for ours, theirs in zip(recording(x, text), module(x, text), strict=True):
        assert torch.equal(ours, theirs)


def operations(part: Any) -> list[str]:
    return [node.kind() for node in part.graph.nodes() if node.kind() in ("aten::linear", "aten::matmul")]


@torch.inference_mode()
def test_keys_are_made_once_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Attending()
    recording = recorded(module)
    assert operations(recording.ahead) == ["aten::linear"]
    assert operations(recording.rest) == ["aten::matmul"]
    times: list[int] = []
    ahead = recording.ahead
    monkeypatch.setattr(recording, "ahead", lambda *tensors: times.append(1) or ahead(*tensors))
    one, other = torch.randn(2, 5, 3)
    for text, made in ((one, 1), (one, 1), (one.clone(), 1), (other, 2), (one, 3)):
        check(recording, module, torch.randn(2, 4), text)
        assert len(times) == made
    one[4, 2] += 1
    check(recording, module, torch.randn(2, 4), one)
    assert len(times) == 4, "a text that was written to is another one"
    for zero in (0.0, -0.0):
        one[0] = zero
        check(recording, module, torch.randn(2, 4), one)
    assert len(times) == 6, "a zero's sign is a bit as well"


@torch.inference_mode()
def test_each_thread_has_its_own_text() -> None:
    module = Attending()
    recording = recorded(module)

    def work(seed: int) -> None:
        with torch.inference_mode():
            generator = torch.Generator().manual_seed(seed)
            text = torch.randn(5, 3, generator=generator)
            for _ in range(200):
                check(recording, module, torch.randn(2, 4, generator=generator), text)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, range(4)))


@torch.inference_mode()
@pytest.mark.parametrize(("settings", "lasting"), [({"writes": True}, (1,)), ({"returns": True}, (1,)), ({}, ())])
def test_what_may_be_written_to_is_not_kept(settings: dict[str, bool], lasting: tuple[int, ...]) -> None:
    module = Attending(**settings)
    recording = recorded(module, lasting)
    assert recording.ahead is None
    text = torch.randn(5, 3)
    for _ in range(3):
        x = torch.randn(2, 4)
        check(recording, module, x, text)
        recording(x, text)[1].zero_()
