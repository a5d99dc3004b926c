"""Foreign text made safe for its destination: terminals, XML, spreadsheets."""

from __future__ import annotations

import os
import re
from typing import TextIO

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
"""Characters that XML 1.0 cannot hold (W3C, section 2.2), C1 controls, lone surrogates, and bidirectional controls."""


def printable(text: str) -> str:
    """Return the text with � for control characters other than tab and line feed, which a terminal or XML obeys."""
    return _CONTROL.sub("\ufffd", text)


def spreadsheet_text(text: str) -> str:
    """Return a field of a .csv that a spreadsheet shows and does not compute: formulas are prefixed with an apostrophe.

    As OWASP recommends for =, +, -, @ and tab (a carriage return is not printable); numbers are unchanged.
    """
    text = printable(text)
    if text[:1] in ("=", "+", "-", "@", "\t") and not _is_number(text):
        return f"'{text}"
    return text


def is_plain(stream: TextIO) -> bool:
    """Whether a stream takes lines of plain text only: a file, a pipe, a terminal that cannot move its cursor.

    So is one whose encoding lacks what tables and bars are drawn with.
    """
    try:
        "━●…".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return True
    return not stream.isatty() or os.environ.get("TERM", "") in ("dumb", "unknown")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
