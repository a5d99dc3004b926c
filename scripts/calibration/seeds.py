"""Whether an experiment's verdicts stand when it is run again with other noise.

    .venv/bin/python scripts/calibration/seeds.py [--seeds 0,1,2] [--out results/seeds] [overrides …]

Runs the experiment once a seed (of latents and noise; prompts and reference stay) and sets the verdicts side by side,
claim by claim and comparison by comparison, in seeds.md. A seed that was run already is not run again. Exits with 1
where one seed supports what another refutes; undecided contradicts nothing.
"""

import argparse
import csv
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

COMPARISON = ("Claim", "Metric", "Subject", "Object")
Rows = Mapping[tuple[str, ...], Mapping[str, str]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=lambda text: text.split(","), default=["0", "1", "2"])
    parser.add_argument("--out", type=Path, default=Path("results/seeds"))
    arguments, overrides = parser.parse_known_args()
    found: dict[str, Rows] = {}
    for seed in arguments.seeds:
        directory = (arguments.out / f"seed-{seed}").absolute()
        command = [sys.executable, "-m", "bench", "run", *overrides, f"seed={seed}", f"results='{directory}'"]
        subprocess.run(command, check=True)
        found[seed] = read_verdicts(directory / "tables" / "verdicts.csv")
    lines = list(to_markdown(found))
    (arguments.out / "seeds.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(*lines, sep="\n")
    return 1 if any("contradiction" in line for line in lines) else 0


def read_verdicts(path: Path) -> Rows:
    """A run's comparisons: which → its row of the table of verdicts."""
    with path.open(encoding="utf-8", newline="") as file:
        return {tuple(row[name] for name in COMPARISON): row for row in csv.DictReader(file)}


def to_markdown(found: Mapping[str, Rows]) -> Iterator[str]:
    """Claims, then comparisons, a column a seed."""
    first = next(iter(found.values()))
    seeds = [f"seed {seed}" for seed in found]
    yield "# The same experiment with other noise\n"
    yield from head("claim", *seeds)
    for claim in dict.fromkeys(key[0] for key in first):
        verdicts = [next(row["Verdict"] for key, row in rows.items() if key[0] == claim) for rows in found.values()]
        yield line(claim, verdicts, verdicts)
    yield ""
    yield from head("comparison: gain and its 95% interval", *seeds)
    for key in first:
        rows = [rows[key] for rows in found.values()]
        verdicts = [row["Comparison"].partition(";")[0] for row in rows]
        cells = [f"{row['Gain [95% interval]']} {verdict}" for row, verdict in zip(rows, verdicts, strict=True)]
        yield line(f"{key[2]} against {key[3]}, {key[1]}", cells, verdicts)


def head(*names: str) -> Iterator[str]:
    """The first two lines of a table."""
    yield f"| {' | '.join(names)} | |"
    yield f"|{' --- |' * (len(names) + 1)}"


def line(name: str, cells: Sequence[str], verdicts: Sequence[str]) -> str:
    """One line of a table, marked where verdicts contradict one another."""
    mark = "contradiction" if {"supported", "refuted"} <= set(verdicts) else ""
    return f"| {name} | {' | '.join(cells)} | {mark} |"


if __name__ == "__main__":
    sys.exit(main())
