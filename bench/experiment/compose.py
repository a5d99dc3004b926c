"""Hydra's edge: command-line overrides over conf/ → plain settings. Nothing behind it knows Hydra or OmegaConf."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from bench.experiment.refusals import explain
from bench.records import BenchError

Settings = dict[str, Any]


def conf_directories() -> list[Path]:
    """Where configurations are looked for, first match wins: the user's ./conf, then the project's own."""
    package = Path(__file__).parents[1]
    own = next(path for path in (package / "conf", package.parent / "conf") if path.is_dir())
    users = Path.cwd() / "conf"
    return [users, own] if users.is_dir() and users != own else [own]


def config_groups() -> dict[str, list[str]]:
    """What may be chosen, as in method=[tcd]: the names in each folder of `conf_directories`, sorted."""
    files = [path for directory in conf_directories() for path in directory.glob("*/*.yaml")]
    return {
        group: sorted({path.stem for path in files if path.parent.name == group})
        for group in sorted({path.parent.name for path in files})
    }


class ConfDirectories(SearchPathPlugin):
    """Tells Hydra of `conf_directories`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append them in order."""
        for directory in conf_directories():
            search_path.append(provider="tcd-bench", path=f"file://{directory}")


def run_application(
    verb: str, summary: str, arguments: Sequence[str], task: Callable[[Settings], int], config_name: str = "config"
) -> int:
    """Run `task` as a Hydra application over a file of conf/: overrides, `--help`, `--cfg job`, `-m` and the like.

    Returns the largest exit code of its jobs. Raises BenchError, in one sentence, for whatever Hydra refuses.
    """
    codes = [0]
    refusals: list[BenchError] = []
    begun: list[bool] = []
    refused: Exception | None = None

    def job(config: DictConfig) -> None:
        settings: Settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
        begun.append(True)
        try:
            _forget_unchosen(settings, given)
            codes.append(task(settings))
        except BenchError as error:  # Hydra would add words of its own
            refusals.append(error)

    if ConfDirectories not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(ConfDirectories)
    given = [text for text in arguments if text[:1] in "~+" or (text[:1] != "-" and "=" in text)]
    flags = [text for text in arguments if text not in given]  # argparse wants them apart
    overrides = [f"++{text}" if _is_optional(text) else text for text in given]
    header = summary.replace("'", "\\'")
    described = [*overrides, f"hydra.help.header='{header}'"]
    try:
        if flags in (["--help"], ["-h"]):
            print(_help(described, config_name))
        elif flags or any(text.lstrip("+~").startswith("hydra") for text in given):
            _run_hydra([f"tcd-bench {verb}", *flags, *described], job, config_name)
        else:  # Hydra would compose twice, the first time to find out whether it shall sweep
            with hydra.initialize(version_base="1.3", config_path=None):
                composed = hydra.compose(config_name, overrides)
            job(composed)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if begun and not isinstance(error, HydraException | OmegaConfBaseException):
            raise  # the task's own
        refused = error
    if refused is not None:
        said = explain(refused, config_groups(), lambda: compose_settings((), config_name))
        raise BenchError(f"{said}; see tcd-bench {verb} --help") from refused
    if refusals:
        raise BenchError("; ".join(dict.fromkeys(map(str, refusals)))) from refusals[0]
    return max(codes)


def _help(overrides: list[str], config_name: str) -> str:
    """What Hydra's --help says, without a look at each of its own groups, which takes as long as all the rest."""
    with hydra.initialize(version_base="1.3", config_path=None):
        config = hydra.compose(config_name, overrides, return_hydra_config=True)
    template = Template(config.hydra.help.template)
    with open_dict(config):
        del config.hydra
    groups = "".join(f"{name}: {', '.join(choices)}\n" for name, choices in config_groups().items())
    return template.substitute(APP_CONFIG_GROUPS=groups, CONFIG=OmegaConf.to_yaml(config))


def _run_hydra(arguments: list[str], job: Callable[[DictConfig], None], config_name: str) -> None:
    """Let Hydra read a command line with flags of its own."""
    before = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us as they are
    try:
        with TemporaryDirectory(prefix="tcd-bench-") as scratch:  # where a sweep leaves its own configuration
            sys.argv = [*arguments, f"hydra.sweep.dir={scratch}"]
            hydra.main(version_base="1.3", config_path=None, config_name=config_name)(job)()
    finally:
        sys.argv = before[0]
        if before[1] is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before[1]


def _is_optional(override: str) -> bool:
    """Whether it sets what models and methods may have though their file does not name it, as levers."""
    group, _, rest = override.partition("=")[0].partition(".")
    if group not in ("models", "methods"):
        return False
    from bench.experiment.config import Method, Model

    own = fields(Model if group == "models" else Method)
    return rest.partition(".")[2].partition(".")[0] in {field.name for field in own}


def _forget_unchosen(settings: Settings, overrides: Sequence[str]) -> None:
    """Remove what an experiment sets for a method or model that the command line did not choose.

    Such an entry lacks what its own file would bring. One that an override with + adds stays, and is refused as
    incomplete; one that another override means raises BenchError.
    """
    for group, essential in (("methods", "scheduler"), ("models", "source")):
        for name, entry in list(settings.get(group, {}).items()):
            if not isinstance(entry, dict) or essential in entry:
                continue
            meant = next((text for text in overrides if text.lstrip("+").startswith(f"{group}.{name}.")), None)
            if meant is None:
                del settings[group][name]
            elif meant[0] != "+":
                chosen = ", ".join(other for other, its in settings[group].items() if essential in its) or "none"
                raise BenchError(
                    f"{meant.partition('=')[0]} was given, but {name} is not among the chosen {group} ({chosen}); "
                    f"choose it with '{group[:-1]}=[{name}]', or mend the name"
                )


def compose_settings(overrides: Sequence[str], config_name: str = "config") -> Settings:
    """The settings that overrides describe, for use from Python, also while a verb is running; raises BenchError for
    what Hydra refuses.
    """
    found: list[Settings] = []

    def keep(settings: Settings) -> int:
        found.append(settings)
        return 0

    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()  # Hydra runs once at a time
    try:
        run_application("plan", "compose", overrides, keep, config_name)
    finally:
        GlobalHydra.instance().hydra = running
    return found[0]
