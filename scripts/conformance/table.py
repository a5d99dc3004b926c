"""Check every scheduler of conf/scheduler and write the baselines and the table: results/conformance.

    .venv/bin/python scripts/conformance/table.py [--only tcd ddim] [--processes 2] [--into results/conformance]
    .venv/bin/python scripts/conformance/table.py --classes          every class of the installed diffusers

One JSON file a scheduler (`tcd-bench conform scheduler=NAME baseline=results/conformance/NAME.json` compares with it)
and README.md: the table, with every deviation and its cause from causes.yaml. Exits with 1 when one has no cause.
With --classes it writes classes.md alone: what became of each class with set_timesteps and step, as it is created
without arguments: deviations, or one sentence why it cannot be examined. Exits with 1 when one ends otherwise.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

from bench.conformance.baseline import Cause, explain, load_causes, read_baseline
from bench.conformance.report import ConformanceReport, write_baseline
from bench.conformance.survey import scheduler_classes

ROOT = Path(__file__).parents[2]


def examine_one(name: str) -> tuple[str, dict[str, Any], ConformanceReport]:
    """The report on one file of conf/scheduler."""
    import torch

    from bench.conformance.verb import examine_scheduler

    torch.set_num_threads(1)
    settings = yaml.safe_load((ROOT / "conf" / "scheduler" / f"{name}.yaml").read_text(encoding="utf-8"))
    return name, settings, examine_scheduler({"scheduler": settings})


def examine_class(target: str) -> tuple[str, str, str]:
    """Class, outcome (examined, refused or broken), and the row's cells."""
    import torch

    from bench.conformance.conform import conform
    from bench.generate.schedulers import scheduler_class_of
    from bench.records.errors import BenchError

    torch.set_num_threads(1)
    name, begun = target.rpartition(".")[2], time.perf_counter()
    try:
        report = conform(scheduler_class_of(target))
    except BenchError as error:
        return name, "refused", f"– | – | – | {str(error).replace('|', '/')}"
    except BaseException as error:  # what must not happen
        return name, "broken", f"– | – | – | **{type(error).__name__}: {error}**"
    causes = Counter(words.partition(":")[0] for words in report.explained.values())
    causes["unexplained"] = len(report.findings) - len(report.explained)
    words = ", ".join(f"{cause} × {count}" for cause, count in causes.items() if count) or "–"
    cells = f"{report.family or 'unknown'} | {sum(report.checked.values())} | {len(report.findings)} | {words}"
    if report.unfinished:
        return name, "broken", f"{cells}; **{len(report.unfinished)} checks unfinished: {report.unfinished[0]}**"
    print(f"{name}: {time.perf_counter() - begun:.1f} s", file=sys.stderr, flush=True)
    return name, "examined", cells


def write_classes(into: Path, processes: int) -> int:
    """Examine every class of the installed diffusers and write classes.md; 1 where one is broken."""
    from bench.conformance.conform import tested_versions

    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(examine_class, scheduler_classes()))
    counts = Counter(outcome for _, outcome, _ in rows)
    versions = ", ".join(f"{name} {version}" for name, version in tested_versions().items())
    said = f"{len(rows)} classes: {counts['examined']} examined, {counts['refused']} refused, {counts['broken']} broken"
    lines = [
        "# Every scheduler class of diffusers",
        "",
        f"Made by `scripts/conformance/table.py --classes` with {versions}: all classes with `set_timesteps`",
        f"and `step`, created without arguments. {said}. README.md explains causes, by the class's family.",
        "",
        "| class | family | checks | deviations | causes, or why it cannot be examined |",
        "| --- | --- | ---: | ---: | --- |",
        *(f"| {name} | {cells} |" for name, _, cells in rows),
    ]
    into.mkdir(parents=True, exist_ok=True)
    (into / "classes.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{versions}: {said}")
    return 1 if counts["broken"] else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="some of the schedulers; the table then shows the others as stored")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--into", type=Path, default=ROOT / "results" / "conformance")
    parser.add_argument(
        "--classes", action="store_true", help="every class of the installed diffusers, into classes.md"
    )
    arguments = parser.parse_args()
    if arguments.classes:
        return write_classes(arguments.into, arguments.processes)
    names = sorted(path.stem for path in (ROOT / "conf" / "scheduler").glob("*.yaml"))
    chosen = arguments.only or names
    begun = time.perf_counter()
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        for name, settings, report in pool.map(examine_one, chosen):
            write_baseline(report, arguments.into / f"{name}.json", settings)
            print(f"{name}: {len(report.findings)} deviations in {report.duration_s:.1f} s", flush=True)
    print(f"{len(chosen)} schedulers in {time.perf_counter() - begun:.0f} s")
    kept = [path for name in names if (path := arguments.into / f"{name}.json").is_file()]
    stored = {path.stem: read_baseline(path) for path in kept}
    causes = load_causes(arguments.into)
    text, unexplained = table(stored, causes)
    (arguments.into / "README.md").write_text(text, encoding="utf-8")
    for line in unexplained:
        print(f"without a cause: {line}")
    return 1 if unexplained else 0


