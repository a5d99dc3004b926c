"""Foreign text made safe for its destination: terminals, XML, spreadsheets."""

from __future__ import annotations

import re

_CONTROL = re.compile(
    "[^\t\n\x20-\x7e\xa0-\u061b\u061d-\u200d\u2010-\u2029\u202f-\u2065\u206a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
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


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
