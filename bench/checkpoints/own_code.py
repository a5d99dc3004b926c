"""A user's own scheduler or extractor: its module, found in the current directory by its name, loaded and hashed.

Installed modules take precedence. The current directory does not become part of the import path: only the named module
or package is loaded from it, so neighbouring files are not imported and shadow nothing.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import sysconfig
from importlib.machinery import SOURCE_SUFFIXES, ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from bench.records.cell import content_hash
from bench.records.errors import BenchError

PACKAGES = {"diffusers", "bench"}
"""Packages that are not hashed: diffusers' version is part of a cell's identity already, and bench is not own code."""


def import_own(target: str, subject: str, example: str) -> Any:
    """Return what a dotted path names, such as a class; raises BenchError, about the `subject`, where it cannot."""
    module_name, _, name = target.rpartition(".")
    try:
        load_own(module_name)
        return getattr(importlib.import_module(module_name), name)
    except Exception as error:  # an imported module may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BenchError(
            f"{subject} cannot be imported ({reason}); give the dotted path of a class, such as {example}, that is "
            "installed or in a module of the current directory"
        ) from error


def load_own(target: str) -> None:
    """Load the module that a dotted name begins with, if it is in the current directory and not loaded yet."""
    name = target.partition(".")[0]
    if name in sys.modules or not name or importlib.util.find_spec(name) is not None:
        return
    spec = _find_here(name)
    if spec is None:
        return
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        if spec.loader is not None:  # else a folder without __init__.py
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def hash_own(target: str) -> str | None:
    """Return 16 hexadecimal digits over the source files of a user's module or package; None for installed code.

    Nothing is imported. Own code is any code outside this Python's installation.
    """
    name = target.partition(".")[0]
    try:
        spec = (importlib.util.find_spec(name) if name else None) or _find_here(name)
    except ValueError:  # a module without a spec, such as __main__
        return None
    if name in PACKAGES or spec is None:
        return None
    files: dict[str, Path] = {}
    for folder in map(Path, spec.submodule_search_locations or ()):
        sources = (path for path in sorted(folder.rglob("*")) if path.suffix in SOURCE_SUFFIXES)
        files |= {path.relative_to(folder).as_posix(): path for path in sources}
    if not files and spec.has_location and spec.origin:
        files = {name: Path(spec.origin)}
    if not files or any(path.is_relative_to(place) for path in files.values() for place in _installation()):
        return None
    return content_hash({name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()})


def _find_here(name: str) -> ModuleSpec | None:
    PathFinder.invalidate_caches()
    return PathFinder.find_spec(name, [str(Path.cwd())]) if name else None


def _installation() -> list[Path]:
    paths = sysconfig.get_paths()
    return [Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
