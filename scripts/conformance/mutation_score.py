"""How many single faults conform finds: tests/mutants/*.yaml, put into diffusers' own source one by one.

    .venv/bin/python scripts/conformance/mutation_score.py [--only tcd lcm] [--match TEXT] [--processes 2]
        [--file tests/mutants/kinds.yaml] [--every 5] [--kept ANSWERS.jsonl] [--into results/mutants/kinds.md]

With `--kept` the answers are appended to a file as they come, and those that it holds are not asked for again.

With `--rewritings` (tests/mutants/rewritings.yaml) the entries change nothing, and every flag is an alarm.

A mutant is flagged when its report holds a deviation that the baseline of the unchanged class (results/conformance)
does not have, or one that has grown, or when a trajectory differs from the baseline's or a setting is refused that the
baseline ran. Both counts are printed: by deviations alone (theory), and with trajectories. Exits with 1 when a mutant
is missed that tests/mutants/equivalent.yaml does not argue away.
"""

import argparse
import importlib
import json
import sys
import time
import types
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

from bench.conformance.baseline import changes, growth, read_baseline

ROOT = Path(__file__).parents[2]
MUTANTS = ROOT / "tests" / "mutants" / "mutants.yaml"
KINDS = ROOT / "tests" / "mutants" / "kinds.yaml"
OTHERS = ROOT / "tests" / "mutants" / "others.yaml"
RESULTS = ROOT / "results" / "conformance"
REWRITINGS = ROOT / "tests" / "mutants" / "rewritings.yaml"
EQUIVALENT = ROOT / "tests" / "mutants" / "equivalent.yaml"


def mutate(source: str, fault: dict[str, Any]) -> str:
    """Source text with one fault; raises ValueError when the place is not there, or not the only one."""
    pieces = source.split(fault["find"])
    at = fault.get("at", 1)
    if len(pieces) - 1 < at or ("at" not in fault and len(pieces) != 2):
        raise ValueError(f"{fault['name']}: {len(pieces) - 1} places match {fault['find']!r}")
    return fault["find"].join(pieces[:at]) + fault["replace"] + fault["find"].join(pieces[at:])


def mutated_class(class_name: str, fault: dict[str, Any]) -> type[Any]:
    """A class of diffusers with one fault, from its own module."""
    import diffusers

    original = sys.modules[getattr(diffusers, class_name).__module__]
    source = mutate(Path(str(original.__file__)).read_text(encoding="utf-8"), fault)
    module = types.ModuleType(original.__name__)
    module.__file__, module.__package__ = original.__file__, original.__package__
    module.__spec__ = original.__spec__
    exec(compile(source, f"<{fault['name']}>", "exec"), module.__dict__)  # noqa: S102 - the point of a mutant
    found: type[Any] = getattr(module, class_name)
    return found


def maker(name: str, fault: dict[str, Any] | None) -> Callable[[], Any]:
    """A function that makes the scheduler of a file of conf/scheduler, with a fault or without."""
    importlib.import_module("torch").set_num_threads(1)
    settings = yaml.safe_load((ROOT / "conf" / "scheduler" / f"{name}.yaml").read_text(encoding="utf-8"))
    class_name = settings.pop("_target_").rpartition(".")[2]
    diffusers = importlib.import_module("diffusers")
    cls = getattr(diffusers, class_name) if fault is None else mutated_class(class_name, fault)
    return lambda: cls(**settings)


