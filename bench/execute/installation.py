"""Another installation to run this package in: an environment, a checkout of diffusers, or released versions."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.records import BenchError

_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._-]+\])?==[A-Za-z0-9.+!_-]+")


@dataclass(frozen=True, slots=True)
class Installation:
    """A Python and the directories whose packages come before its own."""

    name: str
    python: str
    paths: tuple[str, ...] = ()

    def command(self, module: str, *arguments: str) -> list[str]:
        """What runs a module there."""
        return [self.python, "-m", module, *arguments]

    def environment(self) -> dict[str, str]:
        """The environment variables there; this very package is run on both sides."""
        here = str(Path(__file__).parents[2])
        inherited = os.environ.get("PYTHONPATH")
        return {**os.environ, "PYTHONPATH": os.pathsep.join([*self.paths, here, *([inherited] if inherited else [])])}


def this_installation() -> Installation:
    """The one that is running."""
    return Installation("this installation", sys.executable)


def find_installation(ref: str, cache: Path) -> Installation:
    """What `ref` names: a Python, the directory of an environment or of a checkout, or versions such as
    `diffusers==0.41.0` (several with spaces), which are installed into `cache` without their dependencies.

    Raises BenchError for anything else, and when the installation fails.
    """
    path = Path(ref)
    if path.is_file() and os.access(path, os.X_OK):
        return Installation(ref, str(path.absolute()))
    if ref and path.is_dir():
        for python in (path / "bin" / "python", path / "Scripts" / "python.exe"):
            if python.exists():
                return Installation(ref, str(python.absolute()))
        for source in (path / "src", path):
            if (source / "diffusers" / "__init__.py").is_file():
                return Installation(ref, sys.executable, (str(source.absolute()),))
        raise BenchError(f"ref={ref} is neither an environment (bin/python) nor a checkout (src/diffusers)")
    wanted = ref.split()
    if not wanted or not all(_REQUIREMENT.fullmatch(part) for part in wanted):
        raise BenchError(
            f"ref={ref} was given; give a Python, the directory of an environment or a checkout, or versions as in "
            "ref=diffusers==0.41.0"
        )
    target = cache / hashlib.sha256(" ".join(sorted(wanted)).encode()).hexdigest()[:12]
    if not target.is_dir():
        _install(wanted, target)
    return Installation(ref, sys.executable, (str(target.absolute()),))


def _install(wanted: list[str], target: Path) -> None:
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    uv = shutil.which("uv")
    tool = [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    command = [*tool, "--quiet", "--no-deps", "--target", str(partial), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason was given"]
        raise BenchError(f"ref={' '.join(wanted)} could not be installed: {last[0]}")
    partial.rename(target)
