"""The reference workload: a fixed piece of work that tracks the speed of a machine, interleaved with measurements.

Latencies of one machine vary by tens of per cent when its host is busy or it is throttled. This work then takes longer
as well, independently of the code under test: a small network with the operations of denoisers, written here so that no
change of a library's model affects it. Small operations in all threads suffer far more from a busy host than a large
product does, so it uses the same kind.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.measure.stopwatch import Stopwatch

EVALUATIONS = 2
"""Evaluations of the network per run; the first starts with cold caches."""
PRODUCT = 4096
"""Width of the matrices that a GPU multiplies in addition: the network alone would measure the speed of its host."""


class ReferenceWorkload:
    """Does the work on a device and times it; global random state is unchanged."""

    def __init__(self, device: torch.device, stopwatch: Stopwatch) -> None:
        with torch.random.fork_rng(devices=[]):
            self._network = _network().to(device).eval()
        self._image = torch.zeros(1, 32, 16, 16, device=device)
        width = PRODUCT if device.type == "cuda" else 1
        self._matrix, self._stopwatch = torch.full((width, width), 1 / width, device=device), stopwatch

    def time_s(self) -> float:
        """Do the work once and return its time in seconds."""
        stopwatch = self._stopwatch
        with torch.inference_mode():
            stopwatch.synchronise()
            begun = stopwatch.now_s()
            torch.mm(self._matrix, self._matrix)
            stopwatch.synchronise()  # else the device's work hides the host's time
            for _ in range(EVALUATIONS):
                self._network(self._image)
            stopwatch.synchronise()
            return stopwatch.now_s() - begun


def _network() -> nn.Module:
    """Return ten layers on two levels, a quarter of a million weights."""
    wide, narrow = [_Layer(32) for _ in range(6)], [_Layer(64) for _ in range(4)]
    down, up = nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ConvTranspose2d(64, 32, 2, stride=2)
    return nn.Sequential(*wide[:3], down, *narrow, up, *wide[3:])


class _Layer(nn.Module):
    """Convolutions, attention over all pixels and a feed-forward part, each with a residual connection."""

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
        return pixels.transpose(1, 2).unflatten(-1, image.shape[2:])