def examine(task: tuple[str, dict[str, Any]]) -> tuple[str, str, str, str]:
    """Scheduler, mutant, how it was flagged ("theory", "trajectory" or "missed"), and by what."""
    from bench.conformance.conform import conform, first_deviation

    name, fault = task
    baseline = read_baseline(RESULTS / f"{name}.json")
    known = {finding.key: finding for finding in baseline["findings"]}
    try:
        make = maker(name, fault)
        enough = lambda new: new.key not in known or bool(growth(known[new.key], new))  # noqa: E731
        found = first_deviation(make, enough)
    except ValueError:  # the fault is not in this release of diffusers
        raise
    except Exception as error:  # a class that cannot even be examined is flagged
        return name, fault["name"], "theory", f"{type(error).__name__}: {error}"
    if found is not None:
        return name, fault["name"], "theory", str(found)
    changed = list(changes(conform(make), baseline))
    return (name, fault["name"], "trajectory", str(changed[0])) if changed else (name, fault["name"], "missed", "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--match", default="")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--file", type=Path, default=MUTANTS)
    parser.add_argument("--rewritings", action="store_const", const=REWRITINGS, dest="file")
    parser.add_argument("--every", type=int, default=1, help="one in so many, in the order of the file")
    parser.add_argument("--kept", type=Path, help="JSON lines of answers, to go on where a run was stopped")
    parser.add_argument("--into", type=Path, help="a Markdown table of the results by kind")
    arguments = parser.parse_args()
    groups = yaml.safe_load(arguments.file.read_text(encoding="utf-8"))
    argued = yaml.safe_load(EQUIVALENT.read_text(encoding="utf-8")) if EQUIVALENT.is_file() else {}
    tasks = [
        (name, fault)
        for name, faults in groups.items()
        if not arguments.only or name in arguments.only
        for fault in faults
        if arguments.match in fault["name"]
    ][:: arguments.every]
    begun, answers = time.perf_counter(), list[tuple[str, str, str, str]]()
    kept = _read(arguments.kept)
    left = [task for task in tasks if (task[0], task[1]["name"]) not in kept]
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        for name, fault_name, how, by in pool.map(examine, left):
            kept[name, fault_name] = how, by
            print(f"{how:10} {name}: {fault_name} | {by[:160]}", flush=True)
            if arguments.kept:
                with arguments.kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([name, fault_name, how, by], ensure_ascii=False) + "\n")
    for name, fault in tasks:
        how, by = kept[name, fault["name"]]
        by = argued.get(name, {}).get(fault["name"]) or by
        answers.append((fault.get("kind", ""), f"{name}: {fault['name']}", how, by))
    counts = {how: sum(answer[2] == how for answer in answers) for how in ("theory", "trajectory", "missed")}
    summary = f"{len(tasks) - counts['missed']} of {len(tasks)} flagged ({counts['theory']} by theory alone)"
    print(f"{summary} in {time.perf_counter() - begun:.0f} s")
    if arguments.into:
        arguments.into.write_text(page(arguments.file, answers, summary), encoding="utf-8")
    if arguments.file.name == REWRITINGS.name:
        return 1 if counts["missed"] < len(tasks) else 0
    return 1 if any(how == "missed" and not by for _, _, how, by in answers) else 0


def _read(kept: Path | None) -> dict[tuple[str, str], tuple[str, str]]:
    lines = kept.read_text(encoding="utf-8").splitlines() if kept and kept.is_file() else []
    return {(name, fault): (how, by) for name, fault, how, by in map(json.loads, lines)}


def page(file: Path, answers: list[tuple[str, str, str, str]], summary: str) -> str:
    """A Markdown table of results by kind, and the faults that were missed."""
    from bench.conformance.conform import tested_versions

    versions = ", ".join(f"{name} {version}" for name, version in tested_versions().items())
    families = len({name.partition(":")[0] for _, name, _, _ in answers})
    lines = [
        f"# tests/mutants/{file.name}",
        "",
        f"Made by `scripts/conformance/mutation_score.py` with {versions}.",
        f"{summary}; {families} schedulers.",
        "",
        "| kind | faults | by theory | by trajectory | missed |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for kind in dict.fromkeys(answer[0] for answer in answers):
        own = [how for of, _, how, _ in answers if of == kind]
        shown = [str(own.count(how)) for how in ("theory", "trajectory", "missed")]
        lines.append(f"| {' | '.join([kind or '–', str(len(own)), *shown])} |")
    if file.name == REWRITINGS.name:  # equal code: none is to be flagged
        alarms = [f"- {name}: {by}" for _, name, how, by in answers if how != "missed"]
        return "\n".join([*lines, *(["", "Alarms:", "", *alarms] if alarms else [])]) + "\n"
    missed = [f"- {name}" for _, name, how, _ in answers if how == "missed"]
    return "\n".join([*lines, *(["", "Missed:", "", *missed] if missed else [])]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
