"""Image complexity as rated by people: ICNet (Feng et al. 2023, IC9600, IEEE TPAMI 45:8577), from its checkpoint.

Two branches of ResNet-18 read the image at 512 pixels (detail) and at 256 (context). After each stage every channel is
weighted by a small network that reads its map ("spatial layout attention").
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn.functional import interpolate
from torchvision.models import resnet18
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

from bench.features.preferences import Pixels, PreferenceModel, load_tensors, read_tensors

DETAIL, CONTEXT, MAP = 512, 256, 64


def load_image_complexity(checkpoint: Path, device: str) -> PreferenceModel:
    """Return a model of complexity in [0, 1] that ignores the caption; raises BenchError for a wrong checkpoint."""
    network = ICNet()
    load_tensors(network, read_tensors(checkpoint), checkpoint)
    network.to(device).eval()
    prepare = Compose([Resize((DETAIL, DETAIL)), ToTensor(), Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])

    @torch.inference_mode()
    def score(images: Pixels, captions: Sequence[str]) -> NDArray[np.float64]:
        found = [network(prepare(Image.fromarray(image))[None].to(device)) for image in images]
        return torch.cat(found).double().cpu().numpy()

    return score


class ICNet(nn.Module):
    """The scoring network; modules are named as in the authors' checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        detail, context = (list(resnet18(weights=None).children()) for _ in range(2))
        self.b1_1, self.b1_2 = nn.Sequential(*detail[:5]), detail[5]
        self.b2_1, self.b2_2, self.b2_3, self.b2_4 = nn.Sequential(*context[:5]), *context[5:8]
        self.b1_1_slam, self.b1_2_slam, self.b2_1_slam, self.b2_2_slam = (_Attention(32) for _ in range(4))
        self.b2_3_slam, self.b2_4_slam = _Attention(16), _Attention(8)
        self.up1, self.up2 = _Widened(128, 256), _Widened(512, 256)
        self.to_score_f, self.to_score_f_slam = _Convolved(512), _Attention(32)
        self.head = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 1), nn.Sigmoid())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (n, 3, 512, 512) → scores (n,)."""
        small = interpolate(images, size=(CONTEXT, CONTEXT), mode="bilinear", align_corners=True)
        detail = self.b1_2_slam(self.b1_2(self.b1_1_slam(self.b1_1(images))))
        context = self.b2_2_slam(self.b2_2(self.b2_1_slam(self.b2_1(small))))
        context = self.b2_4_slam(self.b2_4(self.b2_3_slam(self.b2_3(context))))
        both = torch.cat([self.up1(detail), self.up2(context)], dim=1)
        return self.head(self.to_score_f_slam(self.to_score_f(both)).mean(dim=(2, 3)))[:, 0]


class _Attention(nn.Module):
    """One weight per channel, from its map at `size` × `size`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.linear = nn.Sequential(nn.Linear(size**2, 512), nn.ReLU(), nn.Linear(512, 1), nn.Sigmoid())

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        small = interpolate(maps, size=(self.size, self.size), mode="bilinear", align_corners=True)
        return self.linear(small.flatten(2))[..., None] * maps


class _Convolved(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(maps)).relu()


class _Widened(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(before, after, 1), nn.BatchNorm2d(after)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        wide = interpolate(maps, size=(MAP, MAP), mode="bilinear", align_corners=True)
        return self.bn(self.conv(wide)).relu()
