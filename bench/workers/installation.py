"""Other installations that can run this package: an environment, a checkout of diffusers, or released versions."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.records.errors import BenchError

_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._-]+\])?==[A-Za-z0-9.+!_-]+")
_OLD = {24: ("peft==0.6.2",), 31: ("huggingface_hub==0.24.7", "numpy==1.26.4")}
"""Packages that diffusers before 0.N needs in these versions: it breaks with later ones, mostly without saying so."""
_PACKAGE = Path(__file__).parents[1]
_PROBE = """
import sys
sys.path[:] = [path for path in sys.path if path]  # before Python 3.11 the current directory comes first
import json
try:
    import diffusers, torch
    where = diffusers.__file__
except Exception as error:
    where = f"{type(error).__name__}: {error}"
print(json.dumps([sys.version_info[:2], sys.prefix, where]))
"""
_LEND = """
import sys
if sys.version_info[:2] == {version}:
    sys.path += {paths}
"""


class InstallationError(BenchError):
    """An installation cannot be created or run; holds its name and the reason. The input is not at fault."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.name, self.reason = name, reason


@dataclass(frozen=True, slots=True)
class Installation:
    """A Python and the directories whose packages precede its own."""

    name: str
    python: str
    paths: tuple[str, ...] = ()

    def command(self, module: str, *arguments: str, attached: bool = False) -> list[str]:
        """Return the command that runs a module there; if `attached`, it ends when its standard input closes."""
        return [self.python, "-m", *(["bench.workers.attached"] if attached else []), module, *arguments]

    def environment(self) -> dict[str, str]:
        """Return the environment variables there: this package is run, and the current directory is not searched.

        An empty entry of PYTHONPATH would mean the current directory and is removed.
        """
        inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        lacks_us = not any((Path(path) / "bench").exists() for path in self.paths)
        paths = [*self.paths, *(package_paths() if lacks_us else []), *inherited]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}


def package_paths() -> list[str]:
    """Return the directory of this package unless it is installed: another process of this Python needs it."""
    return [] if str(_PACKAGE.parent) in _own_packages() else [str(_PACKAGE.parent)]


def this_installation() -> Installation:
    """Return the installation that is running."""
    return Installation("this installation", sys.executable)


def find_installation(ref: str, cache: Path) -> Installation:
    """Return what `ref` names: a Python, the directory of an environment or of a checkout, or versions such as
    `diffusers==0.41.0` (several with spaces), which are installed into `cache` without their dependencies.

    Raises BenchError for anything else, and InstallationError when it cannot be installed.
    """
    path = Path(ref)
    if path.is_file() and os.access(path, os.X_OK):
        return _foreign(ref, path, cache)
    if ref and path.is_dir():
        for python in (path / "bin" / "python", path / "Scripts" / "python.exe"):
            if python.exists():
                return _foreign(ref, python, cache)
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
    wanted = with_companions(wanted)
    target = cache / hashlib.sha256(" ".join(sorted(wanted)).encode()).hexdigest()[:12]
    if not target.is_dir():
        _install(ref, wanted, target)
    return Installation(ref, sys.executable, (str(target.absolute()),))


def with_companions(wanted: list[str]) -> list[str]:
    """Return the versions together with those that an old diffusers needs and that were not named."""
    named = {part.partition("==")[0].partition("[")[0].replace("-", "_").lower() for part in wanted}
    for part in wanted:
        found = re.match(r"diffusers==0\.(\d+)", part, re.IGNORECASE)
        if found:
            needed = [version for bound, versions in _OLD.items() if int(found[1]) < bound for version in versions]
            return [*wanted, *(version for version in needed if version.partition("==")[0] not in named)]
    return wanted


def _foreign(ref: str, python: Path, cache: Path) -> Installation:
    """Return another Python that finds this package, and borrows from here, last of all, what it lacks."""
    borrowed = cache.absolute() / "borrowed"
    borrowed.mkdir(parents=True, exist_ok=True)
    if not (link := borrowed / "bench").exists():
        link.symlink_to(_PACKAGE, target_is_directory=True)
    for shared in ("conf", "results"):
        if (_PACKAGE.parent / shared).is_dir() and not (link := borrowed / shared).exists():
            link.symlink_to(_PACKAGE.parent / shared, target_is_directory=True)
    text = _LEND.format(version=tuple(sys.version_info[:2]), paths=_own_packages())
    (borrowed / "sitecustomize.py").write_text(text, encoding="utf-8")
    return Installation(ref, str(python.absolute()), (str(borrowed),))


def _own_packages() -> list[str]:
    return [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]


def check_installation(installation: Installation) -> None:
    """Raise InstallationError unless it is a Python from 3.11 on with torch and its own diffusers."""
    command = [installation.python, "-c", _PROBE]
    try:
        done = subprocess.run(  # noqa: S603
            command, env=installation.environment(), capture_output=True, text=True, check=False, timeout=300
        )
        version, prefix, where = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise InstallationError(installation.name, "does not run as a Python; see its own output") from error
    if tuple(version) < (3, 11):
        raise InstallationError(installation.name, f"is Python {version[0]}.{version[1]}; at least 3.11 is needed")
    if not where.endswith(".py"):
        raise InstallationError(
            installation.name,
            f"cannot import diffusers and torch ({where}); name fitting versions as well, "
            "as in ref='diffusers==0.29.2 huggingface_hub==0.24.7'",
        )
    if prefix != sys.prefix and any(Path(where).is_relative_to(path) for path in _own_packages()):
        raise InstallationError(installation.name, "has no diffusers; install the intended version there")


def _install(ref: str, wanted: list[str], target: Path) -> None:
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    uv = shutil.which("uv")
    tool = [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-P", "-m", "pip", "install"]
    command = [*tool, "--quiet", "--no-deps", "--target", str(partial), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if re.search(r"from versions: (?!none)|there is no version of", done.stderr):
        raise BenchError(f"ref={ref} names a release that does not exist; see `pip index versions` for those that do")
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if line.lower().startswith("error")]
        reason = (said or done.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise InstallationError(ref, f"could not be installed: {reason}")
    partial.rename(target)
