"""The releases of diffusers that conform was tried with, by scripts/conformance/releases.py."""

from __future__ import annotations

import re
from importlib import metadata

TRIED = ("0.30.3", "0.36.0", "0.42.1")
"""From the oldest to the newest; any other is taken as well."""


def installed_diffusers() -> str | None:
    """Return the version of diffusers that is installed; None without it. Nothing is imported."""
    try:
        return metadata.version("diffusers")
    except metadata.PackageNotFoundError:
        return None


def untried() -> str | None:
    """Return one line about an installed diffusers that is newer than all that were tried, or older; else None."""
    version = installed_diffusers()
    if version is None:
        return None
    newer, older = _numbers(version) > _numbers(TRIED[-1]), _numbers(version) < _numbers(TRIED[0])
    if not newer and not older:
        return None
    known = f"{TRIED[0]} to {TRIED[-1]}, with which tcd-bench was tried"
    return f"diffusers {version} is {'newer' if newer else 'older'} than {known}; it is examined all the same"


def _numbers(version: str) -> tuple[int, ...]:
    """Return the release's numbers: (0, 43, 0) for 0.43.0.dev0, as main is called before it is released."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
