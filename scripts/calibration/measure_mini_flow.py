"""How good the flow miniature is, from a finished run of `experiment=mini_flow`, and whether its targets are met.

    .venv/bin/python scripts/calibration/measure_mini_flow.py [--results results/reference/mini_flow]

Prints, and writes into bench/mini/weights/quality.json as `flow`: each cell's attribute accuracy as a share of the real
images', the targets of MODEL_CARD.md with what came out, and the sizes on disk.
"""

import argparse
import json
from pathlib import Path

from measure_mini import WEIGHTS, shares

SOLVERS = ("flow_euler", "flow_heun", "flow_dpmpp_2m", "flow_unipc")
TEACHER, ADAPTER = 0.95, 0.90
BELOW = {2: 0.10, 4: 0.02}
"""How far below the adapter each solver stays at least, by steps."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/reference/mini_flow"))
    results = parser.parse_args().results
    path = WEIGHTS / "quality.json"
    quality = json.loads(path.read_text())
    share = shares(results, quality["real"]["attribute_accuracy"])
    quality["flow"] = {"share_of_real_accuracy": share, "targets": targets(share)}
    quality["mebibytes"] |= {folder.name: mebibytes(folder) for folder in sorted(WEIGHTS.glob("flow-*"))}
    print(json.dumps(quality["flow"], indent=1))
    path.write_text(json.dumps(quality, indent=1) + "\n")


def targets(share: dict[str, float]) -> dict[str, dict[str, object]]:
    """Each target with the number that it asks for, the one that came out, and `met` or `refuted`."""
    wanted = {
        "teacher at 50 guided steps": (TEACHER, share["flow_teacher 50 steps"]),
        "adapter at 4 steps": (ADAPTER, adapter(share, 4)),
    }
    for steps, distance in BELOW.items():
        best = max(share[f"{solver} {steps} steps"] for solver in SOLVERS)
        wanted[f"adapter above the best solver at {steps} steps"] = (distance, round(adapter(share, steps) - best, 4))
    return {
        name: {"at_least": least, "is": found, "outcome": "met" if found >= least else "refuted"}
        for name, (least, found) in wanted.items()
    }


def adapter(share: dict[str, float], steps: int) -> float:
    return share[f"flow_tcd {steps} steps eta 0.3"]


def mebibytes(folder: Path) -> float:
    return round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20, 2)


if __name__ == "__main__":
    main()
