"""The verbs of `tcd-bench`: run, plan, status, score, report, view, fetch, doctor, conform, gate. Hydra over conf/."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from inspect import getdoc
from itertools import chain
from typing import TYPE_CHECKING, Any

from bench.gate.command import accept_baseline, draw_history, gate
from bench.printable import printable
from bench.records.errors import BenchError, Damaged

if TYPE_CHECKING:
    from bench.store.store import Store

_Settings = dict[str, Any]

_HELP = """\
tcd-bench measures few-step diffusion samplers (TCD) against the teacher's own, and reports which is better.

  tcd-bench run      run an experiment, resume where it was stopped, write the report
  tcd-bench plan     show the cells of an experiment, their order and cost; run nothing
  tcd-bench status   show the progress of a run, from any terminal or machine
  tcd-bench score    add scores to a run from stored features and kept images; sample nothing
  tcd-bench fetch    fetch the weights that an experiment needs
  tcd-bench report   rewrite tables, plots and report.html from existing records
  tcd-bench view     serve a page of all runs below a directory, with live progress and their reports
  tcd-bench doctor   show what this machine has and what an experiment lacks
  tcd-bench conform  check a scheduler against exact solutions: seconds, CPU, no model
  tcd-bench gate     compare a run with a baseline: did a change alter images, quality or cost?

Everything is set by overrides:

  tcd-bench run                                             the embedded miniature, no download
  tcd-bench run experiment=smoke                            the same in under a minute
  tcd-bench run 'method=[tcd,dpmpp_2s]' 'methods.tcd.eta=[0,0.3]' prompts.count=256 name=mine
  tcd-bench report results=results/mine
  tcd-bench conform scheduler=tcd                           or your own: scheduler._target_=my_fork.TCDScheduler
  tcd-bench gate baseline=results/main candidate=results/mine

