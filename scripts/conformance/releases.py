"""Releases of diffusers that the core was tried with: results/conformance/releases.md.

    .venv/bin/python scripts/conformance/releases.py [--venv DIRECTORY] [--python PYTHON] 0.30.3 0.33.1 0.42.1

In a fresh virtual environment (or `--venv`, which is then kept) the install step of .github/actions/conform installs
tcd-bench[conform] and each release in turn: no Hydra, OpenCLIP, matplotlib or torchmetrics. A scratch repository gets
a copy of that release's Heun scheduler for flow matching, and a baseline; then the action's test step has to pass on an
equal rewriting and to fail on a fault. Last, every class of the release is examined (minutes; not with --no-classes).
Rows of other releases stay. Exits with 1 when any fails. Torch is downloaded once, about 3 GB.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
ACTION = ROOT / ".github" / "actions" / "conform" / "action.yml"
ABSENT = ("hydra-core", "open-clip-torch", "matplotlib", "torchmetrics", "pandas", "pydantic")
SOURCE = "import inspect, diffusers.schedulers.scheduling_flow_match_heun_discrete as m; print(inspect.getsource(m))"
LINES = "prev_sample = sample + derivative * dt", "prev_sample = dt * derivative + sample"
FAULT = "derivative = 0.5 * (self.prev_derivative + derivative)", "pass"


def bash(command: str, cwd: Path, venv: Path, **given: str) -> subprocess.CompletedProcess[str]:
    """A step of the action, in an environment."""
    environment = {**os.environ, **given, "PATH": f"{venv / 'bin'}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    call = ["bash", "-e", "-o", "pipefail", "-c", command]
    return subprocess.run(call, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def adopt(repository: Path, venv: Path, step: str) -> str:
    """What the action says of an equal rewriting and of a fault: the empty text where both are as they should be."""
    source = bash(f"python -c '{SOURCE}'", repository, venv).stdout
    source = re.sub(r"from \.\.(\w)", r"from diffusers.\1", source)
    source = re.sub(r"from \.(\w)", r"from diffusers.schedulers.\1", source)
    fork = repository / "my_fork.py"
    fork.write_text(source, encoding="utf-8")
    target = "scheduler._target_=my_fork.FlowMatchHeunDiscreteScheduler"
    written = bash(f"tcd-bench conform {target} write=tests/conformance/fork.json", repository, venv)
    if written.returncode:
        return f"no baseline: {written.stderr.strip()[-300:]}"
    given = {"BASELINES": "tests/conformance", "ARGUMENTS": "", "GITHUB_STEP_SUMMARY": str(repository / "summary.md")}
    for change, wanted in ((LINES, 0), (FAULT, 1)):
        fork.write_text(source.replace(*change), encoding="utf-8")
        done = bash(step, repository, venv, **given)
        if done.returncode != wanted or change[0] not in source:
            return f"exit code {done.returncode} instead of {wanted}: {(done.stdout + done.stderr).strip()[-300:]}"
    return ""


def kept_rows(table: Path) -> dict[str, str]:
    """Rows of an earlier table by release."""
    lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
    return {line.split("|")[1].strip(): line for line in lines if re.match(r"\| \d", line)}


def numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="+", help="releases of diffusers, or requirements such as git+https://…")
    parser.add_argument("--venv", type=Path, help="an environment to use and keep")
    parser.add_argument("--no-classes", action="store_true", help="leave out the examination of every class")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--into", type=Path, default=ROOT / "results" / "conformance" / "releases.md")
    arguments = parser.parse_args()
    install, test = (step["run"] for step in yaml.safe_load(ACTION.read_text(encoding="utf-8"))["runs"]["steps"])
    rows, failed = kept_rows(arguments.into), 0
    with tempfile.TemporaryDirectory() as folder:
        venv = arguments.venv or Path(folder) / "venv"
        if not venv.is_dir():
            subprocess.run([arguments.python, "-m", "venv", str(venv)], check=True)
        for release in arguments.releases:
            repository = Path(tempfile.mkdtemp(prefix="repository-", dir=folder))
            wanted = f"diffusers=={release}" if re.match(r"[\d.]+$", release) else release
            done = bash(install, repository, venv, INSTALL=wanted, ACTION=str(ACTION.parent))
            if done.returncode:
                print(done.stderr[-2000:])
                return 1
            listed = bash("python -m pip list --format=freeze", repository, venv).stdout
            versions = dict(line.split("==", 1) for line in listed.splitlines() if "==" in line)
            extra = [name for name in ABSENT if name in versions]
            problem = adopt(repository, venv, test)
            script = f"python {ROOT / 'scripts' / 'conformance' / 'table.py'} --classes --into {repository}"
            said = (
                "not run" if arguments.no_classes else bash(script, repository, venv).stdout.strip().rpartition(": ")[2]
            )
            shown = [versions.get(name, "–") for name in ("diffusers", "torch", "numpy", "scipy")]
            outcome = problem or (f"installed: {', '.join(extra)}" if extra else "green and red")
            failed += bool(problem or extra or not said.endswith((" 0 broken", "not run")))
            rows[shown[0]] = f"| {' | '.join([*shown, outcome, said or 'failed'])} |"
            print(rows[shown[0]], flush=True)
    lines = [
        "# Releases of diffusers that conform was tried with",
        "",
        "Made by `scripts/conformance/releases.py`: the core alone, installed by the action's own step. A rewriting of",
        "a copied scheduler has to be green and a fault red; every class ends in a report or in one sentence.",
        "",
        "| diffusers | torch | numpy | scipy | a foreign repository | every class |",
        "| --- | --- | --- | --- | --- | --- |",
        *(rows[version] for version in sorted(rows, key=numbers)),
    ]
    arguments.into.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
