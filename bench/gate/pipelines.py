"""Which pipelines of the installed diffusers use a scheduler, and with which arguments: read from their source.

Nothing is imported, so that the answer takes a second and needs no transformers.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_COMPATIBLE = "KarrasDiffusionSchedulers"
"""The enumeration with which pipelines say that they take any of these schedulers."""


@dataclass(frozen=True, slots=True)
class PipelineUse:
    """A pipeline's class, the schedulers that it declares, and how it sets timesteps."""

    name: str
    schedulers: frozenset[str]
    takes_sigmas: bool
    takes_timesteps: bool
    shifts: bool
    """Whether it computes a shift of the schedule from the size of the image."""


def pipelines_of(scheduler: str) -> list[PipelineUse]:
    """Return the pipelines that declare a scheduler class, by its name without modules; empty without diffusers."""
    return [use for use in _all_pipelines() if scheduler in use.schedulers]


@cache
def _all_pipelines() -> tuple[PipelineUse, ...]:
    spec = importlib.util.find_spec("diffusers")
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    members = frozenset(name for folder in folders for name in _interchangeable(folder / "schedulers"))
    found = [
        use
        for folder in folders
        for path in sorted((folder / "pipelines").rglob("pipeline_*.py"))
        if "deprecated" not in path.parts
        for use in _uses_in(path, members)
    ]
    return tuple(sorted(found, key=lambda use: use.name))


def _interchangeable(folder: Path) -> Iterator[str]:
    """The members of the enumeration, and classes that say that they can replace any of them."""
    for path in sorted(folder.glob("scheduling_*.py")):
        text = path.read_text(encoding="utf-8")
        if _COMPATIBLE not in text:
            continue
        classes = [node for node in _parse(text).body if isinstance(node, ast.ClassDef)]
        for node in classes:
            for entry in node.body:
                if not isinstance(entry, ast.Assign):
                    continue
                names = [target.id for target in entry.targets if isinstance(target, ast.Name)]
                if node.name == _COMPATIBLE:
                    yield from names
                elif "_compatibles" in names and _COMPATIBLE in ast.unparse(entry.value):
                    yield node.name


def _uses_in(path: Path, compatible: frozenset[str]) -> Iterator[PipelineUse]:
    text = path.read_text(encoding="utf-8")
    for node in _parse(text).body:
        methods = {n.name: n for n in getattr(node, "body", ()) if isinstance(n, ast.FunctionDef)}
        if not isinstance(node, ast.ClassDef) or not {"__init__", "__call__"} <= methods.keys():
            continue
        parameters = {argument.arg: argument.annotation for argument in methods["__init__"].args.args}
        annotation = parameters.get("scheduler")
        if annotation is None:
            continue
        named = {n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)}
        taken = {argument.arg for argument in (*methods["__call__"].args.args, *methods["__call__"].args.kwonlyargs)}
        schedulers = named | (compatible if _COMPATIBLE in named else frozenset())
        yield PipelineUse(
            node.name, frozenset(schedulers), "sigmas" in taken, "timesteps" in taken, "= calculate_shift(" in text
        )


def _parse(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):  # another version's syntax
        return ast.Module([], [])
