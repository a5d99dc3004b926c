"""Sphinx directives that generate the reference from the code: settings, scores, commands, columns of scores.csv."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from inspect import getdoc
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from docutils import nodes
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

CONF = Path(__file__).parents[2] / "conf"
SCORES = Path(__file__).parents[1] / "reference" / "scores.yaml"
"""What each score measures, what it needs, its range and its source."""
EXPERIMENTAL = "Experimental: its numbers were not yet seen on the published weights."
GROUPS = {"task": "task", "executor": "executor", "trackers": "tracker"}
"""Settings whose `kind` chooses one of several dataclasses, and the folder of conf/ with their defaults."""
NAMED = {
    "models": "<name>",
    "methods": "<name>",
    "claims": "<name>",
    "extractors": "<name>",
    "trackers": "<name>",
    "adapters": "<adapter>",
    "parts": "<part>",
    "quality": "<score>",
}
"""What stands in a documented path for the names that a user gives."""


DESCRIBED: set[str] = set()
"""Paths that were described on a page that is being written; a later setting of the same path is not indexed."""


def settings_of(config: str) -> type[Any]:
    """The typed settings of a file of conf/: config, score, conform or gate."""
    from bench.experiment.compose import schema_of

    return schema_of(config)


def describe_settings(config: str) -> Iterator[str]:
    """All settings of a verb as Markdown."""
    defaults = yaml.safe_load((CONF / f"{config}.yaml").read_text(encoding="utf-8"))
    yield "## Top level\n"
    yield from _describe_class(settings_of(config), "", defaults)


def _describe_class(kind: type[Any], above: str, defaults: Any, known: frozenset[str] = frozenset()) -> Iterator[str]:
    hints = get_type_hints(kind, include_extras=True)
    later = []
    for field in dataclasses.fields(kind):
        path = f"{above}.{field.name}" if above else field.name
        hint = _plain(hints[field.name])
        chooses_class = field.name == "kind" and NoneType not in get_args(hint)
        if chooses_class or path in known:
            continue
        named = get_origin(hint) is dict
        inner = [
            member for member in _members(get_args(hint)[1] if named else hint) if dataclasses.is_dataclass(member)
        ]
        if inner:
            values = defaults.get(field.name, {}) if isinstance(defaults, dict) and not named else {}
            later.append((f"{path}.{NAMED[field.name]}" if named else path, field.name, inner, values))
        yield from _describe_setting(kind, field, path, hints[field.name], defaults, bool(inner))
    for path, name, kinds, values in later:
        yield f"## `{path}`\n"
        if len(kinds) == 1:
            yield f"{getdoc(kinds[0])}\n"
            if name in NAMED and isinstance(defaults, dict) and defaults.get(name):
                yield "Defaults:\n\n| name | value |\n|---|---|"
                yield from (f"| `{own}` | {_in_words(value)} |" for own, value in defaults[name].items())
                yield ""
            yield from _describe_class(kinds[0], path, values)
        else:
            yield from _describe_choices(path, name, kinds)


def _in_words(table: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in table.items())


def _describe_choices(path: str, name: str, kinds: list[Any]) -> Iterator[str]:
    """Several dataclasses that `kind` chooses among; what all of them have comes first, and once."""
    seen: set[str] = set()
    group = GROUPS[name]
    for kind in kinds:
        for base in kind.__mro__[1:]:
            if dataclasses.is_dataclass(base) and base.__name__ not in seen:
                seen.add(base.__name__)
                yield f"{getdoc(base)}\n"
                yield from _describe_class(base, path, {})
    for kind in kinds:
        choices = get_args(get_type_hints(kind)["kind"])
        yield f"### {' and '.join(f'`{group}={choice}`' for choice in choices)}\n"
        yield f"{getdoc(kind)}\n"
        above = {
            f"{path}.{f.name}" for b in kind.__mro__[1:] if dataclasses.is_dataclass(b) for f in dataclasses.fields(b)
        }
        yield from _describe_class(kind, path, _file_defaults(group, choices[0]), frozenset(above))


def _describe_setting(
    kind: type[Any], field: dataclasses.Field[Any], path: str, hint: Any, defaults: Any, has_own: bool
) -> Iterator[str]:
    yield f":::{{confval}} {path}"
    if path in DESCRIBED:
        yield ":no-index:"
    DESCRIBED.add(path)
    yield f":type: {'table, see below' if has_own else _type_of(field.name, hint)}"
    default = None if has_own else _default(field, defaults)
    if default is not None:
        yield f":default: {default}"
    yield f"\n{meaning_of(kind, field.name)}\n:::\n"


MEANT = {
    "source": "path, URL or hub id",
    "config": "path or hub id",
    "estimator": "path or hub id",
    "ref": "path or version",
}
MEANT |= {"preference_models": "path or hub id", "candidate_ref": "path or version"}


def _type_of(name: str, hint: Any) -> str:
    """A type in words; most sources are paths, some settings also take other names."""
    return describe_type(hint).replace("path, URL or hub id", MEANT.get(name, "path or URL"))


def _file_defaults(group: str, kind: str) -> Any:
    for path in sorted((CONF / group).glob("*.yaml")):
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if found.get("kind") == kind:
            return found
    return {}


def meaning_of(kind: type[Any], name: str) -> str:
    """The docstring below a field, of the class or of one that it inherits from; raises KeyError without one."""
    for owner in kind.__mro__:
        found = ModuleAnalyzer.for_module(owner.__module__).find_attr_docs() if owner is not object else {}
        if text := found.get((owner.__name__, name)):
            return " ".join(line.strip() for line in text).strip()
    raise KeyError(f"{kind.__name__}.{name} has no docstring")


def _default(field: dataclasses.Field[Any], defaults: Any) -> str | None:
    """The default value; None where a value must be given."""
    if isinstance(defaults, dict) and field.name in defaults:
        value = defaults[field.name]
    else:
        stated = field if field.default is dataclasses.MISSING else field.default
        value = getattr(stated, "default", stated)
        if (factory := getattr(stated, "default_factory", None)) not in (None, dataclasses.MISSING):
            value = factory()
    if value in ("???", dataclasses.MISSING, PydanticUndefined):
        return None
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _members(hint: Any) -> list[Any]:
    plain = _plain(hint)
    if get_origin(plain) in (Union, UnionType):
        return [member for part in get_args(plain) for member in _members(part)]
    return [plain]


def _plain(hint: Any) -> Any:
    return _plain(get_args(hint)[0]) if hasattr(hint, "__metadata__") else hint


WORDS: dict[Any, str] = {str: "text", int: "integer", float: "number", bool: "`true` or `false`", NoneType: "`null`"}


def describe_type(hint: Any) -> str:
    """A type in words, with its range: `integer from 1 to 1000`, `list of text`."""
    limits: dict[str, Any] = {}
    one_will_do = False
    while hasattr(hint, "__metadata__"):
        for entry in hint.__metadata__:
            name = getattr(getattr(entry, "func", None), "__name__", "")
            if name == "expand_home":
                return "path, URL or hub id"
            one_will_do |= name in ("_listed", "<lambda>")
            limits |= _limits(entry)
        hint = get_args(hint)[0]
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(describe_type(member) for member in inner))
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin is list:
        return f"list of {describe_type(inner[0])}" + (", or one value" if one_will_do else "")
    if origin is dict:
        return "table" if inner[1] is Any else f"table of {describe_type(inner[1])}"
    if hint is Any:
        return "any value"
    return " ".join(filter(None, (WORDS.get(hint, getattr(hint, "__name__", str(hint))), _range(limits))))


def _limits(entry: Any) -> dict[str, Any]:
    parts = getattr(entry, "metadata", [entry])
    return {
        name: getattr(part, name)
        for part in parts
        for name in ("ge", "gt", "le", "lt")
        if getattr(part, name, None) is not None
    }


def _range(limits: dict[str, Any]) -> str:
    low = f"from {limits['ge']}" if "ge" in limits else f"above {limits['gt']}" if "gt" in limits else ""
    if "le" in limits and limits["le"] != 2**31 - 1:
        return f"{low} to {limits['le']}"
    return f"{low} and below {limits['lt']}" if "lt" in limits and limits["lt"] < 2**31 else low


def describe_scores(_: str = "") -> Iterator[str]:
    """Every score as Markdown: what it needs, its range, its source."""
    from bench.experiment.tasks import SCORES_OF_TASK
    from bench.score.metrics import METRICS

    descriptions = yaml.safe_load(SCORES.read_text(encoding="utf-8"))
    for short, metric in METRICS.items():
        direction = "higher" if metric.higher_is_better else "lower"
        described, task = descriptions[short], SCORES_OF_TASK.get(short)
        needs = described["needs"] + (f"; `task={task}`" if task else "")
        yield f"`{short}` ({metric.title}, {direction} is better)\n: {described['meaning']}\n"
        yield f"  Needs: {needs}.\n  Range: {described['range']}.\n  Source: {described['source']}.\n"
        if metric.experimental:
            yield f"  {EXPERIMENTAL}\n"


def describe_commands(_: str = "") -> Iterator[str]:
    """Every verb as Markdown: what it does, its exit codes, where its settings are."""
    from bench.__main__ import CONFIGS, VERBS

    pages = {
        "config": "settings",
        **{name: f"settings-{name}" for name in ("report", "view", "score", "conform", "gate")},
    }
    for verb, function in VERBS.items():
        summary, _, codes = (getdoc(function) or "").partition("Exit codes: ")
        yield f"## `tcd-bench {verb}`\n\n{summary.strip()}\n"
        yield f"[Settings]({pages[CONFIGS.get(verb, 'config')]}.md). Exit codes:\n"
        yield from (
            f"- {'**' + code.strip().partition(' ')[0] + '**'} {code.strip().partition(' ')[2]}"
            for code in codes.rstrip(".").replace("\n", " ").split("; ")
        )
        yield ""


def describe_columns(_: str = "") -> Iterator[str]:
    """The columns of scores.csv as a Markdown table."""
    from bench.report.data_frame import COLUMNS

    yield "| column | type | meaning |\n|---|---|---|"
    for name, (dtype, meaning) in COLUMNS.items():
        yield f"| `{name}` | {dtype} | {meaning} |"


def describe_modules(_: str = "") -> Iterator[str]:
    """Every module below bench/ with the first sentence of its docstring."""
    package = CONF.parent / "bench"
    for folder in [package, *sorted(path.parent for path in package.rglob("__init__.py") if path.parent != package)]:
        rows = [(path, _first_sentence(path)) for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
        if rows:
            yield f"### `{folder.relative_to(package.parent)}`\n\n{_first_sentence(folder / '__init__.py')}\n"
            yield from (f"`{path.stem}`\n: {sentence}\n" for path, sentence in rows)


def _first_sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = re.sub(r" (numpy only|numpy|No torch)\.$", "", " ".join(text.partition("\n\n")[0].split()))
    return re.split(r"(?<=[.?!]) (?=[A-Z])", first)[0].replace("|", "\\|").replace("<", "\\<")


class Generated(SphinxDirective):
    """Parses what a function writes as part of the page."""

    has_content = False
    optional_arguments = 1
    write: Callable[[str], Iterator[str]]

    def run(self) -> list[nodes.Node]:
        """The parsed nodes."""
        text = "\n".join(type(self).write(self.arguments[0] if self.arguments else ""))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def _generated(write: Callable[[str], Iterator[str]]) -> type[Generated]:
    return type(write.__name__, (Generated,), {"write": staticmethod(write)})


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("builder-inited", lambda _: DESCRIBED.clear())
    app.add_directive("settings", _generated(describe_settings))
    app.add_directive("scores", _generated(describe_scores))
    app.add_directive("commands", _generated(describe_commands))
    app.add_directive("modules", _generated(describe_modules))
    app.add_directive("columns", _generated(describe_columns))
    return {"parallel_read_safe": True}
