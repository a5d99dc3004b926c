"""Does the gate report faults in the code of adapters, and say on which row?

    .venv/bin/python scripts/calibration/adapter_faults.py [--images 16] [--only mask …]

Runs the gate's rows, once as they are and once with each fault put into diffusers, and compares the two as the gate
does. Writes results/calibration/adapter_faults.md after each fault, with the rows that each concerns and those that the
gate reports, and ends with exit code 1 where these are not the same. Takes about ten minutes on two idle cores.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, StableDiffusionXLInpaintPipeline, UNet2DConditionModel, UNetMotionModel
from diffusers.loaders.ip_adapter import IPAdapterMixin
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.loaders.lora_pipeline import StableDiffusionXLLoraLoaderMixin

from bench.execute.job import prepare
from bench.execute.ownership import close_run, open_store
from bench.execute.run import execute
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.experiment.verbs import GateChoice, check_settings
from bench.gate.compare import compare_stores
from bench.gate.outcome import FAILS
from bench.store.store import Store

RESULT = Path(__file__).parents[2] / "results" / "calibration" / "adapter_faults.md"
CONTROL = ("mini_depth", "mini_canny")
XL = ("mini_xl", "mini_inpainting", "mini_community", "mini_style", *CONTROL, "mini_image_prompt")
FUSED = tuple(row for row in XL if row != "mini_style")
MOVING = ("mini_animation",)
SEVERAL = ("mini_style", *MOVING)
ROWS = (*XL, "mini_v2", *MOVING)
Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True)
class Fault:
    """A function of diffusers that a fault replaces, and the rows that it concerns."""

    name: str
    owner: type
    function: str
    wrap: Wrap
    rows: tuple[str, ...]

    @contextmanager
    def put(self) -> Iterator[None]:
        """The fault is in the code."""
        original = getattr(self.owner, self.function)
        setattr(self.owner, self.function, self.wrap(original))
        try:
            yield
        finally:
            setattr(self.owner, self.function, original)


def of_residuals(change: Callable[[list[Any], Any], tuple[list[Any], Any]]) -> Wrap:
    """Return what changes the residuals of a ControlNet."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(self: Any, *given: Any, **named: Any) -> Any:
            down, middle = original(self, *given, **named)
            return change(down, middle)

        return forward

    return wrap


def of_argument(name: str, place: int, change: Callable[[Any], Any]) -> Wrap:
    """Return what changes an argument, given by name or at a place after self."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *given: Any, **named: Any) -> Any:
            if name in named:
                named[name] = change(named[name])
            elif len(given) > place:
                given = (*given[:place], change(given[place]), *given[place + 1 :])
            return original(self, *given, **named)

        return call

    return wrap


def of_conditions(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Wrap:
    """Return what changes one of the conditions beside the text's tokens."""
    return of_argument("added_cond_kwargs", 2, lambda known: {**known, name: change(known[name])})


def at_half_scale(original: Callable[..., Any]) -> Callable[..., Any]:
    """Fuse with half the scale."""

    def fuse_lora(self: Any, *given: Any, **named: Any) -> Any:
        return original(self, *given, **{**named, "lora_scale": 0.5})

    return fuse_lora


def first_alone(original: Callable[..., Any]) -> Callable[..., Any]:
    """Activate the first of several adapters."""

    def set_adapters(self: Any, names: Sequence[str], weights: Sequence[float]) -> Any:
        return original(self, list(names)[:1], list(weights)[:1])

    return set_adapters


def last_weaker(original: Callable[..., Any]) -> Callable[..., Any]:
    """Give the last of several adapters 0.9 of its weight."""

    def set_adapters(self: Any, names: Sequence[str], weights: Sequence[float]) -> Any:
        own = [*weights]
        return original(self, list(names), [*own[:-1], 0.9 * own[-1]] if len(own) > 1 else own)

    return set_adapters


def one_step_late(original: Callable[..., Any]) -> Callable[..., Any]:
    """Leave out the first of the timesteps."""

    def get_timesteps(self: Any, *given: Any, **named: Any) -> Any:
        timesteps, count = original(self, *given, **named)
        return timesteps[1:], count - 1

    return get_timesteps


def one_block_skipped(original: Callable[..., Any]) -> Callable[..., Any]:
    """Leave out a motion module in one block: of what it adds, nothing is left."""

    def load_motion_modules(self: Any, motion_adapter: Any) -> None:
        original(self, motion_adapter)
        for parameter in self.up_blocks[1].motion_modules[0].proj_out.parameters():
            torch.nn.init.zeros_(parameter)

    return load_motion_modules


def scale_ignored(original: Callable[..., Any]) -> Callable[..., Any]:
    """Use an IP-Adapter at its whole scale."""

    def set_ip_adapter_scale(self: Any, scale: float) -> Any:
        return original(self, 1.0)

    return set_ip_adapter_scale


