"""The verbs: `tcd-bench run | plan | report | doctor | conform | gate`. Each is a Hydra application over conf/."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.records import BenchError

if TYPE_CHECKING:
    from bench.store import Store

Settings = dict[str, Any]

HELP = """\
tcd-bench measures few-step diffusion samplers (TCD) against the teacher's own, and says who is better.

  tcd-bench run      run an experiment, go on where it was stopped, write the report
  tcd-bench plan     show the cells of an experiment, their order and cost; run nothing
  tcd-bench report   write tables, plots and report.html again from existing records
  tcd-bench doctor   show what this machine has and what an experiment lacks
  tcd-bench conform  check a scheduler against exact solutions: seconds, CPU, no model
  tcd-bench gate     hold a run against a baseline: did a change alter images, quality or cost?

Everything is set by overrides:

  tcd-bench run                                             the embedded miniature, no download
  tcd-bench run experiment=smoke                            the same in under a minute
  tcd-bench run 'method=[tcd,dpmpp_2s]' 'methods.tcd.eta=[0,0.3]' prompts.count=256 name=mine
  tcd-bench report results=results/mine
  tcd-bench conform scheduler=tcd                           or your own: scheduler._target_=my_fork.TCDScheduler
  tcd-bench gate baseline=results/main candidate=results/mine

`tcd-bench VERB --help` lists all settings, `--cfg job` shows them composed.
Exit codes: 0 done, 1 a cell failed, something is missing, deviates or got worse, 2 bad input (nothing was run),
3 the gate lacks records.
"""


def run(settings: Settings) -> int:
    """Run what has no good record yet, then report."""
    from dataclasses import replace

    from bench.execute.assemble import execute, open_store, prepare
    from bench.experiment.config import check_experiment
    from bench.experiment.plan import counts_of_looks

    experiment = check_experiment(settings)
    counts = counts_of_looks(experiment)
    for i, count in enumerate(counts, 1):
        fewer = replace(experiment, prompts=replace(experiment.prompts, count=count))
        job = prepare(fewer, tuple(seen / counts[-1] for seen in counts[:i]))
        store = open_store(job)
        failed = [record for record in execute(job, store) if record.status != "ok"]
        if failed or (len(counts) > 1 and _all_decided(store, f"look {i} of {len(counts)}, {count} images a cell")):
            break
    report(settings)
    for record in failed:
        message = record.failure.message if record.failure else ""
        print(f"failed: {record.cell.label}: {message}", file=sys.stderr)
    return 1 if failed else 0


def _all_decided(store: Store, where: str) -> bool:
    from bench.judge.claims import judge_claims
    from bench.judge.scores import score_run

    run = store.run()
    verdicts = [judgement.verdict for judgement in judge_claims(run, score_run(store, run))]
    open_ = verdicts.count("undecided")
    print(f"{where}: {len(verdicts) - open_} of {len(verdicts)} claims decided", file=sys.stderr)
    return not open_


def plan(settings: Settings) -> int:
    """Print the plan."""
    from bench.execute.assemble import prepare
    from bench.execute.outlook import describe_plan
    from bench.experiment.config import check_experiment
    from bench.store import Store

    job = prepare(check_experiment(settings))
    directory = Path(job.experiment.results)
    store = Store(directory, writable=False) if (directory / "cells").is_dir() else None
    print(describe_plan(job, store))
    return 0


def report(settings: Settings) -> int:
    """Write the report of the run that lies in `results`."""
    from bench.report.write import write_report
    from bench.store import Store

    page = write_report(Store(Path(settings["results"]), writable=False))
    print(f"Report: {page}")
    return 0


def doctor(settings: Settings) -> int:
    """Print the examination; 1 when something that the experiment needs is missing."""
    from bench.execute.doctor import examine
    from bench.experiment.config import check_experiment

    findings = examine(check_experiment(settings))
    for finding in findings:
        print(finding)
    return 0 if all(finding.fine for finding in findings) else 1


def conform(settings: Settings) -> int:
    """Check a scheduler against exact solutions; 1 when it deviates in a way that the baseline does not know."""
    from bench.judge.conformance.verb import run_verb

    return run_verb(settings)


def gate(settings: Settings) -> int:
    """Hold a candidate's records against a baseline's, and schedulers against theirs; see the exit codes below."""
    from bench.experiment.gate import check_gate
    from bench.judge.gate.cells import Side
    from bench.judge.gate.compare import compare_runs
    from bench.judge.gate.cost import compare_turns
    from bench.judge.gate.outcome import GateReport, Outcome
    from bench.judge.gate.schedulers import compare_schedulers, find_baselines
    from bench.records import Turns
    from bench.report.gate import BeforeAfter, to_terminal, worst_images, write_gate
    from bench.store import Store

    choice = check_gate(settings)
    output = Path(choice.output)
    baseline, candidate, directory = choice.baseline, choice.candidate, choice.conformance.directory
    turns: list[Turns] = []
    if choice.ref is not None:
        from bench.execute.installation import find_installation
        from bench.execute.side_by_side import run_sides, time_sides, write_conformance

        ref, overrides = find_installation(choice.ref, output / "installations"), choice.side_by_side.overrides
        baseline, candidate = map(str, run_sides(ref, overrides, output))
        directory = directory or str(write_conformance(ref, choice.conformance.only, output / "conformance"))
        turns += time_sides(ref, overrides, rounds, output) if (rounds := choice.side_by_side.rounds) else []
    paths = find_baselines(Path(directory), choice.conformance.only) if directory else []
    outcomes: list[Outcome] = []
    images: list[BeforeAfter] = []
    if baseline and candidate:
        before, after = (Side.of(Store(Path(name), writable=False)) for name in (baseline, candidate))
        pairs, found = compare_runs(before, after, choice.images, choice.quality, choice.cost)
        outcomes += found
        images += worst_images(pairs, before, after)
    outcomes += [*compare_turns(turns, choice.cost.latency_in_turn), *compare_schedulers(paths)]
    names = choice.ref or baseline or str(directory), choice.candidate or "this installation"
    report = GateReport(*names, tuple(outcomes))
    files = write_gate(report, images, output)
    print(to_terminal(report))
    print(f"Report: {files[-1]}")
    return report.exit_code


def accept(settings: Settings) -> int:
    """Make a candidate the baseline, with an author and a reason."""
    from bench.experiment.gate import check_acceptance
    from bench.judge.gate.accept import accept as make_baseline
    from bench.store import Store

    choice = check_acceptance(settings)
    note = make_baseline(
        Store(Path(str(choice.candidate)), writable=False),
        Path(str(choice.baseline)),
        str(choice.author),
        str(choice.reason),
    )
    print(f"Baseline: {note}")
    return 0


VERBS: dict[str, Callable[[Settings], int]] = {
    "run": run,
    "plan": plan,
    "report": report,
    "doctor": doctor,
    "conform": conform,
    "gate": gate,
    "gate accept": accept,
}
CONFIGS = {
    "conform": "conform",
    "gate": "gate",
    "gate accept": "gate",
}  # the other verbs work on an experiment: conf/config.yaml


def main(arguments: list[str] | None = None) -> int:
    """The console script; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb == "gate" and rest[:1] == ["accept"]:
        verb, rest = "gate accept", rest[1:]
    if verb not in VERBS:
        print(f"error: there is no verb {verb!r}; choose one of {', '.join(VERBS)}, or --help", file=sys.stderr)
        return 2
    from bench.experiment.compose import run_application

    try:
        return run_application(
            verb, f"tcd-bench {verb}: {VERBS[verb].__doc__}", rest, VERBS[verb], CONFIGS.get(verb, "config")
        )
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
