"""YAML read by the typed schema: in files, and in values of the command line.

Plain YAML guesses types from the look of a text, so that a Slurm time of 1:30:00 becomes 5400 and a commit 12e4567
infinity. Here a setting that is text stays the text that was written; elsewhere true, false, null and numbers are read
as YAML 1.2 reads them. Anything unknown or given twice is refused with its line and column.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

import yaml

from bench.experiment.schema import (
    SettingPath,
    Types,
    elements,
    is_table,
    is_text,
    narrow,
    nearest,
    origin,
    takes_text,
    types_below,
)
from bench.records.errors import BenchError

INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+|0o[0-7]+")
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NO_FINITE_NUMBER = re.compile(r"[-+]?\.?(inf|nan)", re.IGNORECASE)
NOTHING = ("", "~", "null", "Null", "NULL")
DEPTH = 50
"""Maximum nesting of settings; real settings have at most five levels."""
FAST = 5000
"""Characters below which libyaml reads a file: it is faster, and too deep a nesting in a longer one would crash it."""
_Fast = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def read_file(text: str, file: str, types: Types, package: SettingPath) -> dict[str, Any]:
    """Return the settings in a file's text that belong at `package`, with the types `types`; `defaults` are unchanged.

    Raises BenchError that names file, line and column of anything that cannot be read or is not a setting.
    """
    reader = _Reader(file)
    try:
        node = yaml.compose(text, Loader=_Fast if len(text) < FAST else yaml.BaseLoader)
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise BenchError(f"{file}: settings were expected, as in name: value")
        found = reader.table(node, types, package, is_file=True)
    except yaml.YAMLError as error:
        raise BenchError(f"{file}{_place(error)}: {_problem(error)}") from error
    except RecursionError as error:
        raise BenchError(f"{file}: it is nested too deeply") from error
    if reader.problems:
        raise BenchError("\n".join(reader.problems))
    return found


def read_value(text: str, types: Types, name: str) -> Any:
    """Parse the command line's value for the setting `name`; raises BenchError for brackets that are not closed."""
    if is_text(types):
        return unquoted(text) if text not in ("null", "~") or NoneType not in types else None
    if text[:1] not in ("[", "{"):
        bare = unquoted(text)
        return bare if bare != text else scalar(text, types)
    try:
        reader = _Reader("")
        found = reader.value(yaml.compose(text, Loader=yaml.BaseLoader), types, (name,))  # type: ignore[arg-type]
    except (yaml.YAMLError, RecursionError) as error:
        said = _problem(error) if isinstance(error, yaml.YAMLError) else "it is nested too deeply"
        raise BenchError(
            f"{name}={text} was given, which cannot be read ({said}); write lists as '{name}=[a,b]', tables as "
            f"'{name}={{a: b}}', and put double quotes around a text that holds brackets, commas or colons"
        ) from error
    if reader.problems:
        raise BenchError(f"{name}={text} was given; {'; '.join(reader.problems)}")
    return found


def unquoted(text: str) -> str:
    """Return a text without the quotation marks around it."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1].replace(f"\\{text[0]}", text[0])
    return text


def scalar(text: str, types: Types) -> Any:
    """Convert a text without quotes to one of the types: a truth value, a number, null, or the text itself.

    Where text is allowed among other types, only those are tried; otherwise all forms of scalars.
    """
    wanted = {*types, *elements(types)}
    if text in NOTHING and not (is_text(types) and NoneType not in wanted):
        return None
    if all(takes_text(member) or member is NoneType or origin(member) is list for member in wanted):
        return text
    either = not any(takes_text(member) for member in wanted) or Any in wanted
    if text.lower() in ("true", "false") and (either or bool in wanted):
        return text.lower() == "true"
    with suppress(ValueError, OverflowError):  # thousands of digits
        if INTEGER.fullmatch(text) and (either or {int, float} & wanted):
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        if NUMBER.fullmatch(text) and (either or float in wanted) and math.isfinite(number := float(text)):
            return number
        if NO_FINITE_NUMBER.fullmatch(text) and (either or float in wanted):
            return float(text.replace(".", ""))
    return text


@dataclass
class _Reader:
    file: str
    problems: list[str] = field(default_factory=list)

    def value(self, node: yaml.Node, types: Types, path: SettingPath) -> Any:
        if len(path) > DEPTH:
            raise RecursionError
        if node.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"):
            self.complain(node, f"{node.tag} is a tag, and tags are not supported; omit it")
        if isinstance(node, yaml.ScalarNode):
            return node.value if node.style else scalar(node.value, types)
        if isinstance(node, yaml.SequenceNode):
            inner = elements(types) or (Any,)
            return [self.value(entry, inner, (*path, str(i))) for i, entry in enumerate(node.value)]
        return self.table(node, types, path)

    def table(self, node: yaml.Node, types: Types, path: SettingPath, *, is_file: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = {}
        types = narrow(types, {key.value: value.value for key, value in node.value if key.value == "kind"})
        for key, inner in _pairs(node):
            if not isinstance(key, yaml.ScalarNode):
                self.complain(key, "a name was expected before the colon")
                continue
            name = key.value
            if name in found:
                self.complain(key, f"{name} is given twice")
            below = tuple(member for parent in types for member in types_below(parent, name))
            if is_file and name == "defaults":
                below = (Any,)
            elif not below and any(is_table(member) for member in types):
                near = nearest(types, (name,), None)
                meant = f"; did you mean {'.'.join((*path, near))}?" if near else ""
                self.complain(key, f"there is no setting {'.'.join((*path, name))}{meant}")
                continue
            found[name] = self.value(inner, below or (Any,), (*path, name))
        return found

    def complain(self, node: yaml.Node, what: str) -> None:
        mark = node.start_mark
        place = f"{self.file}, line {mark.line + 1}, column {mark.column + 1}: " if self.file else ""
        self.problems.append(f"{place}{what}")


def _pairs(node: yaml.Node) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Yield a table's keys and values; in {a:1}, without a blank, YAML sees one key without a value."""
    for key, value in node.value:
        together = isinstance(key, yaml.ScalarNode) and not key.style and ":" in key.value
        if together and isinstance(value, yaml.ScalarNode) and not value.style and not value.value:
            name, _, text = key.value.partition(":")
            yield (
                yaml.ScalarNode(key.tag, name, key.start_mark, key.end_mark),
                yaml.ScalarNode(value.tag, text, key.start_mark, value.end_mark),
            )
        else:
            yield key, value


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _problem(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    return " ".join(f"{context + ': ' if context else ''}{problem}".split())
