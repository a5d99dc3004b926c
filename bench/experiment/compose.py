"""Hydra's edge: command-line overrides over conf/ → plain settings. No other module uses Hydra or OmegaConf.

Hydra chooses and merges files; the contents of files and the command line are read by the typed schema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any

import hydra
import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.experiment.conf_files import (
    GROUPS,
    PLURALS,
    conf_directories,
    config_groups,
    find_file,
    package_of,
    read_config,
)
from bench.experiment.config import REFUSED_ROWS, ROWS_FOLDER, Experiment
from bench.experiment.hydra_errors import explain_composition, in_one_message, unknown_setting
from bench.experiment.overrides import (
    Override,
    chosen,
    class_alone,
    give_directories,
    label_jobs,
    read_arguments,
    summarise_sweep,
)
from bench.experiment.schema import Types, narrow, references, types_at, value_at
from bench.experiment.verbs import ConformChoice, GateChoice, ReportChoice, ScoreChoice, ViewChoice
from bench.experiment.yaml_reader import read_value
from bench.records.errors import BenchError

_Settings = dict[str, Any]

CHOSEN = "<file>"
"""Marks, while files are merged, the settings from a chosen file of a group."""
MISSING_VALUE = "???"
_HELP = """\
{summary}

{groups}{choice}Every setting with its value; each may be overridden, as in {example}:

{settings}
A text is taken as it is written; lists are written [a,b], tables {{a: b}}. Names with brackets, blanks or $ need quotes
in most shells. {flags}
"""


def schema_of(config_name: str) -> type[Any]:
    """Return the typed settings of a file of conf/: config, report, view, conform, gate or score."""
    own = {
        "gate": GateChoice,
        "score": ScoreChoice,
        "conform": ConformChoice,
        "report": ReportChoice,
        "view": ViewChoice,
    }
    return own.get(config_name, Experiment)


def groups_of(config_name: str) -> dict[str, list[str]]:
    """Return the groups of files that a verb chooses from, with their names."""
    of_experiments = GROUPS.keys() - {"scheduler"}
    every = {"config": of_experiments, "report": of_experiments, "conform": {"scheduler"}, "score": {"extractor"}}
    own = every.get(config_name, set())
    return {group: names for group, names in config_groups().items() if group in own}


class ConfFiles(ConfigSource):
    """Hydra's access to one of `conf_directories`."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        self.directory = next(folder for folder in conf_directories() if str(folder) == self.path)

    @staticmethod
    def scheme() -> str:
        """The scheme of its paths."""
        return "tcd-bench"

    def load_config(self, config_path: str) -> ConfigResult:
        """Return a file's settings, checked by the schema, with their package."""
        path = find_file(self.directory, config_path)
        if path is None:  # Hydra calls `is_config` first
            raise BenchError(f"{config_path} is not a file of {self.directory}")
        group = config_path.partition("/")[0] if "/" in config_path else ""
        schema = schema_of("conform" if group == "scheduler" else "config" if group else config_path)
        with path.open(encoding="utf-8", errors="replace") as file:
            package = package_of(config_path, self._get_header_dict(file.read(512))["package"])
        settings = read_config(path, config_path, package, (schema,))
        if group in PLURALS.values():
            settings[CHOSEN] = True
        config = OmegaConf.create(settings)
        return ConfigResult(self.provider, f"{self.scheme()}://{self.path}", config, {"package": package})

    def is_group(self, config_path: str) -> bool:
        """Whether a folder of files exists."""
        return config_path.partition("/")[0] in ("", *GROUPS) and (self.directory / config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        """Whether a file exists; the user's directory has no file with all settings of a verb."""
        return find_file(self.directory, config_path) is not None

    def available(self) -> bool:
        """Whether the directory exists."""
        return self.directory.is_dir()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return the files of a group."""
        return config_groups().get(config_path, []) if results_filter != ObjectType.GROUP else []


class ConfDirectories(SearchPathPlugin):
    """Registers `conf_directories` with Hydra."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append them in order."""
        for directory in conf_directories():
            search_path.append(provider="tcd-bench", path=f"{ConfFiles.scheme()}://{directory}")


def run_application(
    verb: str, summary: str, arguments: Sequence[str], task: Callable[[_Settings], int], config_name: str = "config"
) -> int:
    """Run `task` with the settings of a verb's arguments; with -m once for each of several values.

    Returns the largest exit code of the jobs. Raises BenchError for refused settings, before any job runs.
    """
    asked = read_arguments(verb, arguments)
    if asked.help:
        print(_help(verb, summary, _compose(asked.overrides, config_name, whole=False), config_name), end="")
        return 0
    given = asked.jobs()
    labels = label_jobs(given)
    jobs = [_compose(overrides, config_name, whole=not asked.show) for overrides in given]
    jobs = give_directories(jobs, labels) if len(jobs) > 1 else jobs
    if config_name == "config" and not asked.show:
        with_rows = [_with_rows(*job, keep_report=verb == "run") for job in zip(labels, jobs, given, strict=True)]
        labels = [label for found in with_rows for label, _ in found]
        jobs = [settings for found in with_rows for _, settings in found]
    codes = [0]
    refusals: list[BenchError] = []
    outcomes: list[str] = []
    refused: dict[str, str] = {}
    for settings in jobs:
        if asked.show:
            print(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), end="")
            continue
        try:
            codes.append(task(_with_refused_rows(settings, refused)))
            outcomes.append("done" if codes[-1] == 0 else f"exit code {codes[-1]}")
        except BenchError as error:  # the remaining jobs still run
            refusals.append(error)
            outcomes.append("refused")
            refused[str(settings.get("results"))] = " ".join(str(error).split())
    if len(outcomes) > 1:
        print(summarise_sweep(labels, jobs, outcomes))
    if refusals:
        raise BenchError("\n".join(dict.fromkeys(map(str, refusals)))) from refusals[0]
    return max(codes)


