"""Foreign text has no effect where it is shown: no terminal codes, no broken XML, no formulas, no notifications."""

import base64
import hashlib
import html
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.gate.outcome import GateReport, Outcome
from bench.gate.report import COMMENT_CHARACTERS, to_comment, to_junit, to_page
from bench.printable import printable, spreadsheet_text
from bench.report.table_forms import to_csv
from bench.report.tables import Table

NASTY = "a\x1b[31m\x00\x0b\x9b1mb\u202e\ufffe c"


def report_of(*subjects: str) -> GateReport:
    return GateReport(
        "a", "b", tuple(Outcome("quality", subject, "fid", "regressed", 1.0, 2.0) for subject in subjects)
    )


@settings(
    derandomize=True, database=None, max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(st.text())
def test_printable_text_is_valid_xml_and_has_no_terminal_codes(text: str) -> None:
    shown = printable(text)
    root = ET.Element("x", name=shown)
    root.text = shown
    ET.fromstring(ET.tostring(root))  # noqa: S314
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    assert len(shown) == len(text)


@pytest.mark.parametrize("text", ["a cat", "Käfer, 三只鸟 🐦", "±1.5 → η", "tab\tand\nline"])
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1"])
def test_no_field_of_a_csv_is_a_formula(text: str) -> None:
    assert spreadsheet_text(text).startswith("'")
    table = Table("t", "T", ("a",), ((text,),), (False,))
    assert f"'{text[0]}" in to_csv(table)


@pytest.mark.parametrize("text", ["-1.5", "+0.3", "1e-5", "-inf", "a=b", "tcd"])
def test_numbers_and_words_of_a_csv_stay(text: str) -> None:
    assert spreadsheet_text(text) == text


def test_junit_is_valid_xml_with_any_content() -> None:
    root = ET.fromstring(to_junit(report_of(NASTY)))  # noqa: S314
    case = next(root.iter("testcase"))
    assert (case.get("classname"), case.get("name")) == (f"quality.{printable(NASTY)}", "fid")


def test_a_comment_mentions_no_users_and_fits_the_size_limit() -> None:
    comment = to_comment(report_of(*(f"@somebody {i}" for i in range(3000))))
    assert "@somebody" not in comment
    assert len(comment) <= COMMENT_CHARACTERS
    assert re.search(r"… and \d+ more rows: gate.html has them all", comment)
    left = re.search(r"and (\d+) more rows", comment)
    assert comment.count("somebody") + int(left[1]) == 3000
    assert "more rows" not in to_comment(report_of("one"))


def test_a_page_shows_control_characters_visibly() -> None:
    page = to_page(report_of(NASTY), [])
    assert "\x1b" not in page
    assert "\x00" not in page
    assert printable(NASTY) in page


def test_pages_forbid_external_content() -> None:
    page = to_page(report_of("x"), [])
    policy = html.unescape(re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[0])
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    assert "http" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert re.findall(r"'sha256-([^']+)'", policy) == digests


@pytest.mark.parametrize(
    "mark", ["\u061c", "\u200e", "\u200f", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))]
)
def test_bidirectional_marks_are_shown(mark: str) -> None:
    assert printable(f"a{mark}b") == "a\ufffdb"
    assert spreadsheet_text(f"a{mark}b") == "a\ufffdb"


def test_a_field_of_a_csv_has_no_terminal_codes() -> None:
    assert spreadsheet_text("a\x1b[31m\r=1") == "a\ufffd[31m\ufffd=1"
