"""Nothing secret in what is written down: tokens of the environment, and what looks like one, are blotted out."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_KEY|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|AKIA[A-Z0-9]{16}|ghp_[A-Za-z0-9]{20,})\b|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
SHORTEST = 6
"""Shorter values are no secrets worth the name, and would blot out words."""


def without_secrets(text: str) -> str:
    """The text with `[secret]` where one stood."""
    values = {value for name, value in os.environ.items() if _NAMES.search(name) and len(value) >= SHORTEST}
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "[secret]")
    return _SHAPES.sub("[secret]", text)


def settings_without_secrets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same of every text in nested settings."""
    return {key: _scrubbed(value) for key, value in settings.items()}


def _scrubbed(value: Any) -> Any:
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return settings_without_secrets(value)
    return [_scrubbed(one) for one in value] if isinstance(value, list | tuple) else value
