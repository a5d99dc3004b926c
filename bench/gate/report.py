"""A gate's report in the forms that people and machines take: terminal, Markdown, JUnit XML, JSON, HTML."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.analysis.scoring import ScoredRun
from bench.gate.images import displacements
from bench.gate.outcome import (
    FAILS,
    INCOMPLETE,
    NOT_COMPARABLE,
    PASS,
    REGRESSION,
    VERDICTS,
    GateReport,
    Outcome,
)
from bench.gate.pairing import Pair
from bench.printable import printable
from bench.records.errors import BenchError
from bench.report.embedded_images import Picture
from bench.report.identity import NO_VALUE
from bench.report.page import render_template
from bench.report.table_forms import to_markdown
from bench.report.tables import Table

ANSWERS = {
    PASS: "passed",
    REGRESSION: "failed: something got worse, changed, or does not run any more",
    NOT_COMPARABLE: "not comparable: the two runs did not measure the same thing",
    INCOMPLETE: "incomplete: records are missing, or nothing could be decided",
}
_LONGEST = 400
"""Characters of a cell of a table in gate.md; gate.html has the rest."""
_PARAGRAPHS = 20
"""Paragraphs of the summary in gate.md."""
_SHOWN = 8
"""The number of pairs of images on the page."""
QUIET = ("unchanged", "equal", "known", "measured")
"""Verdicts that are counted and folded away."""
LISTED = 12
"""The number of passing outcomes per level that are listed on a terminal."""
COMMENT_CHARACTERS = 60_000
"""Maximum length of gate.md; GitHub accepts comments of 65,536 characters."""


@dataclass(frozen=True)
class BeforeAfter:
    """One image before and after, with how far it moved."""

    label: str
    prompt: str
    moved: float
    before: Picture
    after: Picture


def to_terminal(report: GateReport) -> str:
    """Return the outcomes, worst first, then the counts; passing outcomes are only counted.

    All that fails the gate, and of the others so many a level as a screen holds: the files have them all.
    """
    lines = []
    for level, outcomes in report.levels.items():
        shown, _ = _loud_and_quiet(outcomes)
        others = [outcome for outcome in shown if outcome.verdict not in FAILS]
        listed = [*(outcome for outcome in shown if outcome.verdict in FAILS), *others[:LISTED]]
        lines += [f"{outcome.verdict}: {in_words(outcome)}" for outcome in listed]
        if len(others) > LISTED:
            lines.append(f"… and {len(others) - LISTED} more: {_count(others[LISTED:])}")
        lines.append(f"{level}: {_count(outcomes)}")
    return "\n".join([*lines, f"Gate {answer_of(report)}."])


def answer_of(report: GateReport) -> str:
    """Return the answer in words, which distinguishes images that are equal from images within their limits."""
    words = ANSWERS[report.answer]
    images = [
        outcome for outcome in report.outcomes if outcome.level == "images" and outcome.quantity == "displacement"
    ]
    if report.answer == PASS and images:
        equal = sum(outcome.verdict == "equal" for outcome in images)
        moved = sum(outcome.verdict == "unchanged" for outcome in images)
        apart = len(images) - equal - moved
        words += ": every pixel is equal" if equal == len(images) else ""
        if equal < len(images):
            parts = [
                (equal, "with equal pixels"),
                (moved, "with other pixels, within the limits"),
                (apart, "of other noise"),
            ]
            words += f": cells {', '.join(f'{count} {what}' for count, what in parts if count)}"
    return f"{words} (a warning only)" if report.exit_code != report.answer else words


def outcome_table(level: str, outcomes: Sequence[Outcome]) -> Table:
    """One row an outcome; columns that no outcome has anything for are left out."""
    columns = ("Verdict", "What", "Quantity", "before", "after", "95% interval of the change", "limit", "Note")
    numeric = (False, False, False, True, True, True, True, False)
    rows = []
    for o in outcomes:
        interval = NO_VALUE if o.interval is None else f"[{o.interval[0]:+.3g}, {o.interval[1]:+.3g}]"
        numbers = _number(o.before), _number(o.after), interval, _number(o.limit)
        rows.append((o.verdict, o.subject, o.quantity, *numbers, o.note or NO_VALUE))
    kept = [i for i in range(len(columns)) if any(row[i] != NO_VALUE for row in rows)]
    shown = tuple(tuple(row[i] for i in kept) for row in (columns, *rows))
    return Table(level, level.capitalize(), shown[0], shown[1:], tuple(numeric[i] for i in kept))


def _loud_and_quiet(outcomes: Sequence[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
    """Split outcomes into those that a reader has to see and those that pass."""
    return [o for o in outcomes if o.verdict not in QUIET], [o for o in outcomes if o.verdict in QUIET]


def to_comment(report: GateReport) -> str:
    """Markdown for a pull request: the answer, a line per level, what is not fine, how to accept it, the rest folded.

    Levels with failures come first. At most `COMMENT_CHARACTERS` long, saying how much is missing; mentions and
    references in what is quoted notify nobody.
    """
    levels = sorted(report.levels.items(), key=lambda level: VERDICTS.index(level[1][0].verdict))
    parts = [f"## tcd-bench gate {answer_of(report)}", ""]
    parts += [f"- **{level}**: {_count(outcomes)}" for level, outcomes in levels]
    parts += [line for text in report.summary[:_PARAGRAPHS] for line in ("", _shorten(_quoted(text), 1200))]
    if len(report.summary) > _PARAGRAPHS:
        parts += ["", f"… and {len(report.summary) - _PARAGRAPHS} more paragraphs: gate.html has them all."]
    about = [f"- {name}: {_shorten(_plain(text))}" for name, text in _named(report)]
    end = ["", *about, *_how_to_accept(report), ""]
    room = COMMENT_CHARACTERS - len("\n".join([*parts, *end]))
    for level, outcomes in levels:
        loud, _ = _loud_and_quiet(outcomes)
        if loud:
            shown = _cut(outcome_table(level, loud), room)
            parts += ["", shown]
            room -= len(shown) + 2
    for level, outcomes in levels:
        _, quiet = _loud_and_quiet(outcomes)
        head = ["", f"<details><summary>{level}: {_count(quiet)}</summary>", "", "</details>"]
        if quiet and (left := room - len("\n".join(head)) - 2) > 0:
            shown = _cut(outcome_table(level, quiet), left, headed=False)
            parts += [*head[:-1], shown, head[-1]]
            room = left - len(shown)
    return "\n".join([*parts, *end])


def _named(report: GateReport) -> list[tuple[str, str]]:
    about = dict(report.about)
    names = {"baseline": report.baseline, "candidate": report.candidate}
    sides = [(name, f"{given}; {about.pop(name)}" if name in about else given) for name, given in names.items()]
    return [*sides, *about.items()]


def _how_to_accept(report: GateReport) -> list[str]:
    if report.answer == PASS or not report.accepting:
        return []
    commands = [_plain(command) for command in report.accepting]
    return ["", "If the change is meant, accept it and commit the files:", "", "```bash", *commands, "```"]


def _plain(text: str) -> str:
    """Text of one line that is quoted from elsewhere: it notifies nobody and ends no block."""
    return _mute(printable(" ".join(text.split()))).replace("`", "'").replace("<", "‹")


def _mute(text: str) -> str:
    """Text whose @names and #numbers are not mentions and references."""
    return re.sub(r"([@#])(?=\w)", "\\1\u200b", text)


