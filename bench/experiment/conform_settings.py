"""The settings of `tcd-bench conform` in an installation without Hydra: the same overrides, read by the same reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

from bench.experiment.conf_files import conf_directories, config_groups, find_file
from bench.experiment.overrides import chosen, class_alone, read_arguments
from bench.experiment.yaml_reader import read_value
from bench.records.errors import BenchError, check_path

_DEFAULT = "tcd"
_PLAIN: tuple[Any, ...] = ("family", "baseline", "write")
NEEDS_FULL = "pip install 'tcd-bench[full]'"
HELP = f"""\
tcd-bench conform: a scheduler against exact solutions.

  scheduler=NAME           a file of conf/scheduler: {{names}}
  scheduler._target_=CLASS a class by its dotted path, installed or in a module of the current directory
  scheduler.SETTING=VALUE  an argument of its constructor
  family=CLASS             the diffusers class whose method it implements, if its own name differs
  baseline=FILE            known deviations, which do not fail
  write=FILE               write a new baseline; the exit code is then 0

More flags need Hydra: {NEEDS_FULL}
"""


def read_conform_settings(arguments: Sequence[str]) -> dict[str, Any] | None:
    """Return the settings of the arguments of conform; None where help was requested.

    Raises BenchError for other settings than those of conform, and for the flags that need Hydra.
    """
    asked = read_arguments("conform", arguments)
    if asked.help:
        return None
    if asked.show or asked.sweep:
        raise BenchError(f"--cfg and -m need Hydra, which is not installed: {NEEDS_FULL}")
    groups = {"scheduler": config_groups()["scheduler"]}
    files = [override for override in asked.overrides if override.name == "scheduler"]
    list(chosen(files, groups))  # refuses a name that does not exist
    name = files[-1].names()[0] if files and files[-1].names() else _DEFAULT
    settings: dict[str, Any] = dict.fromkeys(_PLAIN)
    settings["scheduler"] = {} if class_alone(asked.overrides) else _read_file(name)
    for override in asked.overrides:
        if override.name in _PLAIN and override.sign != "~":
            settings[override.name] = read_value(override.text or "", (str, NoneType), override.name)
        elif override.path[0] == "scheduler" and len(override.path) == 2:
            value = read_value(override.text or "", (Any,), override.name)
            settings["scheduler"].pop(override.path[1], None)
            settings["scheduler"] |= {} if override.sign == "~" else {override.path[1]: value}
        elif override.name != "scheduler":
            allowed = ", ".join(("scheduler", "scheduler.SETTING", *_PLAIN))
            raise BenchError(f"{override.name} was given, and conform has no such setting; it takes {allowed}")
    for name in ("baseline", "write"):
        if settings[name]:
            settings[name] = str(Path(settings[name]).expanduser())
    check_conform_paths(settings["baseline"], settings["write"])
    return settings


def _read_file(name: str) -> dict[str, Any]:
    path = next(path for folder in conf_directories() if (path := find_file(folder, f"scheduler/{name}")))
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise BenchError(f"{path} holds no settings; write the class as _target_ and its arguments")
    return found


def check_conform_paths(baseline: str | None, write: str | None) -> None:
    """Raise BenchError for a baseline that does not exist, or a place where none can be written."""
    if baseline:
        remedy = "give a JSON file, as results/conformance/tcd.json, or make one with write="
        check_path(f"baseline={baseline}", Path(baseline), "file", remedy)
    if write and Path(write).is_dir():
        raise BenchError(f"write={write} is a directory; give the name of a file in it, such as tcd.json")
    if write and (files := [str(above) for above in Path(write).parents if above.is_file()]):
        raise BenchError(f"write={write} cannot be written since {files[0]} is a file; choose another directory")
