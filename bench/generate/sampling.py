"""A cell's images: seeds → latents → pipeline call → uint8, streamed batch by batch.

Image i depends only on the cell's seed and on i: every image has its own generator on the CPU, which draws first the
initial latents and then the noise of stochastic steps. All methods see the same latents for the same prompt. Latents of
a UNet are drawn here, in float32 for every precision; those of a transformer, whose shape each pipeline knows, by the
pipeline, in its own precision. With `noise=device` a second generator, on the GPU, draws the noise of steps (and the
latents where the pipeline draws them): no copy from the host in each step, but other images.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.generate.denoiser_cache import SharedEvaluations
from bench.generate.denoisers import denoisers, has_unet, rows_of
from bench.generate.embeddings import Embeddings
from bench.generate.flow import arguments_of_steps
from bench.generate.guidance import guidance_arguments
from bench.generate.images import PixelArray, quantise
from bench.generate.pipeline_calls import call_parameters
from bench.generate.schedulers import make_scheduler, plain_config, resolved_schedule
from bench.generate.steps import steps_given
from bench.generate.task_inputs import Inputs
from bench.records.cell import Cell
from bench.records.errors import CellError
from bench.records.record import Calls


@dataclass(frozen=True, slots=True)
class Batch:
    """Images `start` to `start + len(images)` of a cell, shape (n, height, width, 3), uint8, and their call counts."""

    start: int
    images: PixelArray
    calls: Calls


class CallCounter:
    """Counts forward calls and rows of denoisers, and steps of a scheduler, by hooks.

    The denoisers may serve several threads at once; only calls from the thread that created the counter count.
    """

    def __init__(self, counted: Iterable[torch.nn.Module], scheduler: Any) -> None:
        self.counts = [0, 0, 0]  # denoiser calls, their rows, scheduler steps
        self._thread, self._scheduler = threading.get_ident(), scheduler
        with _HOOKS:
            self._hooks = [
                denoiser.register_forward_pre_hook(self._count_call, with_kwargs=True) for denoiser in counted
            ]
        step = scheduler.step

        @functools.wraps(step)  # pipelines read its signature to decide whether it gets eta and generators
        def counting(*args: Any, **kwargs: Any) -> Any:
            self.counts[2] += 1
            return step(*args, **kwargs)

        scheduler.step = counting

    def _count_call(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == self._thread:
            self.counts[0] += 1
            self.counts[1] += rows_of(module, args, kwargs)

    def close(self) -> None:
        """Remove the hooks."""
        with _HOOKS:
            for hook in self._hooks:
                hook.remove()
        del self._scheduler.step  # uncovers the class's method


_HOOKS = threading.Lock()


class Sampler:
    """One cell on a loaded pipeline. Batches may be sampled in any order and more than once.

    The pipeline's models are shared; each sampler has its own scheduler and settings, so that samplers may run
    concurrently in several threads.
    """

    def __init__(
        self,
        pipeline: Any,
        cell: Cell,
        prompts: Sequence[str],
        embeddings: Embeddings | None = None,
        shared: SharedEvaluations | None = None,
        inputs: Inputs | None = None,
    ) -> None:
        self.pipeline, self.cell, self.prompts = copy.copy(pipeline), cell, prompts
        self.inputs = inputs
        self._size = cell.batch_size
        self.pipeline.scheduler = make_scheduler(cell.scheduler)
        self._embeddings = embeddings or Embeddings()
        self._shared = shared.of if shared else lambda *_: nullcontext()
        self.alone: Callable[[], AbstractContextManager[object]] | None = None
        """What keeps other threads, which extract features, from the device; None where there are none."""

    def sample(self, start: int) -> Batch:
        """Return the batch that begins with image `start`; raises CellError for NaN or all-black images.

        A batch that does not fit into the device's memory is sampled in halves, as are those after it; before that once
        more whole, `alone`, since it may have been another thread that took the memory.
        """
        return self.begin(start)()

    def begin(self, start: int) -> Callable[[], Batch]:
        """Start as `sample` does; the returned function waits for the device, which may get other batches meanwhile."""
        rows = range(start, min(start + self.cell.batch_size, len(self.prompts)))
        counter, begun = CallCounter(denoisers(self.pipeline).values(), self.pipeline.scheduler), []
        try:
            while rows:
                part, counted = rows[: self._size], tuple(counter.counts)
                found = self._try_part(part)
                if isinstance(found, Exception) and self.alone is not None:  # another thread may have had the memory
                    counter.counts = [*counted]  # the failed call is repeated
                    with self.alone():
                        found = self._try_part(part)
                if isinstance(found, Exception):
                    counter.counts = [*counted]
                    self._shrink(len(part), found)
                else:
                    begun.append(found)
                    rows = rows[len(part) :]
        finally:
            counter.close()

        def wait() -> Batch:
            images = [wait() for wait in begun]
            joined = np.concatenate(images) if len(images) > 1 else images[0]
            return Batch(start, joined, self._describe_calls(counter, len(joined)))

        return wait

    def _try_part(self, part: range) -> Callable[[], PixelArray] | Exception:
        """Begin a part of a batch; returns the error where it does not fit into the device's memory."""
        try:
            given, remembering = self._given(part), self._embeddings.remembered_by(self.pipeline)
            with torch.inference_mode(), self._shared(part.start, self.cell.steps), self._steps_given(given):
                output = remembering(**given)
            return self._images_of(output, part)
        except torch.OutOfMemoryError as error:
            failed = error.with_traceback(None)  # its frames hold the tensors of the call
        if self.pipeline.device.type == "cuda":
            torch.cuda.empty_cache()
        return failed

    def call(self, rows: Sequence[int]) -> PixelArray:
        """The images of some prompts by one call of the pipeline, as a user would write it."""
        given = self._given(rows)
        with torch.inference_mode(), self._steps_given(given):
            output = self.pipeline(**given)
        return self._images_of(output, rows)()

    def _given(self, rows: Sequence[int]) -> dict[str, Any]:
        """Return the arguments of a call for some prompts, each image with its own generator."""
        generators = [image_generator(self.cell.seed, row) for row in rows]
        given = self.inputs.arguments(rows) if self.inputs else {}
        if "strength" not in given and has_unet(self.pipeline):  # else the pipeline draws them, by the same generators
            given["latents"] = self.initial_latents(generators)
        if self.cell.noise == "device":
            generators = [image_generator(self.cell.seed, row, self.cell.device) for row in rows]
        kind: Any = type(self.pipeline)
        arguments, parameters = self.arguments(), call_parameters(kind)
        if "negative_prompt" in arguments:
            arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(rows)
        if "eta" in arguments and "eta" not in parameters:
            del arguments["eta"]
        prompts = [self.prompts[row] for row in rows]
        return {"prompt": prompts, "generator": generators, "output_type": "pt", **given, **arguments}

    def _steps_given(self, given: Mapping[str, Any]) -> AbstractContextManager[None]:
        return steps_given(self.pipeline.scheduler, given["generator"], self.cell.eta)

    def _shrink(self, size: int, error: Exception) -> None:
        device = self.pipeline.device
        if size == 1:
            peak = f"; the peak was {torch.cuda.max_memory_allocated(device):,} bytes" if device.type == "cuda" else ""
            raise CellError(
                f"one image at a time does not fit into the device's memory{peak}; try models.{self.cell.base.name}."
                "memory_options.offload=model, memory_options.vae_tiling=true, dtype=float16, or a smaller size"
            ) from error
        self._size = size // 2

    def _images_of(self, output: Any, rows: Sequence[int]) -> Callable[[], PixelArray]:
        """What waits for the images of a call; raises CellError for NaN or all-black ones."""
        if self.cell.task.kind == "animation":
            return quantise(torch.cat(output.frames.unbind(dim=1), dim=-2), rows)  # frames stacked vertically
        if self.cell.cost_only:
            shape = len(rows), self.cell.base.height, self.cell.base.width, 3
            return lambda: np.zeros(shape, np.uint8)
        if (size := output.images.shape[-2:]) != (self.cell.base.height, self.cell.base.width):
            raise CellError(
                f"{type(self.pipeline).__name__} made images of {size[0]} × {size[1]} pixels instead of "
                f"{self.cell.base.height} × {self.cell.base.width}; choose a size that it can make"
            )
        return quantise(output.images, rows)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of a call besides prompts, latents, generators; eta only where the scheduler has it."""
        cell = self.cell
        kind: Any = type(self.pipeline)
        arguments: dict[str, Any] = {
            "num_inference_steps": cell.steps,
            **cell.base.arguments,
            **arguments_of_steps(kind, cell.steps),
            **guidance_arguments(cell, kind),
            "height": cell.base.height,
            "width": cell.base.width,
        }
        if cell.eta is not None:
            arguments["eta"] = cell.eta
        return arguments

    def initial_latents(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Return unit Gaussian latents, one generator per image, drawn in float32 on the CPU.

        Shape (n, c, h, w), or (n, c, frames, h, w) for video.
        """
        unet, factor = self.pipeline.unet, self.pipeline.vae_scale_factor
        shape: tuple[int, ...] = (self.cell.base.height // factor, self.cell.base.width // factor)
        if frames := self.cell.task.settings.get("frames"):
            shape = (frames, *shape)
        shape = (unet.config.in_channels, *shape)
        latents = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        return latents.to(self.pipeline._execution_device, unet.dtype)

    def _describe_calls(self, counter: CallCounter, images: int) -> Calls:
        denoiser_calls, rows, scheduler_steps = counter.counts
        evaluations = rows // images
        return Calls(
            **resolved_schedule(self.pipeline.scheduler),
            scheduler_config=plain_config(self.pipeline.scheduler),
            arguments=self.arguments(),
            scheduler_steps=scheduler_steps,
            denoiser_calls=denoiser_calls,
            denoiser_evaluations=evaluations,
            denoiser_samples=evaluations * len(self.prompts),
            batch_size=self._size,
        )


def image_generator(seed: int, row: int, device: str = "cpu") -> torch.Generator:
    """Return the generator of image `row`: the same in every batch, independent between images."""
    state = np.random.SeedSequence((seed, row)).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))
