"""The verbs `gate` and `gate accept`: what of their settings is compared with what."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.experiment.verbs import GateChoice
    from bench.gate.concerns import Concern
    from bench.gate.outcome import Outcome
    from bench.gate.report import BeforeAfter


@dataclass
class _Found:
    """What the stages of the gate have found so far."""

    names: tuple[str, str]
    outcomes: list[Outcome] = field(default_factory=list)
    images: list[BeforeAfter] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    concerns: list[Concern] = field(default_factory=list)

    @contextmanager
    def stage(self, before: str) -> Iterator[None]:
        """A stage whose installation may fail: that is an outcome next to those of the other stages.

        `before` is the name of the installation that is compared with, whose failure is nobody's fault.
        """
        from bench.gate.outcome import Outcome
        from bench.workers.installation import InstallationError

        try:
            yield
        except InstallationError as error:
            verdict = "missing" if error.name == before else "failed"
            self.outcomes.append(Outcome("cells", error.name, "run", verdict, note=str(error)))


def gate(settings: dict[str, Any]) -> int:
    """Compare a candidate with a baseline: schedulers, images, scores and cost.

    Exit codes: 0 pass; 1 something got worse, changed or no longer runs; 2 refused, or the runs cannot be compared;
    3 something is missing: an installation cannot run, nothing could be decided, a stored file is missing or damaged.
    """
    from bench.experiment.verbs import check_gate

    choice = check_gate(settings)
    directory = choice.conformance.directory
    found = _Found(
        (
            str(choice.ref or choice.baseline or choice.baselines or directory or _engine_names(choice)[0]),
            choice.candidate_ref or choice.candidate or _engine_names(choice)[1] or "this installation",
        )
    )
    if choice.candidate:
        print(f"Comparing {found.names[1]} with {found.names[0]} ...", file=sys.stderr, flush=True)  # scipy is slow

    from bench.gate.concerns import in_maintainers_words
    from bench.gate.history import append_history
    from bench.gate.outcome import GateReport
    from bench.gate.provenance import commit_of
    from bench.gate.quarantine import apply_quarantine
    from bench.gate.report import to_terminal, write_gate
    from bench.gate.schedulers import compare_schedulers, find_baselines

    if choice.ref is not None:
        _compare_installations(choice, found)
    else:
        if directory:
            found.outcomes += compare_schedulers(
                find_baselines(Path(directory), choice.conformance.only), found.concerns
            )
        if choice.engine.command or choice.engine.latents:
            from bench.gate.engine import judge_engine

            found.outcomes += judge_engine(choice.engine, choice.latents)
        if choice.candidate:
            _compare_with_accepted(choice, found, Path(choice.candidate))
    if commit := commit_of(Path.cwd()):
        found.about["commit of the working directory"] = commit
    now = datetime.now(UTC)
    found.about["date"] = now.strftime("%Y-%m-%d %H:%M UTC")
    found.outcomes, said = apply_quarantine(found.outcomes, choice.quarantine, now.date())
    found.about |= said
    summary = in_maintainers_words(found.concerns, found.outcomes)
    report = GateReport(*found.names, tuple(found.outcomes), found.about, _accepting(choice), choice.warn_only, summary)
    if choice.history:
        append_history(report, Path(choice.history), found.images)
    files = write_gate(report, found.images, Path(choice.output))
    print(f"{to_terminal(report)}\nReport: {files[-1]}")
    return report.exit_code


def _engine_names(choice: GateChoice) -> tuple[str, str]:
    """What an engine is compared with, and the engine; empty without one."""
    engine = choice.engine
    if engine.latents:
        return str(engine.baseline), engine.latents
    return engine.scheduler or "the exact solution", shlex.join(engine.command)


def _compare_with_accepted(choice: GateChoice, found: _Found, candidate: Path) -> None:
    """The candidate and its baseline, or each of those accepted for its machine: the one that it agrees with best."""
    from bench.gate.baselines import agrees_best, choose
    from bench.store.store import Store

    if choice.baselines is None:
        _compare_runs(choice, found, Path(str(choice.baseline)), candidate)
        return
    folders, damaged = choose(Path(choice.baselines), Store(candidate, writable=False))
    compared = {folder: _Found((folder.name, found.names[1])) for folder in folders}
    for folder, one in compared.items():
        _compare_runs(choice, one, folder, candidate)
    if compared:
        best = agrees_best({folder: one.outcomes for folder, one in compared.items()})
        chosen = compared[best]
        found.outcomes += chosen.outcomes
        found.images += chosen.images
        found.about |= chosen.about
        found.names = str(best), found.names[1]
        if len(compared) > 1:
            names = ", ".join(folder.name for folder in compared)
            found.about["accepted baselines"] = f"{names}; compared with {best.name}, which agrees best"
    found.outcomes += damaged


def _compare_runs(choice: GateChoice, found: _Found, *directories: Path) -> None:
    """Two runs and those of their rows, added to what was found."""
    from bench.gate.completeness import row_directories
    from bench.gate.outcome import Outcome

    _compare_pair(choice, found, *directories)
    rows = [row_directories(directory) for directory in directories]
    for name in dict.fromkeys((*rows[0], *rows[1])):
        if name not in rows[1]:
            found.outcomes.append(Outcome("cells", name, "row", "missing", note="the candidate does not have it"))
        elif name not in rows[0]:
            found.outcomes.append(Outcome("cells", name, "row", "new", note="the baseline does not have it"))
        else:
            _compare_pair(choice, found, *(own[name] for own in rows))


def _compare_pair(choice: GateChoice, found: _Found, *directories: Path) -> None:
    """Two runs, added to what was found; one that cannot be read costs nothing of the rest."""
    from bench.gate.compare import compare_stores
    from bench.gate.outcome import Outcome
    from bench.gate.provenance import about_run
    from bench.gate.report import worst_images
    from bench.records.errors import BenchError
    from bench.store.store import Store

    before, after = (Store(path, writable=False) for path in directories)
    try:
        compared = compare_stores(before, after, choice.images, choice.limits(), choice.cost, choice.latents)
    except BenchError as error:
        found.outcomes.append(Outcome("cells", "run", "run", "not comparable", note=str(error)))
        return
    found.outcomes += compared.outcomes
    if compared.runs:
        found.images += worst_images(compared.pairs, *compared.runs)
        for side, run in zip(("baseline", "candidate"), compared.runs, strict=True):
            if side not in found.about:
                found.about[side] = about_run(run.store, [cell.record for cell in run.cells])


def _compare_installations(choice: GateChoice, found: _Found) -> None:
    """Schedulers, runs and latencies of two installations, added to what was found.

    An installation that fails leaves a separate outcome, next to those that were found before and are found after.
    """
    from bench.conformance.baseline import read_baseline
    from bench.experiment.compose import compose_settings
    from bench.experiment.config import check_experiment
    from bench.experiment.verbs import chosen_schedulers
    from bench.gate.both_sides import run_sides, survey_there, time_sides
    from bench.gate.latency import compare_interleaved
    from bench.gate.provenance import about_installation
    from bench.gate.schedulers import compare_surveys, find_baselines
    from bench.workers.installation import check_installation, find_installation, this_installation

    output, options, only = Path(choice.output), choice.both_sides, choice.conformance.only
    ref = str(choice.ref)
    if directory := choice.conformance.directory:
        schedulers = {path.stem: read_baseline(path)["settings"] for path in find_baselines(Path(directory), only)}
    else:
        schedulers = chosen_schedulers(only)
    if options.run:
        check_experiment(compose_settings(options.overrides))  # refused before anything is installed
    before = after = None
    with found.stage(ref):
        cache = Path(choice.installations)
        before = find_installation(ref, cache)
        after = find_installation(choice.candidate_ref, cache) if choice.candidate_ref else this_installation()
        check_installation(before)
        check_installation(after)
    if before is None or after is None or found.outcomes:
        return
    with found.stage(ref):
        old = survey_there(before, schedulers, output / "schedulers" / "before")
        found.about["baseline"] = about_installation(before, old.name)
        kept = {name: read_baseline(old.baseline(name))["settings"] for name in old.examined}
        new = survey_there(after, kept, output / "schedulers" / "after")
        found.about["candidate"] = about_installation(after, new.name)
        found.outcomes += compare_surveys(old, new, found.concerns)
        found.names = f"{found.names[0]} ({old.name})", f"{found.names[1]} ({new.name})"
    if not options.run:
        return
    with found.stage(ref):
        _compare_runs(choice, found, *run_sides(before, after, options.overrides, output))
    if options.rounds:
        with found.stage(ref):
            latencies = time_sides(before, after, options.overrides, options.sessions, options.rounds, output)
            found.outcomes += compare_interleaved(latencies, choice.cost)


def _accepting(choice: GateChoice) -> tuple[str, ...]:
    """The commands that accept the change, where it is compared with something that can be replaced."""
    commands = []
    if choice.ref is None and choice.candidate:
        place = f"baselines={choice.baselines}" if choice.baselines else f"baseline={choice.baseline}"
        names = shlex.join([f"candidate={choice.candidate}", place])
        commands.append(f"tcd-bench gate accept {names} author=NAME reason=WHY")
    if choice.ref is None and (directory := choice.conformance.directory):
        name = shlex.quote(f"conformance.directory={directory}")
        commands.append(f"tcd-bench gate accept {name} 'conformance.only=[NAME]'")
    return tuple(commands)


def accept_baseline(settings: dict[str, Any]) -> int:
    """Make a candidate the baseline, with an author and a reason; or write baselines of schedulers again.

    Exit codes: 0 done; 1 a scheduler could not be examined, and its baseline stays; 2 refused.
    """
    from bench.experiment.verbs import check_acceptance

    choice = check_acceptance(settings)
    code = 0
    if directory := choice.conformance.directory:
        from bench.gate.schedulers import accept_schedulers, find_baselines

        for path, problem in accept_schedulers(find_baselines(Path(directory), choice.conformance.only)):
            print(f"{'failed' if problem else 'Baseline'}: {path}{f' ({problem})' if problem else ''}")
            code = 1 if problem else code
    if choice.candidate:
        from bench.gate.accept import accept as make_baseline
        from bench.gate.baselines import fingerprint_of_run, place_for
        from bench.store.store import Store

        store = Store(choice.candidate, writable=False)
        place = Path(str(choice.baseline))
        if choice.baselines:
            place = place_for(Path(choice.baselines), fingerprint_of_run(store), choice.another)
        note = make_baseline(store, place, str(choice.author), str(choice.reason))
        print(f"Baseline: {note}")
    return code


def draw_history(settings: dict[str, Any]) -> int:
    """Draw the trends of many gates from the file that they wrote, with steps and drifts.

    Exit codes: 0 done, whatever was found; 2 refused.
    """
    from bench.experiment.verbs import check_history
    from bench.gate.history import changes_in_words, read_history, to_trend_page
    from bench.gate.report import write_files

    path, output = check_history(settings)
    history = read_history(path)
    (page,) = write_files({"history.html": to_trend_page(history, path)}, output)
    print("\n".join([*changes_in_words(history.series), f"Report: {page}"]))
    return 0
