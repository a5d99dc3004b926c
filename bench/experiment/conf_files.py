"""Configuration files: their directories, the available choices, and the settings to which each file belongs."""

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
    "extractor": ("extractors", "*"),
    "claim": ("claims", "*"),
    "tracker": ("trackers", "*"),
    "task": ("task",),
    "executor": ("executor",),
    "scheduler": ("scheduler",),
}
"""Groups of files, and the package of each group; * stands for the file's name, and several files of such a group may
be chosen."""

PLURALS = {place[0]: group for group, place in GROUPS.items() if "*" in place}


def conf_directories() -> list[Path]:
    """Return the directories of configuration groups, first match wins: the user's ./conf, then the project's own."""
    own, users = own_directory(), Path.cwd() / "conf"
    return [users, own] if users.is_dir() and users.resolve() != own.resolve() else [own]


def own_directory() -> Path:
    """Return the project's own directory; only it holds the files with all settings of a verb."""
    package = Path(__file__).parents[1]
    return next(path for path in (package / "conf", package.parent / "conf") if path.is_dir())


def config_groups() -> dict[str, list[str]]:
    """Return the choices of each group, as in method=[tcd]: the names in each folder of `conf_directories`, sorted."""
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
    """Return the file of a group, such as method/tcd, or of a verb's settings, in one of `conf_directories`."""
    path = directory / f"{config.removesuffix('.yaml')}.yaml"
    known = config.partition("/")[0] in GROUPS if "/" in config else directory == own_directory()
    return path if known and path.is_file() else None


def package_of(config: str, header: str | None) -> str:
    """Return the package of a file's settings: that of its line `# @package`, else that of its group."""
    group, _, name = config.removesuffix(".yaml").partition("/")
    if header is not None or not name:
        return header or "_global_"
    return ".".join(part.replace("*", name.rpartition("/")[2]) for part in GROUPS[group]) or "_global_"


def read_config(path: Path, config: str, package: str, schema: Types) -> dict[str, object]:
    """Return the settings in a file of conf/; raises BenchError for unreadable files and unknown settings."""
    shown = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
    place = () if package == "_global_" else tuple(package.split("."))
    types = types_at(schema, place)
    if not types:
        raise BenchError(
            f"{shown}: its first line says `# @package {package}`, where no settings exist; omit that line, or "
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
