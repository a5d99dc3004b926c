"""A LoRA file by its header: is it whole, and does it reach the layers that it was published for? No tensor is read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from bench.checkpoints.headers import Header, read_header


def lora_faults(path: Path) -> list[str]:
    """What keeps a LoRA file from being applied as it was trained: halves of pairs, announced layers that lack."""
    header = read_header(path)
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in header.shapes.items():
        for mark, side in _SIDES:
            if mark in name:
                pairs.setdefault(name.split(mark)[0], {})[side] = shape
                break
    if not pairs:
        return [f"{path} holds no LoRA: none of its tensors is named lora_A or lora_down"]
    faults = []
    if halves := [layer for layer, sides in pairs.items() if len(sides) != 2]:
        faults.append(f"{path} is half a LoRA: {_some(halves)} has one of the two matrices only")
    unequal = [layer for layer, sides in pairs.items() if len(sides) == 2 and sides["A"][0] != sides["B"][1]]
    if unequal:
        faults.append(f"{path} is damaged: the two matrices of {_some(unequal)} have different ranks")
    if any("dora_scale" in name or "lora_magnitude_vector" in name for name in header.shapes):
        faults.append(f"{path} is a DoRA, whose magnitudes diffusers leaves out; use a plain LoRA")
    if idle := [target for target in _targets(header) if not any(_is_at(layer, target) for layer in pairs)]:
        faults.append(f"{path} lacks layers that it was published for: {_some(idle)}")
    return faults


_SIDES = (
    *((".lora_A.", "A"), (".lora_B.", "B"), (".lora_down.", "A"), (".lora_up.", "B")),
    *((".lora.down.", "A"), (".lora.up.", "B"), ("_lora.down.", "A"), ("_lora.up.", "B")),
    *((".lora_linear_layer.down.", "A"), (".lora_linear_layer.up.", "B")),
)


def _targets(header: Header) -> list[str]:
    """The layers that the file's own metadata announces, where diffusers wrote some."""
    try:
        said = json.loads(header.metadata.get("lora_adapter_metadata", "{}"))
    except ValueError:
        return []
    lists = [value for name, value in said.items() if name.endswith("target_modules") and isinstance(value, list)]
    return [str(target) for targets in lists for target in targets]


def _is_at(layer: str, target: str) -> bool:
    return layer == target or layer.endswith(f".{target}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
