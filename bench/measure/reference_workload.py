"""How fast a machine is at the moment: a fixed piece of work, done in turn with what is measured.

Latencies of one machine differ by tens of per cent between moments where its host is busy or it is throttled. This work
then takes longer, too, whatever the code that is judged: a small network with what denoisers are made of, written here
so that no library's change of a model moves it. Small operations in all threads suffer from a busy host far more than a
large product does, so it has the same kind.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.measure.latency import Stopwatch

EVALUATIONS = 2
"""How often the network is evaluated; the first one finds cold caches."""
PRODUCT = 4096
"""Width of the matrices that a GPU multiplies besides: the network alone would tell its host's pace."""


def make_reference_workload(device: torch.device, stopwatch: Stopwatch) -> Callable[[], float]:
    """Return what does the work once and times it, seconds. Random numbers of the process stay as they are."""
    with torch.random.fork_rng(devices=[]):
        network = _network().to(device).eval()
    image = torch.zeros(1, 32, 16, 16, device=device)
    width = PRODUCT if device.type == "cuda" else 1
    matrix = torch.full((width, width), 1 / width, device=device)

    def measure() -> float:
        with torch.inference_mode():
            stopwatch.synchronise()
            begun = stopwatch.now_s()
            torch.mm(matrix, matrix)
            stopwatch.synchronise()  # else the device's work hides what the host takes
            for _ in range(EVALUATIONS):
                network(image)
            stopwatch.synchronise()
            return stopwatch.now_s() - begun

    return measure


def _network() -> nn.Module:
    """Ten layers on two levels, a quarter of a million weights."""
    wide, narrow = [_Layer(32) for _ in range(6)], [_Layer(64) for _ in range(4)]
    down, up = nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ConvTranspose2d(64, 32, 2, stride=2)
    return nn.Sequential(*wide[:3], down, *narrow, up, *wide[3:])


class _Layer(nn.Module):
    """Convolutions, attention over all pixels, and what follows it, each added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        norms = [nn.GroupNorm(4, width) for _ in range(2)]
        convolutions = [nn.Conv2d(width, width, 3, padding=1) for _ in range(2)]
        self.convolve = nn.Sequential(norms[0], nn.SiLU(), convolutions[0], norms[1], nn.SiLU(), convolutions[1])
        self.project = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3 * width))
        self.mix = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, image: Tensor) -> Tensor:
        image = image + self.convolve(image)
        pixels = image.flatten(2).transpose(1, 2)
        query, key, value = (
            part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.project(pixels).chunk(3, dim=-1)
        )
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        pixels = pixels + self.mix(attended.transpose(1, 2).flatten(2))
        pixels = pixels + self.feed(pixels)
        result: Tensor = pixels.transpose(1, 2).unflatten(-1, image.shape[2:])
        return result
