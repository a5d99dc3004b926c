"""The command line of a verb: flags, and settings as name=value, +name=value or ~name.

A value's text is kept as written; its meaning depends on the setting (see `bench.experiment.yaml_reader`). With -m each
job gets a separate directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from typing import Any

from bench.experiment.conf_files import GROUPS
from bench.experiment.yaml_reader import unquoted
from bench.records.cell import content_hash
from bench.records.errors import BenchError

FLAGS = "--help, --cfg job (shows the composed settings), -m (one run for each of several values) and --no-color"
MOST_JOBS = 1000
_DIRECTORIES = ("results", "output")
"""Settings that name a job's output."""
_LONGEST = 120


@dataclass(frozen=True, slots=True)
class Override:
    """One argument: `sign` is +, ++, ~ or empty, `text` the value as written, None where there is none."""

    sign: str
    name: str
    text: str | None

    @property
    def path(self) -> tuple[str, ...]:
        """The name's parts."""
        return tuple(self.name.split("."))

    def names(self) -> list[str]:
        """Return the names of a choice."""
        text = (self.text or "").strip()
        inner = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
        names = [unquoted(part.strip()) for part in split(inner)]
        return [] if names in ([""], ["null"]) or self.sign == "~" else names


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The parsed command line: help, the composed settings, or jobs, of which -m creates several."""

    overrides: tuple[Override, ...]
    help: bool = False
    show: bool = False
    sweep: bool = False

    def jobs(self) -> list[tuple[Override, ...]]:
        """Return the overrides of each job; raises BenchError for too many."""
        if not self.sweep:
            return [self.overrides]
        choices = [alternatives(override) for override in self.overrides]
        jobs = [job for job, _ in zip(product(*choices), range(MOST_JOBS + 1), strict=False)]
        if len(jobs) > MOST_JOBS:
            raise BenchError(f"-m was given and would run more than {MOST_JOBS} jobs; give fewer values")
        return jobs


def read_arguments(verb: str, arguments: Sequence[str]) -> CommandLine:
    """Parse the arguments of a verb; raises BenchError for anything but flags of tcd-bench and settings."""
    overrides: list[Override] = []
    flags: set[str] = set()
    waiting = iter(arguments)
    for argument in waiting:
        if argument in ("-h", "--help"):
            flags.add("help")
        elif argument in ("-m", "--multirun"):
            flags.add("sweep")
        elif argument in ("-c", "--cfg", "--cfg=job", "-cjob"):
            if argument[-3:] != "job" and (what := next(waiting, None)) != "job":
                raise BenchError(f"{argument} {what or ''}".rstrip() + " was given; write --cfg job")
            flags.add("show")
        else:
            overrides.append(_override(verb, argument))
    return CommandLine(tuple(overrides), **dict.fromkeys(flags, True))


def class_alone(overrides: Sequence[Override]) -> bool:
    """Whether conform was given a class without a file of conf/scheduler: the settings are then those of the class."""
    names = {override.name for override in overrides}
    return "scheduler._target_" in names and "scheduler" not in names


def alternatives(override: Override) -> list[Override]:
    """Return the overrides of one with several values in a sweep: a,b or range(1,4); a quoted comma is text."""
    if override.text is None:
        return [override]
    if found := re.fullmatch(r"range\((-?\d{1,9}),\s*(-?\d{1,9})(?:,\s*(-?[1-9]\d{0,8}))?\)", override.text):
        first, last, step = (int(text or 1) for text in found.groups())
        texts = [str(number) for number, _ in zip(range(first, last, step), range(MOST_JOBS + 1), strict=False)]
    else:
        texts = [part.strip() for part in split(override.text)] if "," in override.text else [override.text]
    return [Override(override.sign, override.name, text) for text in texts]


def split(text: str) -> list[str]:
    """Return the parts between commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for before, letter in zip(f" {text}", text, strict=False):
        if quote:
            quote = "" if letter == quote and before != "\\" else quote
        elif letter in "'\"" and not parts[-1].strip(" [{:"):
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth <= 0:
            parts.append("")
            continue
        parts[-1] += letter
    return parts


