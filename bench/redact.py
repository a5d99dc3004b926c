"""Redaction of secrets in written text: secrets of the environment, and texts in the form of tokens, become [secret].

The forms are those that the services document for their tokens, as GitHub's and GitLab's secret scanning list them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

REDACTED = "[secret]"
_WORDS = "TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|ACCESS_?KEY|KEY|PAT|AUTH|CREDENTIALS?|CONNECTION_?STRING"
_NAMES = re.compile(rf"(?:^|[_.-])(?:{_WORDS})(?:_ID)?$", re.IGNORECASE)
"""Names of variables and settings whose values are secret: HF_TOKEN, AWS_ACCESS_KEY_ID; not HF_TOKEN_PATH."""
_SPOKEN = r"(?:[a-z]+[_-]?)?(?:token|secret|password|passwd|passphrase|api[_-]?key|access[_-]?key|credential)"
_END = r"(?![A-Za-z0-9_-])"
_SHAPES = re.compile(
    "|".join(
        (
            r"(?<![A-Za-z0-9])(?:hf|gh[opsur]|npm|glpat|gldt|glrt|glsoat|dop_v1|r8|wandb_v1)[_-][A-Za-z0-9_-]{16,}",
            r"(?<![A-Za-z0-9])github_pat_[A-Za-z0-9_]{16,}",
            r"(?<![A-Za-z0-9])[spr]k[_-](?=[A-Za-z_-]*[0-9])(?:[A-Za-z]+[_-])*[A-Za-z0-9_-]{16,}",
            r"(?<![A-Za-z0-9])xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}",
            r"(?<![A-Za-z0-9])(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[A-Z0-9]{16}" + _END,
            r"(?<![A-Za-z0-9])AIza[A-Za-z0-9_-]{35}",
            r"(?<![A-Za-z0-9])ya29\.[A-Za-z0-9_-]{20,}",
            r"(?<![A-Za-z0-9])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?",
            r"(?<![A-Za-z0-9])pypi-[A-Za-z0-9_-]{30,}",
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
            r"(?<=AccountKey=)[A-Za-z0-9+/=]{20,}",
            r"(?i:(?<=\bbearer )|(?<=\bbasic ))[A-Za-z0-9._~+/=-]{8,}",
            r"(?<=://)[^/\s@]*:[^/\s]*(?=@)",
            r"(?i:(?<=[?&]sig=)|(?<=[?&]key=)|(?<=[?&]token=)|(?<=[?&]signature=)|(?<=[?&]x-amz-signature=)"
            r"|(?<=[?&]x-amz-credential=)|(?<=[?&]x-amz-security-token=)|(?<=[?&]access_token=)|(?<=[?&]password=))"
            r"[^&\s\"']+",
        )
    )
)
_GIVEN = re.compile(rf"(?i)(\b{_SPOKEN}['\"]?\s*[=:]\s*)(\"[^\"]+\"|'[^']+'|[^\s,;'\"&]+)")
"""`password=…` in running text, such as an error's."""
SHORTEST = 8
"""Shorter values of variables are not treated as secrets: they are words, numbers and switches."""


def without_secrets(text: str) -> str:
    """Return the text with each secret replaced by `[secret]`.

    Secrets are values of environment variables with names such as HF_TOKEN, where they are not part of a word; tokens,
    by their form; passwords and signatures in URLs; and values after `password=` and the like.
    """
    values = {value for name, value in os.environ.items() if _NAMES.search(name) and len(value) >= SHORTEST}
    for value in sorted(values, key=len, reverse=True):
        if value in text:
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(value)}(?![A-Za-z0-9])", REDACTED, text)
    return _GIVEN.sub(rf"\1{REDACTED}", _SHAPES.sub(REDACTED, text))


def settings_without_secrets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with `[secret]` for secrets in texts, and for texts under names such as `api_key`."""
    return {key: REDACTED if _is_secret(key, value) else _scrubbed(value) for key, value in settings.items()}


def secret_settings(settings: Mapping[str, Any]) -> list[str]:
    """Return the dotted names of the settings that hold secrets, in their order."""
    return list(_changed(settings, settings_without_secrets(settings)))


def _is_secret(name: object, value: Any) -> bool:
    return isinstance(value, str) and value != "" and _NAMES.search(str(name)) is not None


def _scrubbed(value: Any) -> Any:
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return settings_without_secrets(value)
    return [_scrubbed(one) for one in value] if isinstance(value, list | tuple) else value


def _changed(before: Any, after: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, Mapping):
        for key, value in before.items():
            yield from _changed(value, after[key], f"{name}.{key}" if name else str(key))
    elif isinstance(before, Sequence) and not isinstance(before, str):
        for i, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _changed(old, new, f"{name}[{i}]")
    elif before != after:
        yield name
