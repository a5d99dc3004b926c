"""Errors of Hydra, OmegaConf and pydantic, in sentences of this package: the value, the allowed ones, the remedy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from bench.experiment.schema import Types, misfits, nearest, types_at, value_at


def in_one_message(problems: Sequence[str], what: str = "settings") -> str:
    """Return one sentence, or a line for each of several below a line that counts them."""
    lines = list(dict.fromkeys(line for problem in problems for line in problem.splitlines()))
    if len(lines) == 1:
        return lines[0]
    return "\n".join([f"{len(lines)} {what} are wrong:", *(f"  {line}" for line in lines)])


def explain_composition(error: BaseException, groups: Mapping[str, Sequence[str]]) -> str:
    """Explain errors of Hydra and OmegaConf on files and ${...}; choices of the command line were checked before."""
    said = _one_sentence(error)
    if found := re.search(r"(?:Could not (?:load|find)|In '[^']*': Could not find) '([\w/]+)/([^'/]+)'", said):
        group, name = found.groups()
        there = ", ".join(groups.get(group, ())) or "nothing"
        return f"a list of defaults names {group}/{name}, but conf/{group} has no such file; choose from {there}"
    if found := re.search(r"Interpolation key '([^']+)' not found", said):
        return (
            f"${{{found[1]}}} was given, but there is no setting {found[1]}; write \\${{ where a text has these signs"
        )
    if found := re.search(r"Environment variable '([^']+)' not found", said):
        return f"${{oc.env:{found[1]}}} was given, but the environment variable {found[1]} is not set"
    return said


def unknown_setting(name: str, schema: Types, settings: Mapping[str, Any], groups: Sequence[str]) -> str:
    """Return a sentence on an unknown setting, with the nearest existing one."""
    path = name.split(".")
    if others := [parent for parent in types_at(schema, path[:-1]) if types_at((parent,), path[-1:])]:
        types = (member for parent in others for member in types_at((parent,), ("kind",)))
        kinds = sorted(kind for member in types for kind in getattr(member, "__args__", ()))
        above = ".".join(path[:-1])
        own = value_at(settings, [*path[:-1], "kind"])
        return f"{name} was given, but {above}={own} has no such setting; {above}={' or '.join(kinds)} has"
    near = nearest(schema, path, settings, groups)
    return f"{name} was given, but there is no such setting" + (f"; did you mean {near}?" if near else "")


def explain_validation(error: ValidationError | None, schema: Types, settings: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each setting that is missing, unknown or of a wrong type or range."""
    said: dict[tuple[str, ...], str] = {}
    for path, value, complaint in misfits(schema, settings):
        said[path] = f"{'.'.join(path)}={written(value)} was given; {complaint}"
    for problem in error.errors() if error else ():
        path = tuple(_real_path(problem, schema))
        where = ".".join(path)
        if any(path[: len(other)] == other for other in said):
            continue
        if problem["type"] in ("missing", "missing_argument"):
            said[path] = f"{where} was not given; it has no default, so set it"
        elif problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            near = nearest(schema, path, settings)
            meant = f"did you mean {near}?" if near else "remove it, or see --help for the right name"
            said[path] = f"{where}={written(problem['input'])} was given, but there is no such setting; {meant}"
        else:
            said[path] = f"{where}={written(problem['input'])} was given; {_allowed(problem)}"
    return list(said.values())


def written(value: object) -> str:
    """Return a value in the notation of users, at most 80 characters."""
    text = _written(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _written(value: object) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower() if value is not None else "null"
    if isinstance(value, str):
        return value if value.isprintable() else json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_written, value)) + "]"
    return str(value)


def _real_path(problem: Mapping[str, Any], schema: Types) -> Iterator[str]:
    """Yield the path of an error, without pydantic's additions for variants of a union and for keys."""
    path: list[str] = []
    unknown = problem["type"] in ("unexpected_keyword_argument", "extra_forbidden")
    for i, part in enumerate(map(str, problem["loc"])):
        if types_at(schema, (*path, part)) or (unknown and i == len(problem["loc"]) - 1):
            path.append(part)
            yield part
        elif i + 1 < len(problem["loc"]) and problem["loc"][i + 1] == "[key]":
            yield part
            return


def _allowed(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "too_short":
        return "it takes at least one value"
    if problem["type"] in _PLAIN:
        return _PLAIN[problem["type"]]
    message = str(problem["msg"])
    if isinstance(problem["input"], str) and "," in problem["input"]:
        message += f"; write a list as [{problem['input']}], or run once for each value with -m"
    return message[:1].lower() + message[1:]


_PLAIN = {
    "dataclass_type": "give a table of settings, as {name: value}",
    "dict_type": "give a table, as {name: value}",
    "model_attributes_type": "give a table of settings, as {name: value}",
    "list_type": "give a list, as [a,b]",
    "string_type": "give a text",
    "union_tag_not_found": "its kind was not given",
}


def _one_sentence(error: BaseException) -> str:
    """Return the texts of an error and its causes, without repetitions."""
    lines: list[str] = []
    link: BaseException | None = error
    while link is not None:
        lines += [line.strip() for line in str(link).splitlines()]
        link = link.__cause__
    useful = [
        line for line in dict.fromkeys(lines) if line and not line.startswith(("full_key", "object_type", "set "))
    ]
    return " ".join(useful).rstrip(".")
