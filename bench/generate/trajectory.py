"""The trajectory of a few images' latents: what the scheduler got and returned at each call, as small arrays."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.generate.denoisers import denoisers
from bench.generate.sampling import Sampler

KEPT_VALUES = 512
"""Values kept of each state; of larger latents some at random, always the same."""


def trace_latents(sampler: Sampler, rows: Sequence[int]) -> dict[str, NDArray[Any]]:
    """Sample some images by one call of the pipeline; returns its latents, rows in the order of the images.

    `states` (n, calls + 1, d) are the samples that each call of the scheduler's step got, and the last result;
    `outputs` (n, calls, d) the model outputs that they got; `denoised` (n, k, d) what the denoiser itself returned
    before the first step, k times an image where guidance needs several. In the precision of the latents; d is at most
    `KEPT_VALUES`.
    """
    recorder = _Recorder(sampler.pipeline, len(rows))
    try:
        sampler.call(rows)
    finally:
        recorder.close()
    return recorder.arrays()


class _Recorder:
    def __init__(self, pipeline: Any, count: int) -> None:
        self.scheduler, self.count = pipeline.scheduler, count
        self.states: list[NDArray[Any]] = []
        self.outputs: list[NDArray[Any]] = []
        self.denoised: list[NDArray[Any]] = []
        self._last: Any = None
        modules = denoisers(pipeline).values()
        self._hooks = [module.register_forward_hook(self._keep_output) for module in modules]
        step = self.scheduler.step
        signature = inspect.signature(step)

        @functools.wraps(step)  # pipelines read its signature
        def kept(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            self.states.append(self._flat(given["sample"]))
            self.outputs.append(self._flat(given["model_output"]))
            result = step(*args, **kwargs)
            self._last = self._flat(result[0] if isinstance(result, tuple) else result.prev_sample)
            return result

        self.scheduler.step = kept

    def _keep_output(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        if self.states:  # only before the first step, where both runs' inputs are the same
            return
        found = output[0] if isinstance(output, tuple | list) else output.sample
        if isinstance(found, torch.Tensor) and len(found) % self.count == 0:
            self.denoised += [self._flat(part) for part in torch.split(found, self.count)]

    def _flat(self, values: torch.Tensor) -> NDArray[Any]:
        """Rows of at most `KEPT_VALUES` values, on the host."""
        flat = values.detach().reshape(len(values), -1)
        host = (flat.float() if flat.dtype == torch.bfloat16 else flat).cpu().numpy()
        chosen = np.random.default_rng(0).permutation(host.shape[1])[:KEPT_VALUES]
        kept: NDArray[Any] = host[:, np.sort(chosen)]
        return kept

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        del self.scheduler.step  # uncovers the class's method

    def arrays(self) -> dict[str, NDArray[Any]]:
        found = {"states": [*self.states, self._last], "outputs": self.outputs, "denoised": self.denoised}
        whole = {name: rows for name, rows in found.items() if rows and len({np.shape(row) for row in rows}) == 1}
        return {name: np.stack(rows, axis=1) for name, rows in whole.items()}
