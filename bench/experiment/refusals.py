"""What Hydra refuses, in one sentence of our own: what came, what there is instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any


def explain(
    error: BaseException, groups: Mapping[str, Sequence[str]], settings: Callable[[], Mapping[str, Any]]
) -> str:
    """The sentence; a nearly right name is found among `groups`, with what is in them, and the default `settings`."""
    said = _one_sentence(error)
    if found := re.search(r"Could not (?:load|find) '([\w/]+)/([^'/]+)'", said):
        group, name = found.groups()
        there = ", ".join(groups.get(group, ()))
        return f"{group}={name} was given, but conf/{group} has no such file; choose from {there}"
    if found := re.search(r"Could not override '([^']+)'", said):
        name = found[1]
        nearest = _nearest(name, [*groups, *_names(settings())])
        return f"{name} was given, but there is no such setting" + (f"; did you mean {nearest}?" if nearest else "")
    if found := re.search(r"Ambiguous value for argument '\+*([^=]+)=(.*?)' 1\. To", said):
        name, values = found.groups()
        return f"{name}={values} was given; write a list as '{name}=[{values}]', or sweep over its values with -m"
    if "advanced/override_grammar" in said:
        return f"an override cannot be read ({said.partition(' See ')[0]}); write name=value, lists as 'name=[a,b]'"
    return said


def _nearest(name: str, names: list[str]) -> str | None:
    """The dotted name whose last part is much like that of `name`, and of these the one most like it in all."""
    last = {known: known.rpartition(".")[2] for known in names}
    alike = set(get_close_matches(name.rpartition(".")[2], list(last.values()), 3, 0.7))
    return next(iter(get_close_matches(name, [known for known in names if last[known] in alike], 1, 0.0)), None)


def _names(settings: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """All dotted names of nested settings."""
    for key, value in settings.items():
        yield f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _names(value, f"{above}{key}.")


def _one_sentence(error: BaseException) -> str:
    """All that an error and its causes say, without repetitions."""
    lines: list[str] = []
    link: BaseException | None = error
    while link is not None:
        lines += [line.strip() for line in str(link).splitlines()]
        link = link.__cause__
    useful = [
        line for line in dict.fromkeys(lines) if line and not line.startswith(("full_key", "object_type", "set "))
    ]
    return " ".join(useful).rstrip(".")
