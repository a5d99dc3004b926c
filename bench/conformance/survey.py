"""Many schedulers examined in one process, each saved as a baseline; the gate runs it in another installation.

    python -m bench.conformance.survey DIRECTORY SCHEDULERS.json

The file holds `{"tcd": {"_target_": "diffusers.TCDScheduler", …}, …}`. The module needs neither Hydra nor pydantic, and
works with releases of diffusers that lack a scheduler or some of its settings: they are listed in DIRECTORY.json.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.records.errors import BenchError


@dataclass(frozen=True, slots=True)
class Survey:
    """The folder of the baselines, the versions they were made with, and the schedulers that could not be examined.

    `examined` are names of schedulers. `absent` holds the reason by scheduler that does not exist or refuses its
    settings, `broken` by one that broke down, `left_out` the settings that its class does not take: it was examined
    without them, and its baseline lists the rest. `current` is the one that is being examined.
    """

    directory: Path
    versions: Mapping[str, str]
    examined: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    current: str | None = None

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read the result of `survey` from its folder."""
        data = json.loads(directory.with_suffix(".json").read_text(encoding="utf-8"))
        left_out = {name: tuple(settings) for name, settings in data["left_out"].items()}
        return cls(directory, **{**data, "examined": tuple(data["examined"]), "left_out": left_out})

    def baseline(self, name: str) -> Path:
        """Return the path of a scheduler's baseline."""
        return self.directory / f"{name}.json"

    @property
    def name(self) -> str:
        """The versions, for example `diffusers 0.41.0, torch 2.15.0`."""
        return ", ".join(f"{library} {version}" for library, version in self.versions.items())


def survey(schedulers: Mapping[str, Mapping[str, Any]], directory: Path) -> Survey:
    """Examine each scheduler with the settings that its class takes, and write its baseline."""
    from bench.conformance.conform import tested_versions
    from bench.conformance.report import write_baseline
    from bench.conformance.verb import examine_scheduler, spec_of
    from bench.generate.schedulers import scheduler_class_of, settings_of

    examined, versions = list[str](), tested_versions()
    absent: dict[str, str] = {}
    broken: dict[str, str] = {}
    left_out: dict[str, tuple[str, ...]] = {}
    directory.mkdir(parents=True, exist_ok=True)
    for number, (name, entry) in enumerate(schedulers.items(), 1):
        print(f"{name} ({number} of {len(schedulers)}) ...", file=sys.stderr, flush=True)
        _note(Survey(directory, versions, tuple(examined), absent, left_out, broken, name))
        try:
            known = settings_of(scheduler_class_of(spec_of(entry).target))
            kept = {setting: value for setting, value in entry.items() if setting in {"_target_", *known}}
            if unknown := tuple(sorted(entry.keys() - kept.keys())):
                left_out[name] = unknown
            write_baseline(examine_scheduler({"scheduler": kept}), directory / f"{name}.json", kept)
            examined.append(name)
        except BenchError as error:
            absent[name] = str(error)
        except (Exception, SystemExit) as error:  # whatever one scheduler does, the others are examined
            broken[name] = f"it breaks down: {type(error).__name__}: {' '.join(str(error).split())}"
    found = Survey(directory, versions, tuple(examined), absent, left_out, broken)
    _note(found)
    return found


def scheduler_classes(package: str = "diffusers.schedulers") -> list[str]:
    """Return the dotted paths of all classes below a package that have set_timesteps and step, sorted by name.

    They are read from the source, so that one whose module needs a library that is not installed is listed as well.
    """
    spec = importlib.util.find_spec(package)
    found: dict[str, str] = {}
    for folder in map(Path, (spec and spec.submodule_search_locations) or ()):
        for path in sorted(folder.rglob("*.py")):
            module = ".".join([package, *path.relative_to(folder).with_suffix("").parts])
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                methods = {n.name for n in getattr(node, "body", ()) if isinstance(n, ast.FunctionDef)}
                if isinstance(node, ast.ClassDef) and {"set_timesteps", "step"} <= methods:
                    found.setdefault(node.name, f"{module}.{node.name}")
    return [found[name] for name in sorted(found)]


def _note(found: Survey) -> None:
    """Write what was found so far, so that a process that ends has told which scheduler ended it."""
    note = {name: value for name, value in asdict(found).items() if name != "directory"}
    found.directory.with_suffix(".json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    survey(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), Path(sys.argv[1]))
