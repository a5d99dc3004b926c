"""A gate's report in the forms that people and machines take: terminal, Markdown, JUnit XML, JSON, HTML."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.judge.gate.cells import Pair, Side
from bench.judge.gate.images import displacements
from bench.judge.gate.outcome import FAILS, INCOMPLETE, NOT_COMPARABLE, PASS, REGRESSION, GateReport, Outcome
from bench.records import BenchError
from bench.report.page import templates
from bench.report.tables import NONE, Table, to_markdown

ANSWERS = {
    PASS: "passed",
    REGRESSION: "failed: something got worse, changed, or does not run any more",
    NOT_COMPARABLE: "not comparable: the two runs did not measure the same thing",
    INCOMPLETE: "incomplete: records are missing, or nothing could be decided",
}
SHOWN = 8
"""How many pairs of images the page shows."""


@dataclass(frozen=True)
class BeforeAfter:
    """One image before and after, with how far it moved."""

    label: str
    prompt: str
    moved: float
    before: Path
    after: Path


def to_terminal(report: GateReport) -> str:
    """What came out, the worst first, then the counts; outcomes that are fine are counted only."""
    lines = []
    for level, outcomes in report.levels.items():
        shown = [outcome for outcome in outcomes if outcome.verdict not in ("unchanged", "known")]
        lines += [f"{outcome.verdict}: {in_words(outcome)}" for outcome in shown]
        lines.append(f"{level}: {_count(outcomes)}")
    return "\n".join([*lines, f"Gate {ANSWERS[report.exit_code]}."])


def outcome_table(level: str, outcomes: Sequence[Outcome]) -> Table:
    """One row an outcome."""
    rows = [
        (
            outcome.verdict,
            outcome.subject,
            outcome.quantity,
            _number(outcome.before),
            _number(outcome.after),
            NONE if outcome.interval is None else f"[{outcome.interval[0]:+.3g}, {outcome.interval[1]:+.3g}]",
            _number(outcome.limit),
            outcome.note or NONE,
        )
        for outcome in outcomes
    ]
    return Table(
        level,
        level.capitalize(),
        ("Verdict", "What", "Quantity", "before", "after", "95% interval of the change", "limit", "Note"),
        tuple(rows),
        (False, False, False, True, True, True, True, False),
    )


def to_comment(report: GateReport) -> str:
    """Markdown for a pull request: the answer, one line a level, what is not fine as a table, the rest folded away."""
    parts = [f"## tcd-bench gate {ANSWERS[report.exit_code]}", ""]
    parts += [f"- **{level}**: {_count(outcomes)}" for level, outcomes in report.levels.items()]
    for level, outcomes in report.levels.items():
        loud = [outcome for outcome in outcomes if outcome.verdict not in ("unchanged", "known")]
        quiet = [outcome for outcome in outcomes if outcome.verdict in ("unchanged", "known")]
        if loud:
            parts += ["", to_markdown(outcome_table(level, loud)).replace("## ", "### ", 1)]
        if quiet:
            table = to_markdown(outcome_table(level, quiet)).split("\n", 2)[2]
            parts += ["", f"<details><summary>{level}: {_count(quiet)}</summary>", "", table, "</details>"]
    return "\n".join([*parts, ""])


def to_junit(report: GateReport) -> str:
    """JUnit XML: a suite a level, a case an outcome; what fails the gate is a failure, what is open is skipped."""
    root = ET.Element("testsuites", name="tcd-bench gate")
    for level, outcomes in report.levels.items():
        counts = {
            "tests": len(outcomes),
            "failures": sum(outcome.verdict in FAILS for outcome in outcomes),
            "skipped": sum(outcome.verdict in _OPEN for outcome in outcomes),
        }
        suite = ET.SubElement(root, "testsuite", {"name": level, **{name: str(n) for name, n in counts.items()}})
        for outcome in outcomes:
            case = ET.SubElement(suite, "testcase", classname=f"{level}.{outcome.quantity}", name=outcome.subject)
            if outcome.verdict in FAILS:
                ET.SubElement(case, "failure", message=_printable(f"{outcome.verdict}: {in_words(outcome)}"))
            elif outcome.verdict in _OPEN:
                ET.SubElement(case, "skipped", message=_printable(f"{outcome.verdict}: {outcome.note}"))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def to_json(report: GateReport) -> str:
    """The whole report, numbers unrounded."""
    return json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_page(report: GateReport, images: Sequence[BeforeAfter]) -> str:
    """One self-contained HTML file, every text escaped."""
    tables = {
        level: (_count(outcomes), outcome_table(level, outcomes), any(o.verdict in FAILS for o in outcomes))
        for level, outcomes in report.levels.items()
    }
    return (
        templates()
        .get_template("gate.html.j2")
        .render(
            report=report,
            answer=ANSWERS[report.exit_code],
            passed=report.exit_code == PASS,
            tables=tables,
            images=images,
        )
    )


def worst_images(pairs: Sequence[Pair], baseline: Side, candidate: Side) -> list[BeforeAfter]:
    """The kept images that moved most, over all pairs of cells with the same noise."""
    found = []
    for pair in pairs:
        if pair.images_equal or not pair.same_noise:
            continue
        for row, moved in enumerate(displacements(pair, baseline, candidate)):
            before = baseline.store.image_path(pair.before.record.key, row)
            after = candidate.store.image_path(pair.after.record.key, row)
            if before.exists() and after.exists():
                found.append(BeforeAfter(pair.label, candidate.run.prompts[row], float(moved), before, after))
    return sorted(found, key=lambda entry: -entry.moved)[:SHOWN]


_OPEN = ("not comparable", "missing", "undecided", "new")


def _count(outcomes: Sequence[Outcome]) -> str:
    verdicts = dict.fromkeys(outcome.verdict for outcome in outcomes)
    return ", ".join(f"{sum(o.verdict == verdict for o in outcomes)} {verdict}" for verdict in verdicts)


def in_words(outcome: Outcome) -> str:
    """One line: what, before and after, how sure, and the note."""
    numbers = ""
    if outcome.before is not None and outcome.after is not None:
        numbers = f" {outcome.before:.4g} → {outcome.after:.4g}"
        if outcome.interval is not None:
            numbers += f", change [{outcome.interval[0]:+.3g}, {outcome.interval[1]:+.3g}]"
        if outcome.limit is not None:
            numbers += f", limit {outcome.limit:.3g}"
    note = f" ({outcome.note})" if outcome.note else ""
    return f"{outcome.subject}: {outcome.quantity}{numbers}{note}"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4g}"


def _printable(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)


def write_gate(report: GateReport, images: Sequence[BeforeAfter], directory: Path) -> list[Path]:
    """Write gate.md, gate.json, junit.xml and gate.html; returns their paths. Raises BenchError where it cannot."""
    texts = {
        "gate.md": to_comment(report),
        "gate.json": to_json(report),
        "junit.xml": to_junit(report),
        "gate.html": to_page(report, images),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchError(
            f"output={directory} cannot be written ({error.strerror}); choose another directory"
        ) from error
    return [directory / name for name in texts]