MASKED = ("mini_inpainting",)
FAULTS = (
    Fault(
        "ControlNet residuals scaled by 0.9",
        *(ControlNetModel, "forward"),
        of_residuals(lambda down, middle: ([0.9 * part for part in down], 0.9 * middle)),
        CONTROL,
    ),
    Fault(
        "ControlNet's middle residual left out",
        *(ControlNetModel, "forward"),
        of_residuals(lambda down, middle: (down, 0 * middle)),
        CONTROL,
    ),
    Fault(
        "ControlNet's image inverted",
        *(ControlNetModel, "forward"),
        of_argument("controlnet_cond", 3, lambda image: 1 - image),
        CONTROL,
    ),
    Fault(
        "mask inverted",
        *(StableDiffusionXLInpaintPipeline, "prepare_mask_latents"),
        of_argument("mask", 0, lambda mask: 1 - mask),
        MASKED,
    ),
    Fault(
        "masked image left out",
        *(StableDiffusionXLInpaintPipeline, "prepare_mask_latents"),
        of_argument("masked_image", 1, lambda image: 0 * image),
        MASKED,
    ),
    Fault(
        "inpainting begins one step late",
        *(StableDiffusionXLInpaintPipeline, "get_timesteps"),
        one_step_late,
        MASKED,
    ),
    Fault(
        "time ids of SDXL swapped",
        *(UNet2DConditionModel, "get_aug_embed"),
        of_conditions("time_ids", lambda ids: ids[:, [2, 3, 0, 1, 4, 5]]),
        XL,
    ),
    Fault(
        "pooled text of SDXL left out",
        *(UNet2DConditionModel, "get_aug_embed"),
        of_conditions("text_embeds", lambda pooled: 0 * pooled),
        XL,
    ),
    Fault("IP-Adapter's scale ignored", IPAdapterMixin, "set_ip_adapter_scale", scale_ignored, ("mini_image_prompt",)),
    Fault("the second of two LoRAs not activated", LoraBaseMixin, "set_adapters", first_alone, SEVERAL),
    Fault("the second of two LoRAs at 0.9 of its weight", LoraBaseMixin, "set_adapters", last_weaker, SEVERAL),
    Fault("LoRA fused at half its scale", StableDiffusionXLLoraLoaderMixin, "fuse_lora", at_half_scale, FUSED),
    Fault("motion module skipped in one block", UNetMotionModel, "load_motion_modules", one_block_skipped, MOVING),
)


def sample(row: str, directory: Path, images: int) -> Store:
    """Run a row as the gate does."""
    overrides = compose_settings(["experiment=gate"])["row_overrides"]
    given = [f"experiment={row}", *overrides, f"prompts.count={images}", "scores=[attribute_accuracy]"]
    job = prepare(check_experiment(compose_settings([*given, f"results={directory / row}"])))
    store = open_store(job)
    for _ in execute(job, store):
        pass
    close_run(job, store, True)
    return store


def reported(before: Store, after: Store, choice: GateChoice) -> list[str]:
    """Return the levels at which the gate fails, by name."""
    found = compare_stores(before, after, choice.images, choice.limits(), choice.cost, choice.latents)
    levels = (
        outcome.level
        for outcome in found.outcomes
        if outcome.verdict in (*FAILS, "not comparable") and outcome.level != "cost"
    )
    return [*dict.fromkeys(levels)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--only", nargs="+", default=[], help="parts of the names of faults")
    arguments = parser.parse_args()
    choice = check_settings(GateChoice, compose_settings([], "gate"))
    lines, wrong = [], 0
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        before = {row: sample(row, directory / "before", arguments.images) for row in ROWS}
        for number, fault in enumerate(FAULTS):
            if arguments.only and not any(part in fault.name for part in arguments.only):
                continue
            other = [row for row in ROWS if row not in fault.rows][:1]
            with fault.put():
                after = {row: sample(row, directory / str(number), arguments.images) for row in (*fault.rows, *other)}
            found = {row: levels for row, store in after.items() if (levels := reported(before[row], store, choice))}
            right = set(found) == set(fault.rows)
            wrong += not right
            said = "; ".join(f"{row} ({', '.join(levels)})" for row, levels in found.items()) or "nothing"
            lines.append(f"| {fault.name} | {', '.join(fault.rows)} | {said} | {'yes' if right else '**no**'} |")
            print(lines[-1], flush=True)
            if not arguments.only:  # after each, so that a run that is stopped leaves what it found
                RESULT.write_text(f"{HEAD.format(arguments.images)}{chr(10).join(lines)}\n", encoding="utf-8")
    return 1 if wrong else 0


HEAD = """\
# Faults in the code of adapters

What the gate says of faults put into diffusers, {} images per cell, TCD and DDIM at 4 steps on each row. Made by
`scripts/calibration/adapter_faults.py`. Levels are those at which the gate fails; one row that a fault does not concern
was run with it and had to be left alone.

| fault | rows that it concerns | the gate reports | as it should be |
|---|---|---|---|
"""

if __name__ == "__main__":
    sys.exit(main())
