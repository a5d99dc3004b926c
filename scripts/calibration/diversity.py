"""Whether a sampler that has too little diversity is found, and one that has as much is not: runs of the miniature.

    .venv/bin/python scripts/calibration/diversity.py [--seeds 10] [--steps 2,4] [--out …/diversity.md]

For each seed of latents, 8 images of each of 64 prompts by TCD, without noise between steps: as it is, with initial
noise of half the size, and with the noise's sign changed, which has the same distribution and gives other images. Both
are schedulers of a user, in a module of the current directory. The claims: that the images of a prompt are more
diverse without the change, by `pairwise_distance` and by `vendi_score`; and that they are not less diverse with the
other sign, within a margin. More steps undo more of the change, since the model moves images towards where it expects
them.

How many claims share a run's error, and that the exit code goes by the Vendi score at the first number of steps, was
chosen after first runs with two seeds: with a fourth claim half the noise was found in one of two at 2 steps.

Exits with 1 where half the noise is not always found less diverse by the Vendi score, the sharper one, at the
first number of steps, or where the other sign is found less diverse, or more, in more than one of twenty seeds and in
more than one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

PROJECT = Path(__file__).parents[2]
PROMPTS, IMAGES, SAMPLERS = 64, 8, {"half": 0.5, "mirrored": -1.0}
OWN = """
import diffusers


class {name}(diffusers.TCDScheduler):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.init_noise_sigma = {scale}
"""
METHOD = """
label: {name}
scheduler: {{_target_: own_{name}.{name}, original_inference_steps: 50}}
adapter: tcd
steps: [{steps}]
eta: [0.0]
guidance_scale: [0.0]
"""
VERDICTS = ("supported", "undecided", "refuted")
SCORES = "[pairwise_distance,vendi_score]"
CLAIMS = {
    "half the noise is less diverse": ("tcd", "half", ""),
    "the other sign is less diverse": ("tcd", "mirrored", ""),
    "the other sign is not less diverse": (
        *("mirrored", "tcd"),
        ", expect: not_worse, margins: {pairwise_distance: 0.05, vendi_score: 0.25}",
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=PROJECT / "results" / "calibration" / "diversity.md")
    parser.add_argument("--steps", type=lambda text: [int(count) for count in text.split(",")], default=[2, 4])
    options = parser.parse_args()
    lines, wrong = [*head(options.seeds)], False
    for steps in options.steps:
        with tempfile.TemporaryDirectory() as directory:
            found = pd.concat([judge(Path(directory), steps, seed) for seed in range(options.seeds)])
        lines += to_markdown(found, steps)
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
        half, same = (
            found[(found["Claim"] == claim) & (found["Metric"] == "vendi_score@mini")] for claim in [*CLAIMS][:2]
        )
        wrong |= steps == options.steps[0] and not half["Comparison"].str.startswith("supported").all()
        wrong |= int((~same["Comparison"].str.startswith("undecided")).sum()) > max(1, options.seeds // 20)
    print(*lines, sep="\n")
    return int(wrong)


def judge(directory: Path, steps: int, seed: int) -> pd.DataFrame:
    """Return the comparisons of the run of one seed."""
    (directory / "conf" / "method").mkdir(parents=True, exist_ok=True)
    for name, scale in SAMPLERS.items():
        (directory / f"own_{name}.py").write_text(OWN.format(name=name, scale=scale), encoding="utf-8")
        (directory / "conf" / "method" / f"{name}.yaml").write_text(
            METHOD.format(name=name, steps=steps), encoding="utf-8"
        )
    claims = [
        f"+claims.c{i}={{text: {text}, subject: {{method: {ours}, steps: {steps}}}, "
        f"object: {{method: {theirs}, steps: {steps}}}, metrics: {SCORES}{rest}}}"
        for i, (text, (ours, theirs, rest)) in enumerate(CLAIMS.items())
    ]
    command = [
        *(sys.executable, "-m", "bench", "run", "experiment=smoke", f"method=[tcd,{','.join(SAMPLERS)}]", "claim=[]"),
        *(f"prompts.count={PROMPTS}", f"prompts.images_per_prompt={IMAGES}", "batch_size=64", f"scores={SCORES}"),
        *(f"methods.tcd.steps=[{steps}]", "methods.tcd.eta=[0]", "measure.latency=false", "keep=grid", f"seed={seed}"),
        *(f"results={directory}/{seed}", *claims),
    ]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    subprocess.run(command, check=True, cwd=directory, env=environment, stdout=subprocess.DEVNULL)
    return pd.read_csv(directory / str(seed) / "tables" / "verdicts.csv").assign(seed=seed)


def head(seeds: int) -> Iterator[str]:
    yield "# Diversity that is known\n"
    yield (
        f"`scripts/calibration/diversity.py`: {IMAGES} images of each of {PROMPTS} prompts by TCD on the miniature, in "
        f"{seeds} runs with different seeds. The {len(CLAIMS)} claims of a run share its 5%."
    )


def to_markdown(found: pd.DataFrame, steps: int) -> Iterator[str]:
    yield f"\n## {steps} steps\n"
    yield "| claim | score | supported | undecided | refuted |\n| --- | --- | ---: | ---: | ---: |"
    for (claim, score), own in found.groupby(["Claim", "Metric"], sort=False):
        counts = [int(own["Comparison"].str.startswith(verdict).sum()) for verdict in VERDICTS]
        yield f"| {claim} | {score} | {' | '.join(map(str, counts))} |"
    yield "\nSeed 0, comparison by comparison:\n"
    columns = ["Claim", "Metric", "its value", "its value ", "Gain [95% interval]", "adjusted interval", "Comparison"]
    yield "| " + " | ".join(column.strip() for column in columns) + " |\n|" + " --- |" * len(columns)
    for row in found[found["seed"] == 0][columns].itertuples(index=False):
        yield "| " + " | ".join(map(str, row)) + " |"


if __name__ == "__main__":
    sys.exit(main())