def _with_rows(
    label: str, settings: _Settings, overrides: Sequence[Override], *, keep_report: bool
) -> list[tuple[str, _Settings]]:
    """Return labels and settings of an experiment's rows, and then its own, unless it only has a report to make.

    A row is another experiment with the same overrides, in a directory below that of the experiment.
    """
    found = []
    own_names = ("experiment", "name", "results", "rows", "row_overrides")
    given = read_arguments("run", settings.get("row_overrides") or ()).overrides
    shared = [*given, *(override for override in overrides if override.name not in own_names)]
    for row in settings.get("rows") or ():
        own = _compose([Override("", "experiment", row), *shared], "config", whole=True)
        if own.get("rows"):
            raise BenchError(f"rows: {row} has rows of its own; give these in its place")
        found.append(
            (",".join(filter(None, (label, row))), {**own, "results": f"{settings['results']}/{ROWS_FOLDER}/{row}"})
        )
    own_cells = bool(settings.get("models")) or not found
    return [*found, *([(label or str(settings.get("name")), settings)] if own_cells or keep_report else [])]


def _with_refused_rows(settings: _Settings, refused: Mapping[str, str]) -> _Settings:
    """Return settings that name the rows that were refused, each with the reason; `refused` has them by directory."""
    places = {row: f"{settings.get('results')}/{ROWS_FOLDER}/{row}" for row in settings.get("rows") or ()}
    found = {row: refused[place] for row, place in places.items() if place in refused}
    return {**settings, REFUSED_ROWS: found} if found and not settings.get("models") else settings


def compose_settings(overrides: Sequence[str], config_name: str = "config") -> _Settings:
    """Return the settings of overrides, for use from Python; raises BenchError for refused ones."""
    return _compose(read_arguments("plan", overrides).overrides, config_name, whole=True)


def _compose(overrides: Sequence[Override], config_name: str, *, whole: bool) -> _Settings:
    """Choose files, merge them, set values; `whole` refuses settings without a value."""
    schema, groups = (schema_of(config_name),), groups_of(config_name)
    choices = [override for override in overrides if override.name in groups]
    settings = _merge_files(config_name, list(chosen(choices, groups)), groups)
    _forget_unchosen(settings, schema, groups)
    _let_claims_go(settings, overrides)
    if class_alone(overrides):
        settings["scheduler"] = {}
    problems = []
    for override in overrides:
        if override not in choices:
            try:
                _set(settings, override, schema, groups)
            except BenchError as error:
                problems.append(str(error))
    if problems:
        raise BenchError(in_one_message(problems))
    if whole and (missing := [name for name, value in settings.items() if value == MISSING_VALUE]):
        raise BenchError(
            in_one_message([f"{name} was not given; it has no default, so set it, as in {name}=…" for name in missing])
        )
    try:
        resolved: _Settings = OmegaConf.to_container(OmegaConf.create(settings), resolve=whole)  # type: ignore[assignment]
    except (OmegaConfBaseException, ValueError, RecursionError) as error:
        said = explain_composition(error, groups)
        names = [".".join(path) for path, text in references(settings) if not _can_be_read(text)]
        raise BenchError(f"{names[0]}: {said}; write \\${{ where a text has these signs" if names else said) from error
    return resolved


def _can_be_read(text: str) -> bool:
    try:
        OmegaConf.create({"text": text})
    except OmegaConfBaseException:
        return False
    return True


def _merge_files(config_name: str, choices: list[str], groups: Mapping[str, Sequence[str]]) -> _Settings:
    """Return Hydra's merge of the chosen files, references not resolved."""
    for plugin in (ConfDirectories, ConfFiles):
        if plugin not in Plugins.instance().discover(plugin.__bases__[0]):
            Plugins.instance().register(plugin)
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()  # Hydra has one global instance, which another program may use
    try:
        with hydra.initialize(version_base="1.3", config_path=None):
            merged: _Settings = OmegaConf.to_container(hydra.compose(config_name, choices))  # type: ignore[assignment]
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        raise BenchError(explain_composition(error, groups)) from error
    finally:
        GlobalHydra.instance().hydra = running
    return merged


