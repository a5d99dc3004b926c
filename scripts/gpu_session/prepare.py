"""What a session needs and a GPU does not: the wheels of missing packages, and settings that compose."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WHEELS = (
    *("diffusers", "hydra-core", "omegaconf", "antlr4-python3-runtime", "open-clip-torch", "ftfy", "wcwidth"),
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection", "covertable"),
)
"""What an environment for PyTorch usually lacks, or has in another version."""
LIMIT_MIB = 64


def pins() -> dict[str, str]:
    """Return the pinned version of each package."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE))


def prepare(folder: Path, python: str) -> int:
    """Put wheels into `folder`/wheels and plan every step's cells; returns 0, or 1 where the wheels are too large."""
    wheels, versions = folder / "wheels", pins()
    wheels.mkdir(parents=True, exist_ok=True)
    platforms = [
        f"--platform={name}" for name in ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
    ]
    options = ["--no-deps", "--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *platforms]
    for name in WHEELS:
        wanted = f"{name}=={versions[name]}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", *options, "-d", str(wheels), wanted]
        if subprocess.run(command, check=False).returncode:  # a source distribution of Python alone
            command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(wheels), wanted]
            subprocess.run(command, check=True)
    size = sum(path.stat().st_size for path in wheels.iterdir()) / 2**20
    print(f"{len([*wheels.glob('*.whl')])} wheels in {wheels}: {size:.1f} MiB (at most {LIMIT_MIB})")
    from gpu_session.steps import plan_all

    for line in plan_all():
        print(line)
    return int(size > LIMIT_MIB)
