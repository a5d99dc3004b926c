"""Identities of the cells of a run: the columns of tables, the names of lines and panels.

Base model, method, eta, guidance scale and steps always have a column. Every other field of a cell has one where cells
that are alike in those five differ by it, so that no two cells ever have the same row, line or panel.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.analysis.scoring import ScoredCell
from bench.records.cell import Cell, canonical_json, content_hash, plain, plain_number
from bench.records.run import Run

NO_VALUE = "–"
_LONGEST = 32
"""Longer values of a field are cut, with a hash of the whole."""
_SILENT = {"base", "task", "settings", "scheduler"}
"""Parts of a field's path that its name leaves out."""


@dataclass(frozen=True)
class Trait:
    """A column of every table about cells: its head, whether it is flush right, and a cell's text in it."""

    head: str
    numeric: bool
    of: Callable[[ScoredCell], str]


def sample_in_words(run: Run, cells: Sequence[ScoredCell]) -> str:
    """Return the images per cell, `102 to 512 images` where cells of a run differ: `512 images of 64 prompts`."""
    least = min((cell.record.images.count for cell in cells if cell.record.images), default=0)
    return f"{least:,} to {run.sample}" if of_several_sizes(cells) else run.sample


def of_several_sizes(cells: Sequence[ScoredCell]) -> bool:
    """Whether cells of the same prompts have different numbers of images."""
    found: dict[Hashable, set[int]] = {}
    for cell in cells:
        if cell.record.images:
            found.setdefault(cell.prompts, set()).add(cell.record.images.count)
    return any(len(counts) > 1 for counts in found.values())


def traits(run: Run, cells: Sequence[ScoredCell]) -> list[Trait]:
    """Return base, method, eta, guidance, steps, all other fields that distinguish the cells, and how many images."""
    images = Trait("Images", True, lambda scored: str(scored.record.images.count if scored.record.images else NO_VALUE))
    return [
        _of_cell("Base", False, lambda cell: f"{cell.base.name}{' (cost only)' if cell.cost_only else ''}"),
        _of_cell("Method", False, lambda cell: run.labels.get(cell.method, cell.method)),
        _of_cell("η", True, lambda cell: NO_VALUE if cell.eta is None else plain_number(cell.eta)),
        _of_cell("Guidance", True, lambda cell: plain_number(cell.guidance_scale)),
        _of_cell("Steps", True, lambda cell: str(cell.steps)),
        *further_traits(cells),
        *([images] if of_several_sizes(cells) else []),
    ]


def further_traits(cells: Sequence[ScoredCell]) -> list[Trait]:
    """The traits in which joined runs differ, and the fields in which cells differ that are otherwise alike.

    Alike are cells of one base, method, eta, guidance scale and steps.
    """
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for scored in cells:
        cell = scored.record.cell
        key = cell.base.name, cell.method, cell.eta, cell.guidance_scale, cell.steps, *scored.traits.items()
        groups.setdefault(key, []).append(cell)
    differing: dict[str, None] = {}
    for group in groups.values():
        if len(group) > 1:
            differing |= dict.fromkeys(differing_fields(group))
    told = dict.fromkeys(head for scored in cells for head in scored.traits)
    return [*map(_of_runs, told), *map(_of_field, differing)]


def differing_fields(cells: Sequence[Cell]) -> list[str]:
    """Return the paths of the fields in which cells differ."""
    fields = [fields_in_words(cell) for cell in cells]
    names = dict.fromkeys(name for found in fields for name in found)
    return [name for name in names if len({found.get(name) for found in fields}) > 1]


def _of_runs(head: str) -> Trait:
    return Trait(head, False, lambda scored: scored.traits.get(head, NO_VALUE))


def _of_field(path: str) -> Trait:
    return _of_cell(head_of(path), False, lambda cell: fields_in_words(cell).get(path, NO_VALUE))


def _of_cell(head: str, numeric: bool, of: Callable[[Cell], str]) -> Trait:
    return Trait(head, numeric, lambda scored: of(scored.record.cell))


def task_in_words(cell: Cell) -> str:
    """Its kind and settings: `inpainting, strength 0.99`."""
    parts = [cell.task.kind.replace("_", " ")]
    for name, value in cell.task.settings.items():
        if name != "kind" and value not in (None, ""):
            parts.append(f"{name.replace('_', ' ')} {_text(value)}")
    return ", ".join(parts + ([f"inputs {cell.task.inputs}"] if cell.task.inputs else []))


def adapters_in_words(cell: Cell) -> str:
    """Names and scales of the adapters, and what their weights are: `tcd × 0.7 (1a2b3c4d5e6f7081), fused`."""
    adapters = [f"{a.name} × {plain_number(a.scale)} ({_text(a.weights)})" for a in cell.adapters]
    return ", ".join(adapters + (["fused"] if adapters and cell.fused else []))


def scheduler_in_words(cell: Cell) -> str:
    """The class, and the settings that are not the base's noise schedule."""
    own = {k: v for k, v in cell.scheduler.settings.items() if cell.base.noise_schedule.get(k, _SILENT) != v}
    return ", ".join([cell.scheduler.target.rpartition(".")[2], *(f"{k} {_text(v)}" for k, v in own.items())])


def head_of(path: str) -> str:
    """Return the name of a field in a column's head: `strength` for `task.settings.strength`."""
    words = [part for part in path.split(".") if part not in _SILENT]
    return " ".join(words or [path]).replace("_", " ")


def fields_in_words(cell: Cell) -> Mapping[str, str]:
    """Return every value of a cell as text, by its path."""
    return {path: _text(value) for path, value in _walk("", plain(cell)) if path not in ("prompts.source",)}


def _walk(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _walk(f"{path}.{name}" if path else str(name), part)
    elif isinstance(value, (list, tuple)) and all(isinstance(part, Mapping) for part in value):
        for part in value:
            yield from _walk(f"{path}.{part.get('name') or part.get('role')}", part)
    else:
        yield path, value


def _text(value: Any) -> str:
    if isinstance(value, float):
        return plain_number(value)
    text = value if isinstance(value, str) else canonical_json(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 8]}… {content_hash(text)[:6]}"
