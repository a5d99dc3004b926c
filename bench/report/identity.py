"""Identities of the cells of a run: the columns of tables, the names of lines and panels.

Base model, method, eta, guidance scale and steps always have a column. Every other field of a cell has one where cells
that are alike in those five differ by it, so that no two cells ever have the same row, line or panel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.analysis.scoring import ScoredCell
from bench.records.cell import Cell, canonical_json, content_hash, plain_number
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
    of: Callable[[Cell], str]


def traits(run: Run, cells: Sequence[ScoredCell]) -> list[Trait]:
    """Return base, method, eta, guidance, steps, and all other fields that distinguish the cells."""
    return [
        Trait("Base", False, lambda cell: f"{cell.base.name}{' (cost only)' if cell.cost_only else ''}"),
        Trait("Method", False, lambda cell: run.labels.get(cell.method, cell.method)),
        Trait("η", True, lambda cell: NO_VALUE if cell.eta is None else plain_number(cell.eta)),
        Trait("Guidance", True, lambda cell: plain_number(cell.guidance_scale)),
        Trait("Steps", True, lambda cell: str(cell.steps)),
        *further_traits([scored.record.cell for scored in cells]),
    ]


def further_traits(cells: Sequence[Cell]) -> list[Trait]:
    """The fields by which cells differ that are alike in base, method, eta, guidance scale and steps."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.base.name, cell.method, cell.eta, cell.guidance_scale, cell.steps), []).append(cell)
    differing: dict[str, None] = {}
    for group in groups.values():
        if len(group) > 1:
            fields = [_fields(cell) for cell in group]
            names = dict.fromkeys(name for found in fields for name in found)
            differing |= dict.fromkeys(name for name in names if len({found.get(name) for found in fields}) > 1)
    return [Trait(_head(name), False, lambda cell, name=name: _fields(cell).get(name, NO_VALUE)) for name in differing]  # type: ignore[misc]


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


def _head(path: str) -> str:
    """`strength` for `task.settings.strength`."""
    words = [part for part in path.split(".") if part not in _SILENT]
    return " ".join(words or [path]).replace("_", " ")


def _fields(cell: Cell) -> Mapping[str, str]:
    """Every value of a cell as text, by its path."""
    return {path: _text(value) for path, value in _walk("", asdict(cell)) if path not in ("prompts.source",)}


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
