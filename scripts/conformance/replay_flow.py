"""Faults of flow matching schedulers, put into the installed release or taken out of it: what conform says of each.

    python scripts/conformance/replay_flow.py [--into results/history]

Each replay compares a sound and a faulty class, as if the fault were brought in today, by the deviations that are new;
where the installed release has the fault, the other direction is compared too, as if it were fixed today. For the
shift that is applied twice, a table says which calls change and by how much. Writes flow.json and flow.md. Exits with
1 when a fault passes, or when a sentence does not name it.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import numpy as np
import torch
import yaml
from mutation_score import mutated_class

from bench.conformance.baseline import changes, compare_with_baseline, read_baseline, write_baseline
from bench.conformance.checks_convergence import error_of
from bench.conformance.checks_steps import run_case
from bench.conformance.conform import conform, quiet
from bench.conformance.report import ConformanceReport
from bench.conformance.subject import Subject
from bench.conformance.targets import GAUSSIAN

ROOT = Path(__file__).parents[2]
MU = 0.9


@dataclass(frozen=True)
class Replay:
    """A fault by its number upstream: where it goes, the change of the source, and what has to name it.

    `fixes` means that the installed release has the fault and the change takes it out.
    """

    change: str
    title: str
    scheduler: str
    find: str
    replace: str
    named: str
    fixes: bool = False


_STORED = "        self.sigma_min = self.sigmas[-1].item()\n        self.sigma_max = self.sigmas[0].item()\n"
_ENDS = "        self.sigma_min, self.sigma_max = 1 / num_train_timesteps, 1.0\n"
_FLOW_END = (  # up to the branch of the noise table, which holds the same lines
    '            if self.config.final_sigmas_type == "sigma_min":\n                sigma_last = sigmas[-1]\n'
    '            elif self.config.final_sigmas_type == "zero":\n                sigma_last = 0\n'
    "            else:\n                raise ValueError(\n"
    "                    f\"`final_sigmas_type` must be one of 'zero', or 'sigma_min', but got "
    '{self.config.final_sigmas_type}"\n                )\n'
    "            sigmas = np.concatenate([sigmas, [sigma_last]]).astype(np.float32)\n        else:\n"
)

REPLAYS = (
    Replay(
        "14461",
        "the caller's timesteps are dropped (since #14011)",
        "flow_euler",
        "        if is_timesteps_provided:\n            timesteps = torch.from_numpy",
        "        if False:\n            timesteps = torch.from_numpy",
        r"told timesteps .*another timestep than the caller",
    ),
    Replay(
        "13677",
        "stochastic sampling ignores the generator",
        "flow_euler",
        "noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)",
        "noise = torch.randn_like(sample)",
        r"noise source \(stochastic_sampling=True.*a seed does not reproduce",
    ),
    *(
        Replay(
            "13243",
            f"{name}: the shift is applied twice",
            name,
            _STORED,
            _ENDS,
            r"shift twice .*step count alone",
            True,
        )
        for name in ("flow_euler", "flow_heun", "flow_lcm")
    ),
    Replay(
        "sglang 22906",
        "UniPC on a flow takes sigma_min from a noise table that the class does not have",
        "flow_unipc",
        _FLOW_END,
        _FLOW_END.replace("sigma_last = sigmas[-1]", "sigma_last = self.no_table[0] ** 0.5"),
        r"new: levels \(final_sigmas_type=sigma_min\).*AttributeError.*no_table",
    ),
    Replay(
        "sglang 22906, with a table",
        "UniPC on a flow takes sigma_min from the noise table",
        "flow_unipc",
        _FLOW_END,
        _FLOW_END.replace(
            "sigma_last = sigmas[-1]", "sigma_last = ((1 - self.alphas_cumprod[0]) / self.alphas_cumprod[0]) ** 0.5"
        ),
        r"changed: the trajectory of .*final_sigmas_type=sigma_min",
    ),
)


def difference(sound: ConformanceReport, candidate: ConformanceReport) -> list[str]:
    """The sentences of `tcd-bench conform` on the candidate with the sound side as its baseline."""
    with TemporaryDirectory(prefix="tcd-bench-") as scratch:
        path = Path(scratch) / "sound.json"
        write_baseline(sound, path, {})
        baseline = read_baseline(path)
    verdicts = [str(verdict) for verdict in compare_with_baseline(candidate, baseline) if verdict.status != "known"]
    return verdicts + [str(change) for change in changes(candidate, baseline)]


def replay(case: Replay) -> dict[str, Any]:
    """What conform says of the fault coming and, where the release has it, going."""
    settings = yaml.safe_load((ROOT / "conf" / "scheduler" / f"{case.scheduler}.yaml").read_text(encoding="utf-8"))
    class_name = settings.pop("_target_").rpartition(".")[2]
    other = mutated_class(class_name, {"name": case.title, "find": case.find, "replace": case.replace})
    installed, changed = (conform(lambda cls=cls: cls(**settings)) for cls in (getattr(diffusers, class_name), other))
    sound, faulty = (changed, installed) if case.fixes else (installed, changed)
    coming = difference(sound, faulty)
    named = [words for words in coming if re.search(case.named, words)]
    found = {"change": case.change, "title": case.title, "class": class_name, "named": named, "coming": coming}
    return found | ({"going": difference(faulty, sound)} if case.fixes else {})


def affected() -> list[dict[str, Any]]:
    """Which calls a fixed shift changes: the largest move of a level, and the error before and after."""
    fixed = mutated_class("FlowMatchEulerDiscreteScheduler", {"name": "fixed", "find": _STORED, "replace": _ENDS})
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
        "# Faults of flow matching schedulers, replayed",
        "",
        f"`scripts/conformance/replay_flow.py` puts each fault into diffusers {diffusers.__version__}, or takes it out",
        "where the release has it, and compares both sides as if the change were made today. Numbers are those of",
        "diffusers' tracker, unless another project is named. `README.md` holds the same comparison of releases.",
        "",
    ]
    for case in found:
        lines += [f"## {case['change']}: {case['title']}", "", f"{case['class']}, the fault coming:", ""]
        lines += [f"- {words}" for words in case["named"][:3]] or ["- not named"]
        lines += ["", f"{len(case['coming'])} sentences in all.", ""]
        if "going" in case:
            lines += ["The fault going:", "", *(f"- {words}" for words in case["going"][:3]), ""]
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
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=ROOT / "results" / "history")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tell: Callable[[str], None] = lambda text: print(text, flush=True)  # noqa: E731
    found = []
    for case in REPLAYS:
        found.append(replay(case))
        tell(f"#{case.change} {case.title}: {found[-1]['named'][:1] or 'NOT NAMED'}"[:300])
    with quiet():
        rows = affected()
    arguments.into.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"replays": found, "affected": rows}, indent=1, ensure_ascii=False) + "\n"
    (arguments.into / "flow.json").write_text(text, encoding="utf-8")
    (arguments.into / "flow.md").write_text(page(found, rows), encoding="utf-8")
    return int(any(not case["named"] for case in found))


if __name__ == "__main__":
    sys.exit(main())