def _forget_unchosen(settings: _Settings, schema: Types, groups: Mapping[str, Sequence[str]]) -> None:
    """Remove settings of an experiment for a file of a group that was not chosen: they would be incomplete."""
    for plural, group in PLURALS.items():
        for name, entry in list(settings.get(plural, {}).items()):
            if not isinstance(entry, dict) or entry.pop(CHOSEN, False) or name not in groups.get(group, ()):
                continue
            if any(needed not in entry for needed in _needed(types_at(schema, (plural, name)))):
                del settings[plural][name]


def _needed(types: Types) -> set[str]:
    """Return the settings without a default; of several dataclasses, their `kind`."""
    if len(types) > 1:
        return {"kind"}
    return {field.name for field in fields(types[0]) if field.default is MISSING and field.default_factory is MISSING}


def _let_claims_go(settings: _Settings, overrides: Sequence[Override]) -> None:
    """Make an experiment's claims optional where the command line changes its grid."""
    given = {override.path[0] for override in overrides}
    if given & {"model", "method", "methods", "scores", "measure"} and not given & {"claim", "claims"}:
        for claim in settings.get("claims", {}).values():
            claim.setdefault("optional", True)


def _set(settings: _Settings, override: Override, schema: Types, groups: Mapping[str, Sequence[str]]) -> None:
    """Set or remove one value; raises BenchError for an unknown setting."""
    path = override.path
    types = types_at(schema, path, settings)
    *above, last = path
    if not types or not all(path):
        raise BenchError(unknown_setting(override.name, schema, settings, [*groups]))
    if len(path) > 2 and path[0] in PLURALS and override.sign[:1] != "+":
        there = settings.get(path[0]) or {}
        if path[1] not in there:
            group, names = PLURALS[path[0]], ", ".join(there) or "none"
            near = get_close_matches(path[1], there, 1, 0.6)
            meant = f"did you mean {'.'.join((path[0], near[0], *path[2:]))}?" if near else "correct the name"
            known = path[1] in groups.get(group, ())
            raise BenchError(
                f"{override.name} was given, but {path[1]} is not among the chosen {path[0]} ({names}); "
                + (f"choose it with '{group}=[{path[1]}]', or correct the name" if known else meant)
            )
    if override.sign == "~":
        inner = value_at(settings, above)
        if len(path) == 2 and last in groups.get(PLURALS.get(path[0], ""), ()) and value_at(inner, [last]) is None:
            return  # what is not chosen is already absent
        if override.text is not None or not isinstance(inner, dict) or last not in inner:
            said = "was given, but a removal takes no value" if override.text is not None else "has no value to remove"
            raise BenchError(f"~{override.name} {said}; write ~name for a setting that has one")
        del inner[last]
        return
    value = read_value(override.text or "", narrow(types, value_at(settings, path)), override.name)
    inner = settings
    for name in above:
        if not isinstance(inner.get(name), dict):
            inner[name] = {}
        inner = inner[name]
    inner[last] = _merged(inner.get(last), value)


def _merged(old: Any, new: Any) -> Any:
    """Merge tables; any other value replaces the old one."""
    if not isinstance(old, dict) or not isinstance(new, dict) or new.get("kind", old.get("kind")) != old.get("kind"):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def _help(verb: str, summary: str, settings: _Settings, config_name: str) -> str:
    """Return the text of --help: the choices, and every setting with its value."""
    groups = "".join(f"{name}: {', '.join(choices)}\n" for name, choices in groups_of(config_name).items())
    return _HELP.format(
        summary=summary,
        groups=groups and f"Choose from conf/ and from ./conf, as in {_EXAMPLES[config_name][0]}:\n\n",
        choice=groups and f"{groups}\n",
        example=_EXAMPLES[config_name][1],
        settings=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
        flags=f"--cfg job shows the composed settings, -m runs once for each of several values.{_NOTES[config_name]}",
    )


_EXAMPLES = {
    "config": ("experiment=smoke or 'method=[tcd,ddim]'", "prompts.count=64"),
    "report": ("experiment=smoke", "results=results/mine"),
    "conform": ("scheduler=ddim", "scheduler._target_=my_fork.TCDScheduler"),
    "gate": ("", "images.share=0.05"),
    "score": ("extractor=[dinov2]", "'scores=[cmmd,fid@dinov2]'"),
    "view": ("", "results=results"),
}
_NOTES = {
    "config": "\nWith -m a comma separates values; quote a text that holds one.",
    "report": "\nSeveral runs make one report: 'results=[results/a,results/b]' output=results/joint.",
    "conform": "",
    "view": "",
    "gate": "\ntcd-bench gate accept candidate=… baseline=… author=… reason=… makes the candidate the baseline.",
    "score": "\nMissing features are computed from kept images (keep=all); without kept images nothing is changed.",
}
