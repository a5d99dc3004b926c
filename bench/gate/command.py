"""The verbs `gate` and `gate accept`: what of their settings is compared with what."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.experiment.verbs import GateChoice
    from bench.gate.outcome import Outcome


def gate(settings: dict[str, Any]) -> int:
    """Compare a candidate with a baseline: schedulers, images, scores and cost.

    Exit codes: 0 pass; 1 something got worse, changed or no longer runs; 2 refused, or the runs cannot be compared;
    3 something is missing: an installation cannot run, nothing could be decided, a stored file is missing or damaged.
    """
    from bench.experiment.verbs import check_gate

    choice = check_gate(settings)
    output, directory = Path(choice.output), choice.conformance.directory
    names = (
        str(choice.ref or choice.baseline or directory),
        choice.candidate_ref or choice.candidate or "this installation",
    )
    if choice.baseline:
        print(f"Comparing {names[1]} with {names[0]} ...", file=sys.stderr, flush=True)  # what follows imports scipy

    from bench.gate.compare import compare_stores
    from bench.gate.outcome import GateReport
    from bench.gate.report import BeforeAfter, to_terminal, worst_images, write_gate
    from bench.gate.schedulers import compare_schedulers, find_baselines
    from bench.store.store import Store

    outcomes: list[Outcome] = []
    images: list[BeforeAfter] = []
    if choice.ref is not None:
        names, runs = _compare_installations(choice, names, outcomes)
    else:
        runs = [Path(name) for name in (choice.baseline, choice.candidate) if name]
        outcomes += compare_schedulers(find_baselines(Path(directory), choice.conformance.only) if directory else [])
    if runs:
        before, after = (Store(path, writable=False) for path in runs)
        compared = compare_stores(before, after, choice.images, choice.limits(), choice.cost)
        outcomes += compared.outcomes
        if compared.runs:
            images += worst_images(compared.pairs, *compared.runs)
    report = GateReport(*names, tuple(outcomes))
    files = write_gate(report, images, output)
    print(f"{to_terminal(report)}\nReport: {files[-1]}")
    return report.exit_code


def _compare_installations(
    choice: GateChoice, names: tuple[str, str], outcomes: list[Outcome]
) -> tuple[tuple[str, str], list[Path]]:
    """Schedulers and latencies of two installations, added to the outcomes; their full names and the runs they made.

    An installation that fails leaves a separate outcome, next to those that were found before.
    """
    from bench.conformance.baseline import read_baseline
    from bench.conformance.survey import Survey
    from bench.experiment.verbs import chosen_schedulers
    from bench.gate.both_sides import run_sides, survey_there, time_sides
    from bench.gate.latency import compare_interleaved
    from bench.gate.outcome import Outcome
    from bench.gate.schedulers import compare_surveys, find_baselines
    from bench.workers.installation import InstallationError, check_installation, find_installation, this_installation

    output, options, only = Path(choice.output), choice.both_sides, choice.conformance.only
    runs = list[Path]()
    if directory := choice.conformance.directory:
        schedulers = {path.stem: read_baseline(path)["settings"] for path in find_baselines(Path(directory), only)}
    else:
        schedulers = chosen_schedulers(only)
    try:
        cache = Path(choice.installations)
        before = find_installation(str(choice.ref), cache)
        after = find_installation(choice.candidate_ref, cache) if choice.candidate_ref else this_installation()
        check_installation(before)
        check_installation(after)
        old = Survey.read(survey_there(before, schedulers, output / "schedulers" / "before"))
        kept = {name: read_baseline(old.baseline(name))["settings"] for name in old.examined}
        new = Survey.read(survey_there(after, kept, output / "schedulers" / "after"))
        outcomes += compare_surveys(old, new)
        names = f"{names[0]} ({old.name})", f"{names[1]} ({new.name})"
        if options.run:
            runs += run_sides(before, after, options.overrides, output)
            if options.rounds:
                latencies = time_sides(before, after, options.overrides, options.sessions, options.rounds, output)
                outcomes += compare_interleaved(latencies, choice.cost.latency_interleaved)
    except InstallationError as error:
        verdict = "missing" if error.name == choice.ref else "failed"
        outcomes.append(Outcome("cells", error.name, "run", verdict, note=str(error)))
    return names, runs


def accept_baseline(settings: dict[str, Any]) -> int:
    """Make a candidate the baseline, with an author and a reason.

    Exit codes: 0 done; 2 refused.
    """
    from bench.experiment.verbs import check_acceptance
    from bench.gate.accept import accept as make_baseline
    from bench.store.store import Store

    choice = check_acceptance(settings)
    note = make_baseline(
        Store(str(choice.candidate), writable=False), Path(str(choice.baseline)), str(choice.author), str(choice.reason)
    )
    print(f"Baseline: {note}")
    return 0
