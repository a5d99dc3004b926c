"""The paper's table and better_than_teacher on substitutes with random weights, verbatim but for size and counts.

    scripts/robustness/paper_on_substitutes.py [--images 2] [--directory DIR] [--out FILE]

Two base models each, with their own commits in a hub cache, offline. Every claim must come out with a verdict and a
reason; exit code 1 if one does not. The verdicts themselves mean nothing: the weights are random. Takes minutes.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
MODELS = {"better_than_teacher": ("sd21", "sdxl"), "paper_coco5k": ("sd15", "sdxl")}
"""Experiment → its base models here."""


def verdicts(results: Path) -> list[tuple[str, str, str]]:
    """Return claim, verdict and reason of each claim of a finished run; the reason is that of its first row."""
    with (results / "tables" / "verdicts.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["Claim"]: row for row in reversed(list(csv.DictReader(file)))}
    return [
        (claim, row["Verdict"], row["Metric"] if row["Metric"].startswith("needs ") else row["Comparison"])
        for claim, row in reversed(rows.items())
    ]


def prepare(directory: Path, images: int) -> list[str]:
    """Build the hub cache and COCO in the directory, go there, and return overrides for files that no cache holds."""
    from standin_scores import build_coco, build_scores
    from standins import build_hub
    from test_paper_experiments import BASES, LORAS

    hub = build_hub(directory / "hub", [*BASES.values(), *LORAS, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"])
    build_coco(directory, [f"a red circle and {i} cats" for i in range(images)])
    os.chdir(directory)
    return build_scores(hub)


def write(found: dict[str, list[tuple[str, str, str]]], out: Path) -> None:
    """Write one table per experiment."""
    lines = ["# The paper's experiments on substitutes", "", f"By `{Path(__file__).relative_to(ROOT)}`.", ""]
    lines += ["Random weights: a verdict here says only that the claim was judged, or why it was not.", ""]
    for name, rows in found.items():
        lines += [
            f"## {name}, on {' and '.join(MODELS[name])}",
            "",
            "| claim | verdict | reason |",
            "| --- | --- | --- |",
        ]
        lines += [f"| {claim} | {verdict} | {reason} |" for claim, verdict, reason in rows]
        lines.append("")
    out.write_text("\n".join(lines), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="an empty directory; by default a temporary one")
    parser.add_argument("--out", type=Path, default=ROOT / "results/robustness/paper_on_substitutes.md")
    parser.add_argument("--images", type=int, default=2, help="per cell; intervals need 50 or more")
    options = parser.parse_args()
    directory, out = options.directory or Path(tempfile.mkdtemp()), options.out.absolute()
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_CACHE": str(directory / "hub"),
        "HF_HUB_OFFLINE": "1",
        "TORCH_HOME": str(directory / "hub"),
    }

    from test_paper_experiments import small

    from bench.__main__ import main as run
    from bench.checkpoints.manifest import MANIFEST

    MANIFEST["inception"] = dataclasses.replace(MANIFEST["inception"], sha256=None)  # the substitute is another
    real = max(12, options.images)
    files, found = prepare(directory, real), {}
    counts = [f"prompts.count={options.images}", f"reference.count={real}"]
    for name, models in MODELS.items():
        if code := run(
            ["run", f"experiment={name}", *small(models), *counts, *(files if name.startswith("paper") else ())]
        ):
            return code
        found[name] = verdicts(Path("results") / name)
    write(found, out)
    return int(any(not verdict or not reason for rows in found.values() for _, verdict, reason in rows))


if __name__ == "__main__":
    sys.exit(main())
