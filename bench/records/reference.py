"""Reference sources in words: images of the world, a folder of images, or a file of their statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

WORLD = "world"
"""The miniature world's name among sources of prompts, task inputs and reference images, and depth estimators."""
_Look = Literal["plain", "ink", "papercut"]
LOOKS: dict[str, _Look] = {
    WORLD: "plain",
    "world-ink": "ink",
    "world-papercut": "papercut",
}
"""Reference images and styles of the miniature world, and the looks of their images."""
SCENES = "scenes"
"""The task inputs that are each prompt's own image in the miniature world."""


def is_statistics(source: str) -> bool:
    """Whether a source is a file of statistics (`bench.score.statistics_file`) and not images."""
    return source.lower().endswith(".npz")


def reference_in_words(reference: Mapping[str, Any]) -> str:
    """Return a run's setting `reference` in words: `2048 images of world`, `the statistics in coco.npz`."""
    source = str(reference["source"])
    return f"the statistics in {source}" if is_statistics(source) else f"{reference['count']} images of {source}"
