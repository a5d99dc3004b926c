"""Real faults of diffusers' schedulers, replayed: does the gate name them, with scheduler, steps and first call?

    python scripts/conformance/replay_history.py [--only 6953 9104] [--cache DIRECTORY] [--into results/history]

Each case holds the release without a fault against the one with it, as if the fault were brought in today:
`tcd-bench gate ref=… candidate_ref=… both_sides.run=false`. Releases are installed side by side into the cache, with
the torch of this environment. Writes what the gate said of each fault, as JSON and as README.md. Exits with 1 when a
fault passes, or is not named. Python 3.11 or 3.12: the old releases need numpy 1.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Case:
    """A change of diffusers: releases on both sides of it, whom it concerns, and by what the fault is to be named."""

    change: str
    title: str
    sound: str
    faulty: str
    schedulers: tuple[str, ...]
    named: str  # a pattern in one of the gate's failing outcomes: quantity and note


CASES = (
    Case(
        "6953",
        "singlestep, even number of steps: the last call is of order 2 where it must be of order 1",
        *("0.26.3", "0.26.2", ("dpmpp_2s", "dpmpp_2s_diffusers")),
        r"[Cc]all \d+",
    ),
    Case(
        "6953 and 6477",
        "the same from 0.25.1, where the DPM solvers did not end at sigma 0 yet and Karras' sigmas ended elsewhere",
        *("0.26.3", "0.25.1", ("dpmpp_2s_diffusers", "dpmpp_2m")),
        r"[Cc]all \d+",
    ),
    Case(
        "9104",
        "singlestep of order 3 with 3n - 1 steps ends in NaN",
        *("0.32.2", "0.31.0", ("dpmpp_2s_diffusers",)),
        r"solver_order=3.*NaN or infinity after call \d+",
    ),
    Case(
        "9384",
        "DDPM takes the previous timestep to be t - 1000 // N, whatever the spacing",
        *("0.32.2", "0.31.0", ("ddpm",)),
        r"timestep_spacing=(linspace|trailing).*Call \d+",
    ),
    Case(
        "9954",
        "exponential and beta sigmas in the wrong order, or of another length",
        *("0.32.2", "0.31.0", ("euler", "dpmpp_2m", "unipc")),
        r"use_(exponential|beta)_sigmas",
    ),
    Case(
        "10740",
        "DPM multistep with Karras' sigmas on the cosine schedule: rounded timesteps stand for other noise levels",
        *("0.33.1", "0.32.2", ("dpmpp_2m",)),
        r"squaredcos_cap_v2",
    ),
    Case(
        "7386",
        "add_noise half way through a run (inpainting) takes the first noise level",
        *("0.27.2", "0.27.0", ("euler", "dpmpp_2m")),
        r"add_noise.*half way",
    ),
    Case(
        "5836",
        "LCM's timesteps leave out the end of the schedule where N does not divide 50",
        *("0.24.0", "0.23.1", ("lcm",)),
        r"timesteps.*of \d+|in call \d+",
    ),
    Case(
        "14461",
        "FlowMatchEuler drops the caller's timesteps (since #14011): GLM-Image comes out magenta and grainy",
        *("0.39.0", "0.40.0", ("flow_euler",)),
        r"told timesteps.*another timestep than the caller",
    ),
    Case(
        "13678",
        "FlowMatchEuler's stochastic sampling ignores the generator (reported in #13677)",
        *("0.39.0", "0.38.0", ("flow_euler",)),
        r"noise source.*stochastic_sampling",
    ),
    Case("5681", "LCM adds noise in its last step", *("0.23.1", "0.22.3", ("lcm",)), r"last noise|Call \d+"),
)


def run_gate(case: Case, cache: Path, output: Path) -> tuple[int, dict[str, Any]]:
    """The gate's exit code and its JSON."""
    command = [
        *(sys.executable, "-m", "bench", "gate", f"ref=diffusers=={case.sound}"),
        *(f"candidate_ref=diffusers=={case.faulty}", "both_sides.run=false"),
        *(f"conformance.only=[{','.join(case.schedulers)}]", f"output='{output}'", f"installations='{cache}'"),
    ]
    code = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode
    report: dict[str, Any] = json.loads((output / "gate.json").read_text(encoding="utf-8"))
    return code, report


def what_names_it(case: Case, report: dict[str, Any]) -> list[dict[str, Any]]:
    """The failing outcomes that say what the fault is."""
    failing = [outcome for outcome in report["outcomes"] if outcome["verdict"] in ("regressed", "changed", "failed")]
    return [found for found in failing if re.search(case.named, f"{found['quantity']}: {found['note']}")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="numbers of changes")
    parser.add_argument("--cache", type=Path, default=ROOT / "results" / "installations")
    parser.add_argument("--into", type=Path, default=ROOT / "results" / "history")
    arguments = parser.parse_args()
    missed = 0
    for case in CASES:
        if arguments.only and case.change not in arguments.only:
            continue
        begun, output = time.perf_counter(), arguments.cache / "gates" / case.change.replace(" ", "_")
        code, report = run_gate(case, arguments.cache.absolute(), output.absolute())
        named = what_names_it(case, report)
        missed += not (code == 1 and named)
        words = [f"{found['subject']}, {found['quantity']}: {found['note']}" for found in named]
        arguments.into.mkdir(parents=True, exist_ok=True)
        note = {"exit_code": code, "counts": report["counts"], "named": words}
        text = json.dumps(note, indent=1, ensure_ascii=False) + "\n"
        (arguments.into / f"{output.name}.json").write_text(text, encoding="utf-8")
        answer = "named" if code == 1 and named else f"NOT NAMED (exit code {code})"
        print(f"#{case.change} ({case.sound} → {case.faulty}): {answer}, {time.perf_counter() - begun:.0f} s")
        for line in words[:3]:
            print(f"    {line[:300]}")
    write_page(arguments.into)
    return 1 if missed else 0


def write_page(directory: Path) -> None:
    """README.md from the cases' files."""
    lines = [
        "# Faults of diffusers' history, replayed",
        "",
        "`scripts/conformance/replay_history.py` compares the release without each fault with the one that has it,",
        "schedulers only, as if the fault were introduced today.",
        "Numbers are those of diffusers' pull requests that fixed the fault.",
        "",
    ]
    for case in CASES:
        path = directory / f"{case.change.replace(' ', '_')}.json"
        if not path.is_file():
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        counts = ", ".join(f"{count} {verdict}" for verdict, count in found["counts"].items())
        lines += [
            f"## {case.change}: {case.title}",
            "",
            f"diffusers {case.sound} → {case.faulty}, {', '.join(case.schedulers)}: exit code {found['exit_code']};",
            f"{counts}.",
            f"{len(found['named'])} outcomes name it, the first of them:",
            "",
            *(f"- {line.replace('|', '/')}" for line in found["named"][:4]),
            "",
        ]
    (directory / "README.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