def _quoted(text: str) -> str:
    """A paragraph of the summary, whose stars and backticks are its own."""
    return _mute(printable(" ".join(text.split()))).replace("<", "‹")


def _shorten(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _cut(table: Table, room: int, headed: bool = True) -> str:
    """A table in Markdown with as many of its first rows as fit; says how many are left out."""
    rows = [tuple(_shorten(text) for text in row) for row in table.rows]

    def shown(count: int) -> str:
        text = _mute(to_markdown(replace(table, rows=tuple(rows[:count]))))
        text = text.replace("## ", "### ", 1) if headed else text.split("\n", 2)[2]
        left = len(rows) - count
        return f"{text}\n\n… and {left} more rows: gate.html has them all.\n" if left else text

    fewest, most = 0, len(rows)
    while fewest < most:
        middle = (fewest + most + 1) // 2
        fewest, most = (middle, most) if len(shown(middle)) <= room else (fewest, middle - 1)
    return shown(fewest)


def to_junit(report: GateReport) -> str:
    """JUnit XML: a suite a level, a case an outcome; what fails the gate is a failure, what is open is skipped."""
    root = ET.Element("testsuites", name="tcd-bench gate")
    for level, outcomes in report.levels.items():
        failures, skipped = (str(sum(o.verdict in kind for o in outcomes)) for kind in (FAILS, _OPEN))
        counts = {"tests": str(len(outcomes)), "failures": failures, "skipped": skipped}
        suite = ET.SubElement(root, "testsuite", {"name": level, **counts})
        for outcome in outcomes:
            case = ET.SubElement(suite, "testcase", classname=f"{level}.{outcome.subject}", name=outcome.quantity)
            if outcome.verdict in FAILS:
                ET.SubElement(case, "failure", message=f"{outcome.verdict}: {in_words(outcome)}")
            elif outcome.verdict in _OPEN:
                ET.SubElement(case, "skipped", message=f"{outcome.verdict}: {outcome.note}")
    ET.indent(root)
    return printable(ET.tostring(root, encoding="unicode", xml_declaration=True)) + "\n"


def to_page(report: GateReport, images: Sequence[BeforeAfter]) -> str:
    """One self-contained HTML file, every text escaped."""
    levels = []
    for level, outcomes in report.levels.items():
        loud, quiet = _loud_and_quiet(outcomes)
        shown = {
            name: outcome_table(level, found) if found else None for name, found in (("loud", loud), ("quiet", quiet))
        }
        bad = any(outcome.verdict in FAILS for outcome in outcomes)
        levels.append({"name": level, "count": _count(outcomes), "bad": bad, "quiet_count": _count(quiet), **shown})
    return render_template(
        "gate.html.j2",
        ("base.js", "viewer.js"),
        Path(__file__).parent,
        report=report,
        answer=answer_of(report),
        passed=report.answer == PASS,
        about=_named(report),
        summary=[re.sub(r"[*`]", "", text) for text in report.summary],
        accepting=report.accepting if report.answer != PASS else (),
        levels=levels,
        images=images,
        contents=[
            *([("images", "Images")] if images else []),
            *((f"level-{name}", name.capitalize()) for name in report.levels),
        ],
        bad_words=FAILS,
        good_words=("improved", "unchanged", "equal", "fixed"),
    )


def worst_images(pairs: Sequence[Pair], baseline: ScoredRun, candidate: ScoredRun) -> list[BeforeAfter]:
    """The kept images that moved most, over all pairs of cells with the same noise."""
    found = []
    for pair in pairs:
        if pair.images_equal or not pair.same_noise:
            continue
        distances = displacements(pair, baseline, candidate)
        for row, moved in enumerate(() if distances is None else distances):
            before = Picture(baseline.store, pair.before.record, row)
            after = Picture(candidate.store, pair.after.record, row)
            if before.is_whole() and after.is_whole():
                found.append(BeforeAfter(pair.label, candidate.run.prompts[row], float(moved), before, after))
    return sorted(found, key=lambda entry: -entry.moved)[:_SHOWN]


_OPEN = ("not comparable", "missing", "undecided", "new", "quarantined")


def _count(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(outcome.verdict for outcome in outcomes)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


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
    return NO_VALUE if value is None else f"{value:.4g}"


def write_gate(report: GateReport, images: Sequence[BeforeAfter], directory: Path) -> list[Path]:
    """Write gate.md, gate.json, junit.xml and gate.html; returns their paths. Raises BenchError where it cannot."""
    texts = {
        "gate.md": to_comment(report),
        "gate.json": json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "junit.xml": to_junit(report),
        "gate.html": to_page(report, images),
    }
    return write_files(texts, directory)


def write_files(texts: Mapping[str, str], directory: Path) -> list[Path]:
    """Write files of a report by name; returns their paths. Raises BenchError where it cannot."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        reason = f"output={directory} cannot be written ({error.strerror}); choose another directory"
        raise BenchError(reason) from error
    return [directory / name for name in texts]
