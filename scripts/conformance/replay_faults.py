"""Faults of schedulers from 2025 and 2026, put into the installed release or taken out of it: what conform says.

    python scripts/conformance/replay_faults.py [--only 14213 ddim] [--into results/history]

tests/mutants/replays.yaml names the faults by their numbers. Each replay compares a sound and a faulty class, as if the
fault were brought in today, by the deviations that are new; where the installed release has the fault, the other
direction is compared too, as if it were fixed today. For the shift that is applied twice, a table says which calls
change and by how much. Writes faults.json and faults.md; replays that are not asked for stay as they are. Exits with 1
when a fault passes that replays.yaml does not argue away, or when no sentence names it.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import numpy as np
import torch
import yaml
from mutation_score import mutate

from bench.conformance.baseline import changes, compare_with_baseline, read_baseline
from bench.conformance.checks_convergence import error_of
from bench.conformance.checks_steps import run_case
from bench.conformance.conform import conform, quiet
from bench.conformance.report import ConformanceReport, write_baseline
from bench.conformance.subject import Subject
from bench.conformance.targets import GAUSSIAN
from bench.gate.concerns import concern_of
from bench.records.errors import BenchError

ROOT = Path(__file__).parents[2]
REPLAYS = ROOT / "tests" / "mutants" / "replays.yaml"
MU = 0.9
WORDS = 500
"""Characters of a sentence that faults.md shows."""


def read_replays() -> list[dict[str, Any]]:
    """The entries of replays.yaml."""
    found: list[dict[str, Any]] = yaml.safe_load(REPLAYS.read_text(encoding="utf-8"))
    return found


def settings_of(case: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Class and settings of a replay."""
    if "target" in case:
        return case["target"].rpartition(".")[2], {}
    settings = yaml.safe_load((ROOT / "conf" / "scheduler" / f"{case['scheduler']}.yaml").read_text(encoding="utf-8"))
    return settings.pop("_target_").rpartition(".")[2], settings


def edited_class(case: Mapping[str, Any]) -> type[Any]:
    """The class of a replay with its edits, from its own module's source."""
    class_name, _ = settings_of(case)
    original = import_module(getattr(diffusers, class_name).__module__)
    source = Path(str(original.__file__)).read_text(encoding="utf-8")
    for edit in case["edits"]:
        source = mutate(source, {"name": str(case["number"]), **edit})
    names: dict[str, Any] = {"__name__": original.__name__, "__package__": original.__package__}
    exec(compile(source, f"<{case['number']}>", "exec"), names)  # noqa: S102 - the point of a replay
    found: type[Any] = names[class_name]
    return found


def difference(name: str, sound: ConformanceReport, candidate: ConformanceReport) -> tuple[list[str], str]:
    """The sentences of `tcd-bench conform` with the sound side as the baseline, and whom the change concerns."""
    with TemporaryDirectory(prefix="tcd-bench-") as scratch:
        path = Path(scratch) / "sound.json"
        write_baseline(sound, path, {})
        baseline = read_baseline(path)
    verdicts, moved = list(compare_with_baseline(candidate, baseline)), list(changes(candidate, baseline))
    concern = concern_of(name, candidate, baseline, verdicts, moved)
    said = [str(verdict) for verdict in verdicts if verdict.status != "known"] + [str(change) for change in moved]
    return said, concern.words if concern else ""


def replay(case: Mapping[str, Any], installed: dict[str, ConformanceReport]) -> dict[str, Any]:
    """What conform says of the fault coming and, where the release has it, going; `installed` keeps reports."""
    class_name, settings = settings_of(case)
    cls = getattr(diffusers, class_name)
    found = {"number": str(case["number"]), "title": case["title"], "class": class_name}
    if "cannot" in case:
        try:
            conform(lambda: cls(**settings))
        except BenchError as refusal:
            return {**found, "cannot": " ".join(case["cannot"].split()), "refusal": str(refusal)}
        return {**found, "cannot": ""}
    name = case.get("scheduler", class_name)
    if name not in installed:
        installed[name] = conform(lambda: cls(**settings))
    other = edited_class(case)
    changed = conform(lambda: other(**settings))
    fixes = case.get("fixes", False)
    sound, faulty = (changed, installed[name]) if fixes else (installed[name], changed)
    coming, concern = difference(name, sound, faulty)
    named = [words for words in coming if re.search(case["named"], words)]
    found |= {"scheduler": name, "fixes": fixes, "regression": case.get("regression", True)}
    found |= {"named": named, "coming": coming, "concern": concern}
    return found | ({"going": difference(name, faulty, sound)[0]} if fixes else {})


