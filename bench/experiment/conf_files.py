"""Configuration files: where they lie, which may be chosen, and where in the settings each belongs."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from bench.experiment.schema import Types, types_at
from bench.experiment.yaml_reader import read_file
from bench.records.errors import BenchError

GROUPS = {
    "experiment": (),
    "model": ("models", "*"),
    "method": ("methods", "*"),
    "claim": ("claims", "*"),
    "tracker": ("trackers", "*"),
    "task": ("task",),
    "executor": ("executor",),
    "scheduler": ("scheduler",),
}
"""Groups of files, and where the settings of one belong; * stands for its own name, and of such groups several files
may be chosen."""

PLURALS = {place[0]: group for group, place in GROUPS.items() if "*" in place}


def conf_directories() -> list[Path]:
    """Where files of groups are looked for, first match wins: the user's ./conf, then the project's own."""
    own, users = own_directory(), Path.cwd() / "conf"
    return [users, own] if users.is_dir() and users.resolve() != own.resolve() else [own]


def own_directory() -> Path:
    """The project's own files; only here are those that hold all settings of a verb."""
    package = Path(__file__).parents[1]
    return next(path for path in (package / "conf", package.parent / "conf") if path.is_dir())


def config_groups() -> dict[str, list[str]]:
    """What may be chosen, as in method=[tcd]: the names in each folder of `conf_directories`, sorted."""
    return {
        group: sorted(
            {
                path.relative_to(folder / group).with_suffix("").as_posix()
                for folder in conf_directories()
                for path in (folder / group).rglob("*.yaml")
                if path.is_file()
            }
        )
        for group in sorted(GROUPS)
    }


def find_file(directory: Path, config: str) -> Path | None:
    """The file of a group, as method/tcd, or of all settings of a verb, in one of `conf_directories`."""
    path = directory / f"{config.removesuffix('.yaml')}.yaml"
    known = config.partition("/")[0] in GROUPS if "/" in config else directory == own_directory()
    return path if known and path.is_file() else None


def package_of(config: str, header: str | None) -> str:
    """Where a file's settings belong: as its line `# @package` says, else as its group does."""
    group, _, name = config.removesuffix(".yaml").partition("/")
    if header is not None or not name:
        return header or "_global_"
    return ".".join(part.replace("*", name.rpartition("/")[2]) for part in GROUPS[group]) or "_global_"


def read_config(path: Path, config: str, package: str, schema: Types) -> dict[str, object]:
    """The settings in a file of conf/; raises BenchError for what cannot be read or is no setting."""
    shown = _shown(path)
    place = () if package == "_global_" else tuple(package.split("."))
    types = types_at(schema, place)
    if not types:
        raise BenchError(
            f"{shown}: its first line says `# @package {package}`, where no settings are; leave that line out, or "
            f"write `# @package {package_of(config, None)}`"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{shown}: it cannot be read as UTF-8 text ({error})") from error
    if path.parent.resolve() != own_directory() / config.rpartition("/")[0] and find_file(own_directory(), config):
        _say_once(f"{shown} is used instead of the file of that name that comes with tcd-bench")
    return read_file(text, shown, types, place)


@cache
def _say_once(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
