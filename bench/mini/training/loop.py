"""One resumable training loop for every model: one-cycle AdamW, EMA, checkpoints, a progress bar and a log.

A batch may be shared among threads (`Recipe.threads`), each of which runs forward and backward on a part of it: on a
CPU this suits small models better than one call's threads. It requires losses that are means over images.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from bench.parallel import ThreadedCalls

LossOf = Callable[[int, torch.Generator, nn.Module], tuple[torch.Tensor, dict[str, float]]]
_Part = tuple[float, dict[str, float], tuple[torch.Tensor | None, ...]]


@dataclass(frozen=True)
class Recipe:
    """The settings of one training; a changed recipe starts over instead of resuming."""

    name: str
    iterations: int
    batch_size: int
    peak_lr: float
    ema_decay: float = 0.999
    weight_decay: float = 0.01
    warmup: float = 0.05
    seed: int = 0
    threads: int = 1


def train(
    recipe: Recipe,
    model: nn.Module,
    loss_of: LossOf,
    directory: Path,
    save_every_s: float = 60.0,
) -> nn.Module:
    """Train `model` in place and return a copy that carries the averaged (EMA) weights.

    `loss_of(size, generator, averaged_model)` gives the mean loss of `size` images and numbers for the log; its
    generator is seeded by step and thread alone, so that a resumed training sees the same draws as an undisturbed one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.peak_lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.peak_lr, total_steps=recipe.iterations, pct_start=recipe.warmup, cycle_momentum=False
    )
    average = copy.deepcopy(model).requires_grad_(False)
    parts = {"model": model, "average": average, "optimizer": optimizer, "schedule": schedule}
    start = _resume(directory, recipe, parts)
    log = (directory / "log.jsonl").open("a")
    bar = tqdm(range(start, recipe.iterations), initial=start, total=recipe.iterations, desc=recipe.name)
    saved_at = time.monotonic()
    for step in bar:
        model.train()
        take = partial(_take_part, recipe, step, loss_of, parameters, average)
        with closing(ThreadedCalls(recipe.threads)) as calls:
            taken = [part for i in range(recipe.threads) for part in calls.call(take, i)] + [*calls.rest()]
        losses, numbers, gradients = zip(*taken, strict=True)
        loss = sum(losses) / recipe.threads
        if not math.isfinite(loss):
            raise FloatingPointError(f"{recipe.name}: the loss is {loss} at step {step}; lower peak_lr")
        for parameter, shares in zip(parameters, zip(*gradients, strict=True), strict=True):
            used = [part for part in shares if part is not None]
            parameter.grad = torch.stack(used).sum(dim=0) / recipe.threads if used else None
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        _average(average, model, min(recipe.ema_decay, (1 + step) / (10 + step)))
        if step % 50 == 0:
            means = {key: sum(part[key] for part in numbers) / recipe.threads for key in numbers[0]}
            entry = {"step": step, "loss": loss, "lr": schedule.get_last_lr()[0], **means}
            log.write(json.dumps(entry) + "\n")
            log.flush()
            bar.set_postfix({key: f"{value:.3g}" for key, value in entry.items() if key not in ("step", "lr")})
        if time.monotonic() - saved_at > save_every_s or step + 1 == recipe.iterations:
            _save(directory, recipe, step + 1, parts)
            saved_at = time.monotonic()
    return average.eval()


def _take_part(
    recipe: Recipe, step: int, loss_of: LossOf, parameters: list[nn.Parameter], average: nn.Module, thread: int
) -> _Part:
    """Return loss, numbers and gradients of one thread's share of a batch."""
    generator = torch.Generator().manual_seed((recipe.seed * 1_000_003 + step) * recipe.threads + thread)
    loss, numbers = loss_of(recipe.batch_size // recipe.threads, generator, average)
    return loss.item(), numbers, torch.autograd.grad(loss, parameters, allow_unused=True)


def _average(average: nn.Module, model: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for mean, value in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
        for kept, current in zip(average.buffers(), model.buffers(), strict=True):
            kept.copy_(current)


def _save(directory: Path, recipe: Recipe, step: int, parts: Mapping[str, Any]) -> None:
    states = {name: part.state_dict() for name, part in parts.items()}
    partial = directory / "checkpoint.partial"
    torch.save({"recipe": asdict(recipe), "step": step, **states}, partial)
    partial.replace(directory / "checkpoint.pt")


def _resume(directory: Path, recipe: Recipe, parts: Mapping[str, Any]) -> int:
    """Load the state of an interrupted training of this recipe; returns its steps, 0 where there is none."""
    path = directory / "checkpoint.pt"
    if not path.exists():
        return 0
    states = torch.load(path, weights_only=True)
    if states["recipe"] != asdict(recipe):
        return 0
    for name, part in parts.items():
        part.load_state_dict(states[name])
    return int(states["step"])
