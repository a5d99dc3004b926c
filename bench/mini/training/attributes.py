"""Attributes of an image or a caption, as labels, and linear heads that learn to classify them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from bench.mini import world

_PLACES = (*world.POSITIONS, "side by side", "one above the other")
LABELS: dict[str, Sequence[str]] = {
    "place": _PLACES,
    **{
        f"{kind}.{slot}": world.ATTRIBUTE_VALUES[kind]
        for slot in (0, 1)
        for kind in ("shape", "colour", "size", "fill")
    },
    "ground_colour": world.ATTRIBUTE_VALUES["ground_colour"],
    "ground": world.ATTRIBUTE_VALUES["ground"],
}
"""The attributes and their values. Of two things, slot 0 is the left or the upper one."""


class AttributeHeads(nn.Module):
    """One linear classifier over an embedding for each entry of `LABELS`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(width, len(values)) for values in LABELS.values()])

    def naming_loss(self, embeddings: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Mean cross-entropy over existing attributes (labels (n, kinds), −1 for missing attributes), and accuracy."""
        losses, right = [], []
        for head, target in zip(self.heads, labels.T, strict=True):
            logits = head(embeddings)
            seen = (target >= 0).sum().clamp(min=1)
            losses.append(functional.cross_entropy(logits, target, ignore_index=-1, reduction="sum") / seen)
            right.append(((logits.argmax(1) == target).sum() / seen).item())
        return torch.stack(losses).mean(), sum(right) / len(right)


def attribute_labels(scenes: Sequence[world.Scene]) -> torch.Tensor:
    """Return the index of each scene's value in each entry of `LABELS`, shape (n, kinds); −1 where there is none."""
    return torch.tensor([[_label(scene, name, values) for name, values in LABELS.items()] for scene in scenes])


def named_labels(scenes: Sequence[world.Scene]) -> torch.Tensor:
    """Return `attribute_labels`, with −1 also for attributes that the caption leaves open.

    If the relation of two things is left open, left and right (or upper and lower) cannot be told from the caption.
    """
    rows = [
        [_label(scene, name, values) if _is_named(scene, name) else -1 for name, values in LABELS.items()]
        for scene in scenes
    ]
    return torch.tensor(rows)


def _is_named(scene: world.Scene, name: str) -> bool:
    kind, _, slot = name.partition(".")
    placed = "position" in scene.named or "relation" in scene.named
    if name == "place":
        return placed
    if not slot:
        return kind in scene.named
    if len(scene.things) == 1:
        return f"{kind}.0" in scene.named and slot == "0"
    return placed and f"{kind}.{_slots(scene)[int(slot)]}" in scene.named


def _label(scene: world.Scene, name: str, values: Sequence[str]) -> int:
    kind, _, slot = name.partition(".")
    if name == "place":
        if scene.position is not None:
            return values.index(scene.position)
        return values.index("side by side" if scene.relation in ("left of", "right of") else "one above the other")
    if not slot:
        return values.index(getattr(scene, kind))
    order = _slots(scene)
    return values.index(getattr(scene.things[order[int(slot)]], kind)) if int(slot) < len(order) else -1


def _slots(scene: world.Scene) -> tuple[int, ...]:
    """Return which thing is in slot 0, 1."""
    order = tuple(range(len(scene.things)))
    return order if scene.relation in (None, "left of", "above") else order[::-1]
