"""What a scheduler's step is given beyond what the pipeline gives it: each image's generator, and eta.

Stable Diffusion's pipelines hand both to `scheduler.step`, transformers' pipelines neither, so that a stochastic step
would draw from the global generator, and an eta would stay at the scheduler's default.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def steps_given(scheduler: Any, generators: Sequence[torch.Generator], eta: float | None) -> Iterator[None]:
    """While open, give the scheduler's step the generators and eta that it takes, where the pipeline does not."""
    step, own = scheduler.step, vars(scheduler).get("step")
    parameters = inspect.signature(step).parameters
    given: dict[str, Any] = {"generator": [*generators]} if "generator" in parameters else {}
    if eta is not None and "eta" in parameters:
        given["eta"] = eta

    @functools.wraps(step)  # pipelines read its signature to decide whether it gets eta and generators
    def complete(*args: Any, **kwargs: Any) -> Any:
        for name, value in given.items():
            if kwargs.get(name) is None:
                kwargs[name] = value
        return step(*args, **kwargs)

    if not given:
        yield
        return
    scheduler.step = complete
    try:
        yield
    finally:
        if own is None:
            del scheduler.step  # uncovers the class's method
        else:
            scheduler.step = own