def affected() -> list[dict[str, Any]]:
    """Which calls a fixed shift changes: the largest move of a level, and the error before and after."""
    fixed = edited_class(next(case for case in read_replays() if case["number"] == 13243))
    sigmas = {"sigmas": np.linspace(1, 1 / 28, 28).tolist()}
    timesteps = {"timesteps": np.linspace(1000, 1, 28).tolist()}
    dynamic = {"use_dynamic_shifting": True, "shift": 3.0}
    calls: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("set_timesteps(28), shift=1", {}, {}),
        *((f"set_timesteps({steps}), shift=3", {"shift": 3.0}, {"steps": steps}) for steps in (1, 2, 4, 8, 28, 50)),
        ("set_timesteps(28), shift=7", {"shift": 7.0}, {}),
        ("set_timesteps(28), shift=3, Karras' sigmas", {"shift": 3.0, "use_karras_sigmas": True}, {}),
        ("set_timesteps(28), shift=3, shift_terminal=0.1", {"shift": 3.0, "shift_terminal": 0.1}, {}),
        ("set_timesteps(sigmas=…), shift=3", {"shift": 3.0}, sigmas),
        ("set_timesteps(timesteps=…), shift=3", {"shift": 3.0}, timesteps),
        ("set_timesteps(28, mu=0.9), dynamic, exponential", dynamic, {}),
        ("set_timesteps(28, mu=0.9), dynamic, linear", {**dynamic, "time_shift_type": "linear"}, {}),
        ("set_shift(3), then set_timesteps(28), made with shift=1", {}, {"set_shift": 3.0}),
        ("set_shift(1), then set_timesteps(28), made with shift=3", {"shift": 3.0}, {"set_shift": 1.0}),
    ]
    rows = []
    for label, settings, how in calls:
        made = [_schedule(cls, settings, dict(how)) for cls in (diffusers.FlowMatchEulerDiscreteScheduler, fixed)]
        (before, error_before), (after, error_after) = made
        moved = float(np.abs(before - after).max())
        rows.append({"call": label, "moved": moved, "before": error_before, "after": error_after})
    return rows


def _schedule(cls: type[Any], settings: dict[str, Any], how: dict[str, Any]) -> tuple[np.ndarray, float]:
    subject = Subject(lambda: cls(**settings))
    scheduler = subject.make()
    if "set_shift" in how:
        scheduler.set_shift(how.pop("set_shift"))
    case = subject.prepare(how.pop("steps", 28), scheduler=scheduler, **how)
    return np.array(case.path.positions), error_of(case, run_case(subject, case, None), GAUSSIAN)


def page(found: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "# Faults of schedulers from 2025 and 2026, replayed",
        "",
        "`scripts/conformance/replay_faults.py` puts each fault of tests/mutants/replays.yaml into diffusers",
        f"{diffusers.__version__}, or takes it out where the release has it, and compares both sides as if the change",
        "were made today. Numbers are those of diffusers' tracker, unless another project is named.",
        "[README.md](README.md) compares releases in the same way.",
        "",
        "| number | fault | class | found | new sentences |",
        "| --- | --- | --- | --- | ---: |",
        *(_row(case) for case in found),
        "",
    ]
    for case in found:
        lines += [f"## {case['number']}: {case['title']}", ""]
        if "cannot" in case:
            lines += [case["cannot"], "", f"conform: {case['refusal']}", ""]
            continue
        about = "the fault coming" if case["regression"] else "the change coming"
        lines += [f"{case['class']}, {about}:", ""]
        lines += [f"- {_short(words)}" for words in case["named"][:2]] or ["- not named"]
        lines += ["", f"Whom it concerns: {_short(case['concern'])}" if case["concern"] else "", ""]
        if "going" in case:
            lines += ["Fixed:", "", *(f"- {_short(words)}" for words in case["going"][:2]), ""]
    lines += [
        "## 13243: whom a fixed shift affects",
        "",
        "FlowMatchEuler. The largest move of a level, and the root mean square distance from the exact solution on",
        "Gaussians before (shifted twice) and after (once).",
        "",
        "| call | largest move of a level | error before | after |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {row['call']} | {row['moved']:.2g} | {row['before']:.3g} | {row['after']:.3g} |" for row in rows),
        "",
        "Affected are calls with a step count alone, at least two steps and a fixed shift other than 1, as pipelines",
        "of Stable Diffusion 3 make them. Pipelines that hand over sigmas, timesteps or mu (FLUX, Qwen-Image,",
        "GLM-Image) are not. A scheduler that was made with a shift and is given another by `set_shift` keeps the ends",
        "of the first.",
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def _row(case: Mapping[str, Any]) -> str:
    if "cannot" in case:
        answer, count = "no, the class is refused", "–"
    else:
        answer = "yes" if case["named"] else "**no**"
        if case.get("fixes"):
            answer += ", in the installed release"
        if not case["regression"]:
            answer = "not a fault; the change is named" if case["named"] else "**not named**"
        count = str(len(case["coming"]))
    return f"| {case['number']} | {case['title']} | {case['class']} | {answer} | {count} |"


def _short(words: str) -> str:
    return words if len(words) <= WORDS else f"{words[: WORDS - 1]}…"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="numbers, or names of schedulers")
    parser.add_argument("--into", type=Path, default=ROOT / "results" / "history")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.into.mkdir(parents=True, exist_ok=True)
    path, installed = arguments.into / "faults.json", dict[str, ConformanceReport]()
    kept = json.loads(path.read_text(encoding="utf-8"))["replays"] if path.is_file() else []
    results = {(case["number"], case["class"]): case for case in kept}
    cases = sorted(read_replays(), key=lambda case: str(case.get("scheduler", "")))
    for case in cases:
        if arguments.only and not {str(case["number"]), case.get("scheduler")} & set(arguments.only):
            continue
        found = replay(case, installed)
        results[found["number"], found["class"]] = found
        print(
            f"#{case['number']} {case['title']}: {found.get('named', [])[:1] or found.get('cannot') or 'NOT NAMED'}"[
                :300
            ]
        )
        sys.stdout.flush()
        save(path, results, [])
    with quiet():
        rows = affected()
    save(path, results, rows)
    missing = [case for case in results.values() if not (case.get("named") or case.get("cannot"))]
    return int(bool(missing))


def save(path: Path, results: Mapping[tuple[str, str], dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """Write what is known so far, in the order of replays.yaml."""
    keys = [(str(case["number"]), settings_of(case)[0]) for case in read_replays()]
    found = [results[key] for key in keys if key in results]
    text = json.dumps({"replays": found, "affected": rows}, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
    path.with_suffix(".md").write_text(page(found, rows), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
