"""How well the gate tells a slower UNet from the same one: repeated comparisons with and without an injected slow-down.

    .venv/bin/python scripts/benchmark_gate.py [--slow-down 0.05] [--repeats 20]

Both sides run the miniature's cells of experiment=gate in turn, as `tcd-bench gate ref=…` does, at its default rounds
and limits. In one half of the comparisons the second side's UNet takes longer by the given share of its own time, in
the other half both sides are the same. Prints how often each half was called a regression.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from bench.execute.assemble import prepare
from bench.execute.contest import take_turns
from bench.execute.installation import Installation, this_installation
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.experiment.gate import check_gate
from bench.judge.gate.cost import compare_turns

SLOWER = """
import time
from diffusers import UNet2DConditionModel

forward = UNet2DConditionModel.forward


def slow(self, *arguments, **more):
    begun = time.perf_counter()
    output = forward(self, *arguments, **more)
    until = time.perf_counter() + {share} * (time.perf_counter() - begun)
    while time.perf_counter() < until:
        pass
    return output


UNet2DConditionModel.forward = slow
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slow-down", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=20)
    arguments, overrides = parser.parse_known_args()
    gate = check_gate(compose_settings(["conformance.directory=x"], "gate"))
    job = prepare(check_experiment(compose_settings([*gate.side_by_side.overrides, *overrides])))
    prompts = job.prompts.texts[: job.experiment.measure.batch_size]
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "sitecustomize.py").write_text(SLOWER.format(share=arguments.slow_down))
        slower = Installation("slower", sys.executable, (directory,))
        found = {"same": 0, "slower": 0}
        for repeat in range(arguments.repeats):
            for name, side in (("same", this_installation()), ("slower", slower)):
                turns = list(take_turns(this_installation(), side, job.plan.cells, prompts, gate.side_by_side.rounds))
                outcomes = compare_turns(turns, gate.cost.latency_in_turn)
                regressed = any(outcome.verdict == "regressed" for outcome in outcomes)
                found[name] += regressed
                ratios = " ".join(f"{(o.after or 0) / (o.before or 1):.3f}" for o in outcomes)
                print(
                    f"{repeat:3d} {name:>6}: {'regressed' if regressed else 'passed':>9}, ratios {ratios}", flush=True
                )
    counts = f"found in {found['slower']}, false alarms {found['same']} of {arguments.repeats}"
    print(f"slow-down of {arguments.slow_down:.0%}: {counts}")


if __name__ == "__main__":
    main()
