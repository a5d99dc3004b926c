"""Depth of images, by a DPT model of the hub, as the TCD guide computes its depth maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from bench.checkpoints.sources import weights_directory

if TYPE_CHECKING:
    from bench.generate.task_inputs import DepthEstimator


def load_depth_estimator(source: str, device: str) -> DepthEstimator:
    """Return a function of images (n, h, w, 3), uint8, that gives their depth (n, h, w), float32 in [0, 1], near is 1.

    With a `size` (height, width) the depth is resized to it, as in the guide: the depth, not the image.

    Each depth is stretched over the whole range: a monocular estimate has neither scale nor zero. A flat depth is 0.
    Raises BenchError when the model is not available locally.
    """
    from transformers import AutoImageProcessor, DPTForDepthEstimation

    root = weights_directory(source)
    processor = AutoImageProcessor.from_pretrained(str(root), local_files_only=True, trust_remote_code=False)
    model = DPTForDepthEstimation.from_pretrained(str(root), local_files_only=True, weights_only=True)
    model = model.to(device).eval()

    @torch.inference_mode()
    def estimate(images: NDArray[np.uint8], size: tuple[int, int] | None = None) -> NDArray[np.float32]:
        depths = []
        for image in images:
            pixels = processor(images=image, return_tensors="pt").pixel_values.to(device)
            depth = model(pixels).predicted_depth.float()
            depth = functional.interpolate(
                depth[:, None], size or image.shape[:2], mode="bicubic", align_corners=False
            )[0, 0]
            span = (depth.max() - depth.min()).clamp(min=torch.finfo(torch.float32).tiny)
            depths.append(((depth - depth.min()) / span).cpu().numpy())
        return np.stack(depths)

    return estimate