def _override(verb: str, argument: str) -> Override:
    found = re.fullmatch(r"(\+\+|\+|~)?([^=]*)(?:=(.*))?", argument, re.DOTALL)
    sign, name, text = found.groups(default=None) if found else ("", argument, None)
    if argument[:1] == "-" or not name or (text is None and sign != "~"):
        bare = argument.lstrip("-")
        meant = f"; settings are written without dashes, as {bare}" if argument[:1] == "-" and "=" in bare[1:] else ""
        raise BenchError(
            f"{argument or repr(argument)} was given; tcd-bench {verb} takes settings, as name=value, and "
            f"{FLAGS}{meant}"
        )
    if re.match(r"hydra\b", name):
        raise BenchError(f"{argument} was given; tcd-bench does not read Hydra's own settings, omit it")
    return Override(sign or "", name, text)


def chosen(overrides: Sequence[Override], groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the choices among files in Hydra's form; raises BenchError for unknown names."""
    problems = []
    for override in overrides:
        names, known = override.names(), groups[override.name]
        given = f"{override.name}={override.text}"
        if unknown := [name for name in names if name not in known]:
            near = get_close_matches(unknown[0], known, 1, 0.6)
            meant = f"did you mean {near[0]}? There are" if near else "choose from"
            said = f"{override.name}={unknown[0]} was given, but conf/{override.name} has no such file"
            problems.append(f"{said}; {meant} {', '.join(known)}")
        elif len(names) > 1 and not _takes_several(override.name):
            problems.append(f"{given} was given; choose one of {', '.join(known)}")
        elif twice := [name for i, name in enumerate(names) if name in names[:i]]:
            problems.append(f"{given} was given; {twice[0]} occurs twice, give it once")
        elif _takes_several(override.name):
            yield f"{override.name}=[{','.join(map(_quoted, names))}]"
        else:
            yield f"{override.name}={_quoted(names[0])}" if names else f"~{override.name}"
    if problems:
        raise BenchError("\n".join(problems))


def _takes_several(group: str) -> bool:
    return "*" in GROUPS[group]


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "\\'") + "'"


def label_jobs(jobs: Sequence[tuple[Override, ...]]) -> list[str]:
    """Return the distinguishing settings of each job, as in `seed=0,methods.tcd.steps=[2]`; empty for a single job."""
    written = [[(override.name, (override.text or "").strip()) for override in job] for job in jobs]
    varied = {pair[0] for pairs in zip(*written, strict=True) for pair in pairs if len(set(pairs)) > 1}
    return [",".join(f"{name}={text}" for name, text in job if name in varied) for job in written]


def give_directories(jobs: Sequence[dict[str, Any]], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return the settings of the jobs with distinct directories: `results/mini` becomes `results/mini-seed=0`.

    Directories that are already distinct are kept. Raises BenchError for identical jobs.
    """
    for setting in _DIRECTORIES:
        where = [str(settings[setting]).rstrip("/") for settings in jobs if settings.get(setting)]
        if len(where) < len(jobs) or len(set(where)) == len(jobs):
            continue
        own = [f"{directory}-{_as_name(label)}" for directory, label in zip(where, labels, strict=True)]
        if twice := next((directory for directory in own if own.count(directory) > 1), None):
            raise BenchError(
                f"-m was given and two of its {len(jobs)} jobs would write to {setting}={twice}; give each value once"
            )
        jobs = [{**settings, setting: directory} for settings, directory in zip(jobs, own, strict=True)]
    return [*jobs]


def _as_name(label: str) -> str:
    """Return a label as part of a file's name, without the settings that the directory's name contains already."""
    parts = re.sub(r"(?:^|,)(?:name|results|output)=[^,]*", "", label).strip(",") or label
    name = re.sub(r"[^A-Za-z0-9._=,+-]+", "", parts)
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}-{content_hash(label, 8)}"


def summarise_sweep(labels: Sequence[str], jobs: Sequence[dict[str, Any]], outcomes: Sequence[str]) -> str:
    """Return one line per job: its distinguishing settings, its directory, and its outcome."""
    lines = [
        f"  {label}: {next((settings[setting] for setting in _DIRECTORIES if settings.get(setting)), '')} ({outcome})"
        for label, settings, outcome in zip(labels, jobs, outcomes, strict=True)
    ]
    return "\n".join([f"{len(jobs)} jobs:", *lines])