def table(stored: dict[str, dict[str, Any]], causes: Sequence[Cause]) -> tuple[str, list[str]]:
    """The Markdown page, and the deviations that no cause explains."""
    versions = ", ".join(f"{name} {version}" for name, version in next(iter(stored.values()))["versions"].items())
    lines = [
        "# Conformance of diffusers' schedulers",
        "",
        f"Made by `scripts/conformance/table.py` with {versions}; float64, CPU, no model. Settings: conf/scheduler.",
        "Errors are root mean square distances from the exact solution on Gaussians of widths 0.15 to 2 (final noise",
        "included); orders are fitted on the same target, see each JSON file. A deviation is one check at one setting.",
        "",
        "| scheduler | class | checks | error at 4 | at 8 | at 32 | order (declared) | deviations | causes |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: | --- |",
    ]
    unexplained, used = [], dict.fromkeys(cause.name for cause in causes)
    for name, data in stored.items():
        found: dict[str, int] = {}
        for finding in data["findings"]:
            cause = explain(causes, data["scheduler"], finding)
            if cause is None:
                unexplained.append(f"{name}: {finding}")
            label = cause.name if cause else "unexplained"
            found[label] = found.get(label, 0) + 1
            used[label] = None
        errors = data["errors"].get("Gaussians", {})
        shown = [f"{errors[steps]:.3g}" if steps in errors else "–" for steps in ("4", "8", "32")]
        orders = "; ".join(
            f"{order['fitted']:.2f} ({order['declared']:g})"
            for order in data["orders"]
            if "mixture" not in order["setting"]
        )
        reasons = ", ".join(f"[{label}](#{label}) × {count}" for label, count in found.items())
        class_name = data["scheduler"].rpartition(".")[2]
        checks = sum(data["checked"].values())
        cells = [name, class_name, str(checks), *shown, orders or "–", str(len(data["findings"])), reasons or "–"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## What to avoid", "", *_avoid(stored, causes), "", "## Causes", ""]
    for cause in causes:
        links = [f"[#{n}](https://github.com/huggingface/diffusers/issues/{n})" for n in cause.issues]
        upstream = f" Upstream: {', '.join(links)}." if links else ""
        lines += [f"### {cause.name}", "", f"*{cause.kind}* · {' '.join(cause.explanation.split())}{upstream}", ""]
        if cause.reproduction:
            lines += ["```text", cause.reproduction.strip(), "```", ""]
    return "\n".join(lines).rstrip() + "\n", unexplained


def _avoid(stored: dict[str, dict[str, Any]], causes: Sequence[Cause]) -> list[str]:
    """One line for each scheduler: what a user should not do until it is fixed."""
    lines = []
    for name, data in stored.items():
        found = (explain(causes, data["scheduler"], finding) for finding in data["findings"])
        advice = dict.fromkeys(cause.avoid for cause in found if cause and cause.avoid)
        if advice:
            lines.append(f"- **{name}**: {'; '.join(advice)}.")
    return lines


if __name__ == "__main__":
    sys.exit(main())