`tcd-bench VERB --help` lists all settings, `--cfg job` shows their values; `tcd-bench --version` prints the version.
`--no-color`, or NO_COLOR=1 in the environment, leaves out colours.
Exit codes: 0 done, 1 a cell failed, something is missing, deviates or got worse, 2 bad input (nothing was run),
3 the gate lacks records.
"""


_NO_COLOR = "--no-color"


def run(settings: _Settings) -> int:
    """Run the cells that have no complete record yet, then write the report.

    Exit codes: 0 done; 1 a cell failed; 2 refused, nothing was run; 130 interrupted, the same command continues.
    """
    from bench.analysis.pace import forget_disturbed
    from bench.analysis.verdicts import Verdicts
    from bench.execute.ownership import close_run, join, open_store, whole_run
    from bench.execute.plan_summary import lacking_cells
    from bench.execute.rounds import Rounds
    from bench.execute.run import execute, healed
    from bench.experiment.config import check_experiment
    from bench.trackers import Trackers

    if settings.get("rows") and not settings.get("models"):
        return _report_of_rows(settings)
    experiment = join(check_experiment(settings))
    trackers = Trackers(experiment.trackers, experiment.name, settings)
    until_decided, rounds, verdicts = experiment.until == "decided", Rounds(experiment), Verdicts()
    job, store = rounds.whole(), None
    for claim in job.run.claims:
        for lacking in lacking_cells(claim, rounds.cells):
            print(f"claims.{claim.name} cannot be supported: {lacking}", file=sys.stderr)
    while True:
        is_first, store = store is None, open_store(job)
        if is_first and experiment.measure.again:
            for label in forget_disturbed(store):
                print(f"{label}: its latency was disturbed and is measured again", file=sys.stderr)
        run, parts, failed = whole_run(store, job), rounds.parts(), []
        done = {record.key for record in store.good_records(run.cells)}
        for record in chain.from_iterable(execute(part, store) for part in parts):
            trackers.cell(record)
            failed += [record] if record.status != "ok" else []
            done.add(record.key)
            if until_decided and not failed:
                verdicts.judge_early(store, run, [cell for cell in job.plan.cells if cell.key not in done])
        is_last = bool(failed) or not until_decided
        if not is_last:
            is_last = not rounds.enlarge(healed(parts, store, partial(verdicts.judge, store, run, rounds.where)))
        close_run(job, store, is_last)
        if is_last:
            break
        job = rounds.whole()
    healed(parts, store, partial(_show_report, store))
    trackers.end(store)
    for record in failed:
        print(printable(f"failed: {record.cell.label}: {record.failure and record.failure.message}"), file=sys.stderr)
    return 1 if failed else 0


def plan(settings: _Settings) -> int:
    """Show the cells of an experiment, their order and cost, and what its claims compare; run nothing.

    Exit codes: 0 done; 2 refused.
    """
    from bench.execute.job import plan_job, try_schedulers
    from bench.execute.ownership import join
    from bench.execute.plan_summary import describe_cells, describe_outline
    from bench.experiment.config import check_experiment
    from bench.generate.without_compiler import import_without_compiler
    from bench.store.store import Store

    job = plan_job(join(check_experiment(settings), weights_needed=False), weights_needed=False)
    store = Store.of_run(job.experiment.results)
    print(describe_outline(job, store) + "\n", flush=True)
    import_without_compiler()
    print(describe_cells(job, store, try_schedulers(job.plan.cells)))
    return 0


def report(settings: _Settings) -> int:
    """Write tables, plots and report.html of the run in `results` from its records, and print the summary.

    Several runs, as in 'results=[results/a,results/b]' output=results/joint, make one report in `output`. In the
    directory of an experiment of rows it is that of all of them.

    Exit codes: 0 done; 2 refused: there is no run, a setting is wrong, runs contradict each other, or a stored file is
    damaged.
    """
    from bench.experiment.verbs import check_report
    from bench.report.rows import ROWS_FILE, read_rows, stores_of
    from bench.store.store import Store, open_files

    results, output, form = check_report(settings)
    if output is None and open_files(results[0]).exists(ROWS_FILE):
        store = Store(results[0])
        rows = read_rows(store)
        return _report_of(store, stores_of(store, rows) if rows else (), form)
    runs = [Store(location, writable=False) for location in results]
    if output is None:
        return _report_of(runs[0], form=form)
    if Store.of_run(output):
        raise BenchError(f"output={output} holds a run; give a separate directory, as in output=results/joint")
    return _report_of(Store(output), runs, form)


def _report_of_rows(settings: _Settings) -> int:
    """Write one report of the runs of an experiment's rows, without those that were refused, which it names.

    Raises BenchError where one is missing or all were refused.
    """
    from bench.experiment.config import REFUSED_ROWS, ROWS_FOLDER, Experiment, check_settings, name_scores
    from bench.report.rows import RowRuns, save_rows, stores_of
    from bench.store.store import Store

    refused = settings.get(REFUSED_ROWS, {})
    own = {name: value for name, value in settings.items() if name != REFUSED_ROWS}
    experiment = name_scores(check_settings(Experiment, {"models": {}, "methods": {}, **own}))
    if Store.of_run(experiment.results):
        raise BenchError(f"results={experiment.results} holds a run; give a separate directory to rows")
    directories = tuple(f"{ROWS_FOLDER}/{row}" for row in experiment.rows if row not in refused)
    if not directories:
        raise BenchError(f"results={experiment.results}: every row was refused, so there is no report to make")
    claims = tuple(choice.to_claim(name) for name, choice in experiment.claims.items())
    rows, store = RowRuns(directories, claims, refused), Store(experiment.results)
    save_rows(store, rows)
    return _report_of(store, stores_of(store, rows))


def _finished_store(settings: _Settings) -> Store:
    """Return the store that `results` names; raises BenchError where any given setting is wrong."""
    from bench.experiment.config import Experiment, check_settings
    from bench.store.store import Store

    return Store(check_settings(Experiment, settings).results, writable=False)


def _report_of(store: Store, runs: Sequence[Store] = (), form: str | None = None) -> int:
    while True:
        try:
            return _show_report(store, runs, form)
        except Damaged as error:
            if not error.name.endswith(".png"):
                raise
            home = next(home for home in (store, *runs) if home.location == error.location)
            home.quarantine(error.name, error.why)  # only a picture: no number depends on it


def _show_report(store: Store, runs: Sequence[Store] = (), form: str | None = None) -> int:
    """Write the report where it is out of date, and print its summary; returns 0. Raises Damaged."""
    from bench.report.terminal_tables import show_summary
    from bench.report.write import write_report

    page = write_report(store, runs, form)
    show_summary(store)
    print(f"Report: {page}")
    return 0


def score(settings: _Settings) -> int:
    """Add scores to a run from its stored features and kept images, then write the report; sample nothing.

    Exit codes: 0 done; 2 refused, the run is unchanged.
    """
    from bench.execute.rescore import add_scores
    from bench.experiment.config import check_settings
    from bench.experiment.verbs import ScoreChoice
    from bench.store.store import Store

    choice = check_settings(ScoreChoice, settings)
    store = Store(choice.results)
    add_scores(store, choice)
    return _report_of(store)


def fetch(settings: _Settings) -> int:
    """Fetch the weights that an experiment needs and the local caches lack; everything runs offline afterwards.

    Prompts and reference images are not downloaded: what is missing is named, for COCO with the commands that get it.

    Exit codes: 0 everything is available; 1 something could not be fetched; 2 refused.
    """
    from itertools import chain

    from bench.execute.data_needs import data_needs
    from bench.execute.fetch import fetch_needs
    from bench.experiment.config import check_experiment

    failed, experiment = 0, check_experiment(settings)
    for subject, state, fine in chain(data_needs(experiment), fetch_needs(experiment)):
        print(f"{'ok' if fine else 'MISSING':<8} {subject:<28} {state}", flush=True)
        failed += not fine
    return 1 if failed else 0


def status(settings: _Settings) -> int:
    """Show progress, workers and failures of a run, from any terminal or machine that sees `results`.

    Exit codes: 0 done; 2 refused: nothing was run there, or a setting is wrong.
    """
    from bench.workers.launch import Launch
    from bench.workers.status import describe, read_status

    store = _finished_store(settings)
    launch = Launch.latest(store.files)
    if launch is None:
        raise BenchError(f"results={store.location} holds no run; start it with tcd-bench run")
    print(describe(read_status(store, launch, int(launch.settings["batch_size"]))))
    return 0


def view(settings: _Settings) -> int:
    """Serve a page of the runs below `results` until Ctrl-C: a list with filters, live progress, reports.

    Only this machine can reach it, and only with the printed address, which holds a random token. Nothing is written.

    Exit codes: 0 done; 2 refused: there is no run, or the port is in use.
    """
    from pathlib import Path

    from bench.experiment.config import check_settings
    from bench.experiment.verbs import ViewChoice
    from bench.view.server import serve_runs

    choice = check_settings(ViewChoice, settings)
    serve_runs(Path(choice.results), choice.port)
    return 0


def doctor(settings: _Settings) -> int:
    """Show what this machine has and what the experiment lacks.

    Exit codes: 0 nothing is missing; 1 something is missing; 2 refused.
    """
    from bench.execute.doctor import examine
    from bench.experiment.config import check_experiment

    findings = examine(check_experiment(settings))
    for finding in findings:
        print(finding)
    return 0 if all(finding.fine for finding in findings) else 1


def conform(settings: _Settings) -> int:
    """Check a scheduler against exact solutions.

    Exit codes: 0 conforms, or deviates only as the baseline knows; 1 a deviation is new or has grown, or a trajectory
    has changed; 2 refused; 3 an error of tcd-bench ended a check.
    """
    from bench.generate.without_compiler import import_without_compiler

    import_without_compiler()
    from bench.conformance.verb import run_verb
    from bench.experiment.verbs import check_conform

    return run_verb(check_conform(settings))


VERBS: dict[str, Callable[[_Settings], int]] = {
    "run": run,
    "plan": plan,
    "report": report,
    "score": score,
    "status": status,
    "view": view,
    "fetch": fetch,
    "doctor": doctor,
    "conform": conform,
    "gate": gate,
    "gate accept": accept_baseline,
    "gate history": draw_history,
}
CONFIGS = {
    **{"report": "report", "view": "view", "conform": "conform", "score": "score"},
    **dict.fromkeys(("gate", "gate accept", "gate history"), "gate"),
}
"""The configuration of the remaining verbs, which work on an experiment, is conf/config.yaml."""


def _work_of(verb: str, arguments: list[str]) -> Callable[[], int]:
    """Return what runs a verb; raises BenchError for one that needs more than what is installed."""
    try:
        from bench.experiment.compose import run_application
    except ModuleNotFoundError as error:
        from bench.experiment.conform_settings import NEEDS_FULL

        if (error.name or "").partition(".")[0] == "bench":
            raise
        if verb != "conform":
            raise BenchError(f"tcd-bench {verb} needs {error.name}, which is not installed: {NEEDS_FULL}") from error
        return partial(_conform_without_hydra, arguments)
    summary, config = f"tcd-bench {verb}: {getdoc(VERBS[verb])}", CONFIGS.get(verb, "config")
    return partial(run_application, verb, summary, arguments, VERBS[verb], config)


def _conform_without_hydra(arguments: list[str]) -> int:
    from bench.experiment.conf_files import config_groups
    from bench.experiment.conform_settings import HELP, read_conform_settings

    settings = read_conform_settings(arguments)
    if settings is None:
        print(HELP.format(names=", ".join(config_groups()["scheduler"])), end="")
        return 0
    from bench.conformance.verb import run_verb

    return run_verb(settings)


def main(arguments: list[str] | None = None) -> int:
    """The console script; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if _NO_COLOR in arguments:
        os.environ["NO_COLOR"] = "1"  # which further processes inherit
        arguments = [argument for argument in arguments if argument != _NO_COLOR]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0 if arguments else 2
    if arguments[0] in ("--version", "-V"):
        import bench

        print(f"tcd-bench {bench.__version__}")
        return 0
    verb, *rest = arguments
    if verb == "gate" and rest[:1] in (["accept"], ["history"]):
        verb, rest = f"gate {rest[0]}", rest[1:]
    if verb not in VERBS:
        print(f"error: unknown verb {verb!r}; choose one of {', '.join(VERBS)}, or --help", file=sys.stderr)
        return 2
    try:
        return _work_of(verb, rest)()
    except BenchError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
