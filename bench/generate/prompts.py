"""Prompts, with their ground truth where it is known. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from bench.generate.prompt_files import find_prompt_file, read_prompts
from bench.mini import world
from bench.records.cell import PromptSet
from bench.records.errors import BenchError
from bench.records.reference import WORLD


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompt of each image of a cell; where a prompt has several images they are consecutive.

    `scenes` holds the ground truth of the procedural world, one per image, and is None for other sources. `rows` are
    the numbers of the prompts in their file, counted from 0, one per prompt.
    """

    identity: PromptSet
    texts: tuple[str, ...]
    scenes: tuple[world.Scene, ...] | None
    rows: tuple[int, ...] = ()


def load_prompts(
    source: str,
    count: int,
    template: str = "{}",
    column: str | None = None,
    quoted: bool | None = None,
    *,
    seed: int | None = None,
    among: int | None = None,
    images_per_prompt: int = 1,
) -> Prompts:
    """Return `count` prompts of a source, `images_per_prompt` times each: `world`, or a file.

    Files are read as in `bench.generate.prompt_files`.

    A file's prompts are its first ones, or with a `seed` the first of `shuffled` rows, since files are often sorted
    by topic. `among` limits the choice to that many first rows. The world draws its scenes independently.

    Each prompt is put into `template` in place of its {}. `bench://` begins the path of a file in this package, such as
    `bench://generate/everyday.txt` (64 prompts), `dataset://owner/name/` that of one in the local hub cache.

    Raises BenchError for a file that is missing, empty, too short or not UTF-8.
    """
    if count < 1:
        raise BenchError(f"prompts.count={count} was given; give at least 1")
    scenes = None
    rows: tuple[int, ...] = ()
    if source == WORLD:
        if column is not None or quoted is not None:
            raise BenchError("prompts.source=world has no columns; remove prompts.column and prompts.quoted")
        scenes = tuple(world.scene(seed) for seed in world.split_seeds("prompts", count))
        texts = tuple(world.caption(scene) for scene in scenes)
    else:
        texts = read_prompts(find_prompt_file(source), column, quoted)
        if len(texts) < count:
            raise BenchError(
                f"prompts.source={source} holds {len(texts)} prompts but {count} were requested; "
                f"set prompts.count to at most {len(texts)}"
            )
        rows = shuffled(min(len(texts), max(count, among or len(texts))), seed)[:count]
        texts = tuple(texts[row] for row in rows)
    texts = tuple(template.replace("{}", text) for text in texts for _ in range(images_per_prompt))
    if scenes is not None:
        scenes = tuple(scene for scene in scenes for _ in range(images_per_prompt))
    return Prompts(PromptSet(source, len(texts), hash_texts(texts)), texts, scenes, rows)


def shuffled(count: int, seed: int | None) -> tuple[int, ...]:
    """Return the rows 0 to count − 1, in an order given by the seed alone on every machine; in order without a seed."""
    if seed is None:
        return tuple(range(count))
    return tuple(sorted(range(count), key=lambda row: hashlib.sha256(f"{seed}/{row}".encode()).digest()))


def hash_texts(texts: Sequence[str]) -> str:
    """Return the hash that identifies prompts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
