"""How many single faults conform finds: tests/mutants/mutants.yaml, put into diffusers' own source one by one.

    .venv/bin/python scripts/conformance/mutation_score.py [--only tcd lcm] [--match TEXT] [--rewritings]

A mutant is flagged when its report holds a deviation that the baseline of the unchanged class (results/conformance)
does not have, or one that has grown, or when a trajectory differs from the baseline's or a setting is refused that the
baseline ran. Both counts are printed: by deviations alone (theory), and with trajectories. Exits with 1 when a mutant
is missed that tests/mutants/equivalent.yaml does not argue away. With --rewritings the equal rewritings of
tests/mutants/rewritings.yaml are tried instead, and the exit code is 1 when one is flagged.
"""

import argparse
import importlib
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
        found = first_deviation(make, lambda new: new.key not in known or bool(growth(known[new.key], new)))
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
    parser.add_argument("--rewritings", action="store_true")
    arguments = parser.parse_args()
    groups = yaml.safe_load((REWRITINGS if arguments.rewritings else MUTANTS).read_text(encoding="utf-8"))
    argued = yaml.safe_load(EQUIVALENT.read_text(encoding="utf-8")) if EQUIVALENT.is_file() else {}
    tasks = [
        (name, fault)
        for name, faults in groups.items()
        if not arguments.only or name in arguments.only
        for fault in faults
        if arguments.match in fault["name"]
    ]
    begun, counts, unargued = time.perf_counter(), dict.fromkeys(("theory", "trajectory", "missed"), 0), 0
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        for name, fault_name, how, by in pool.map(examine, tasks, chunksize=4):
            counts[how] += 1
            reason = argued.get(name, {}).get(fault_name)
            unargued += how == "missed" and reason is None
            print(f"{how:10} {name}: {fault_name} | {(reason or by)[:160]}", flush=True)
    flagged = len(tasks) - counts["missed"]
    print(
        f"{flagged} of {len(tasks)} flagged ({counts['theory']} by theory alone) in {time.perf_counter() - begun:.0f} s"
    )
    return int(flagged > 0) if arguments.rewritings else int(unargued > 0)


if __name__ == "__main__":
    sys.exit(main())
