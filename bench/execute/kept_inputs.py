"""Inputs of the images that a report shows, kept in the run, so that it can be written without their folder."""

from __future__ import annotations

from bench.generate.task_inputs import Inputs
from bench.pictures import input_hashes, input_picture, save_inputs
from bench.store.store import Store

SHOWN = 8
"""The number of prompts of a cell whose inputs are kept, and whose images are kept where keep=grid."""


def has_inputs(store: Store, inputs: Inputs) -> bool:
    """Whether the inputs of the images that are shown were kept, or the task has none. No picture is read."""
    rows = _rows(inputs)
    return not rows or any(name.startswith(f"{rows[-1]:05d}") for name in input_hashes(store))


def keep_inputs(store: Store, inputs: Inputs) -> None:
    """Keep inputs, masks and control images of the first prompts."""
    save_inputs(
        store,
        {
            f"{row:05d}{'' if name == 'image' else f'-{name}'}": picture
            for row in _rows(inputs)
            for name, picture in inputs.shown(row).items()
        },
    )


def restore_inputs(store: Store, inputs: Inputs) -> None:
    """Keep the inputs of a finished run again where they are missing, damaged, or were never kept."""
    whole = has_inputs(store, inputs) and all(input_picture(store, name) is not None for name in input_hashes(store))
    if not whole:
        keep_inputs(store, inputs)


def _rows(inputs: Inputs) -> range:
    kind = inputs.task.kind
    if kind in ("text_to_image", "animation"):
        return range(0)
    return range(1 if kind == "image_prompt" else min(SHOWN, inputs.count))
