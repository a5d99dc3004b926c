"""The tree of all settings of a verb, read from its typed dataclasses, with the types of each setting.

A type is a class, a Literal, `list[...]`, `dict[...]` or Any; several form a union. Paths are tuples of names, such
as ("methods", "tcd", "steps").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

PROSE = {"text", "label", "template", "style", "reason", "author", "published"}
"""Settings of free text; any other text may name a file."""

origin: Callable[[Any], Any] = get_origin
_has_fields: Callable[[Any], bool] = is_dataclass
Types = tuple[Any, ...]
SettingPath = tuple[str, ...]


def types_at(types: Types, path: Sequence[str], settings: object = None) -> Types:
    """Return the types that the setting at `path` below one of `types` may have; empty for an unknown setting.

    Where a setting is one of several dataclasses, its `kind` in `settings` decides.
    """
    found = types
    for key in path:
        found = tuple(
            dict.fromkeys(member for parent in narrow(found, settings) for member in types_below(parent, key))
        )
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    return found


def types_below(parent: Any, key: str) -> Types:
    """Return the types under `key` of a value of type `parent`; an index stands for any element of a list."""
    if parent is Any:
        return (Any,)
    if _has_fields(parent):
        return _members(_hints(parent).get(key, ()))
    if origin(parent) is dict:
        names, values = get_args(parent)
        return _members(values) if origin(names) is not Literal or key in get_args(names) else ()
    if origin(parent) in (list, tuple) and key.isdigit():
        return _members(get_args(parent)[0])
    return ()


def elements(types: Types) -> Types:
    """Return the types of the elements of the list types."""
    return tuple(member for parent in types for member in types_below(parent, "0") if origin(parent) is list)


def is_text(types: Types) -> bool:
    """Whether a setting of these types is text, or null: its value is taken as written."""
    return bool(types) and all(takes_text(member) or member is NoneType for member in types)


def takes_text(member: Any) -> bool:
    """Whether a type is text."""
    return member is str or (origin(member) is Literal and all(isinstance(choice, str) for choice in get_args(member)))


def is_table(member: Any) -> bool:
    """Whether a value of a type has nested settings."""
    return _has_fields(member) or origin(member) is dict


def names_below(types: Types, settings: object, above: SettingPath = ()) -> Iterator[SettingPath]:
    """Yield all existing settings: fields of dataclasses, and keys of `settings` where any key may be set."""
    found = narrow(types, settings)
    keys = dict.fromkeys(key for parent in found if _has_fields(parent) for key in _hints(parent))
    if isinstance(settings, Mapping):
        keys |= {str(key): None for key in settings if any(types_below(parent, str(key)) for parent in found)}
    for parent in found:
        if origin(parent) is dict and origin(get_args(parent)[0]) is Literal:
            keys |= dict.fromkeys(get_args(get_args(parent)[0]))
    for key in keys:
        yield (*above, key)
        inner = settings.get(key) if isinstance(settings, Mapping) else None
        below = tuple(member for parent in found for member in types_below(parent, key))
        if below and Any not in below:
            yield from names_below(below, inner, (*above, key))


def nearest(types: Types, path: Sequence[str], settings: object, groups: Sequence[str] = ()) -> str | None:
    """Return the dotted name of the setting or group most similar to an unknown name.

    Candidates are first those where the path leaves the tree, then all with a similar last part; close matches first.
    """
    known = [*names_below(types, settings), *((group,) for group in groups)]
    depth = next(i for i in range(len(path)) if not types_at(types, path[: i + 1], settings))
    above, wrong = tuple(path[:depth]), path[depth]
    on_its_level = names_below(types_at(types, above, settings), value_at(settings, above))
    siblings = [*dict.fromkeys(name[0] for name in on_its_level), *(() if above else groups)]
    for likeness in (0.75, 0.6):
        for sibling in get_close_matches(wrong, [name for name in siblings if name != wrong], 1, likeness):
            corrected = (*above, sibling, *path[depth + 1 :])
            return ".".join(corrected if types_at(types, corrected, settings) else corrected[: depth + 1])
        last = get_close_matches(path[-1], [name[-1] for name in known], 3, likeness + 0.1)
        alike = [".".join(name) for name in known if name[-1] in last]
        for name in get_close_matches(".".join(path), alike, 1, 0.0):
            return name
    return None


def value_at(settings: object, path: Sequence[str]) -> object:
    """Return the value of plain settings at `path`; None where there is none."""
    for key in path:
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    return settings


def references(settings: object, path: SettingPath = ()) -> Iterator[tuple[SettingPath, str]]:
    """Yield the texts that refer to other settings or to the environment, each with its path."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from references(value, (*path, str(key)))
    elif isinstance(settings, list):
        for i, value in enumerate(settings):
            yield from references(value, (*path, str(i)))
    elif isinstance(settings, str) and "${" in settings:
        yield path, settings


def misfits(types: Types, value: object, path: SettingPath = ()) -> Iterator[tuple[SettingPath, object, str]]:
    """Yield path, value and complaint for values that pydantic would convert silently: truth values in place of
    numbers, empty texts, and numbers that are infinite or NaN.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            below = tuple(member for parent in narrow(types, value) for member in types_below(parent, str(key)))
            yield from misfits(below, inner, (*path, str(key)))
    elif isinstance(value, list | tuple):
        below = elements(types) or tuple(member for member in types if member is Any)
        for i, inner in enumerate(value):
            yield from misfits(below, inner, (*path, str(i)))
    elif isinstance(value, bool) and {int, float} & {*types, *elements(types)} and not {bool, Any} & {*types}:
        yield path, value, "give a number"
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, value, "give a finite number"
    elif isinstance(value, str) and str in (*types, *elements(types)):
        if not value:
            yield path, value, "it is empty; omit the setting, or give a text"
        elif "\0" in value or (
            not PROSE & {*path} and any(len(part.encode(errors="replace")) > 255 for part in value.split("/"))
        ):
            yield path, value, "no file can have such a name, give a shorter name"


def _members(annotation: Any) -> Types:
    if annotation == ():
        return ()
    if origin(annotation) in (Union, UnionType):
        return tuple(dict.fromkeys(member for part in get_args(annotation) for member in _members(part)))
    return (NoneType if annotation is None else annotation,)


def narrow(types: Types, settings: object) -> Types:
    """Return the types without the dataclasses that the `kind` in `settings` excludes."""
    tag = settings.get("kind") if isinstance(settings, Mapping) else None
    variants = [member for member in types if _has_fields(member) and "kind" in _hints(member)]
    fitting = [member for member in variants if tag in get_args(_hints(member)["kind"])]
    return tuple(member for member in types if member not in variants or member in fitting) if fitting else types


@cache
def _hints(dataclass: Any) -> dict[str, Any]:
    hints = get_type_hints(dataclass)
    return {field.name: hints[field.name] for field in fields(dataclass)}
