"""Seconds of processors that cells of the miniature's default run take, here and in the plain script, in turn.

    .venv/bin/python scripts/benchmarks/cell_seconds.py [--images 64] [--out results/performance]

The harness and plain_script.py beside this file run the same cells on as many images, neither measures latency, both
compute the scores of their images. Each prints a line when a cell ends; the seconds of processors of the process are
read then, which a busy machine changes less than seconds. What passes before the first cell (imports, reference images)
counts by itself; of ours it is what the first cell takes more than the second, which has as many steps. So does what
the plain script takes to load its pipeline, for each cell; ours loads one for several cells, and that is part of the
first one's seconds. The cells are those that claims compare which 512 images decide. Writes cell_seconds.json, which
price.py reads.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from ratios import save_benchmark

ROOT = Path(__file__).parents[2]
TICKS = os.sysconf("SC_CLK_TCK")
Seconds = dict[str, float]
ARGUMENTS = [
    *("claim=[]", "device=cpu", "keep=grid", "concurrent_batches=1", "measure.latency=false", "measure.memory=false"),
    *(f"methods.{name}.steps=[2,4]" for name in ("dpmpp_2s", "dpmpp_2s_diffusers", "dpmpp_2m", "ddim")),
    "methods.lcm.steps=[4,16]",
]
CELLS = [
    *(f"tcd-{steps}-{eta}" for steps in (2, 4, 8, 16) for eta in ("0", "0.3", "1")),
    *(f"{name}-{steps}" for name in ("dpmpp_2s", "dpmpp_2s_diffusers", "dpmpp_2m") for steps in (2, 4)),
    *("ddim-2-0", "ddim-4-0", "lcm-4", "lcm-16", "teacher-50"),
]
ENDED = re.compile(r"\[\d+/\d+\] \S+ (\S+) (\d+) steps(?: eta ([\d.]+))?")
"""A line of the harness: `[3/33] mini tcd 4 steps eta 0.3: 3.1 s`."""


def used(pid: int) -> float:
    """Seconds of processors of a process so far, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def of_cells(command: list[str], ours: bool) -> Seconds:
    """Run a side and return the seconds of its cells, and of its `start`; raises SystemExit where it fails."""
    found, before = Seconds(), 0.0
    with (
        tempfile.TemporaryFile("w+") as rest,
        subprocess.Popen(
            command,
            cwd=ROOT,
            text=True,
            stdout=rest if ours else subprocess.PIPE,
            stderr=subprocess.PIPE if ours else rest,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        ) as process,
    ):
        for line in (process.stderr if ours else process.stdout) or ():
            if ours and (match := ENDED.match(line)):
                method, steps, eta = match.groups()
                name = f"{method}-{steps}{'' if eta is None else f'-{float(eta):g}'}"
            elif not ours and re.match(r"\w+-\d+\S* [\d.]+ ", line):
                name = line.split()[0]
            elif not ours and line.startswith(("start", "loaded ")):
                name = line.strip()
            else:
                continue
            now = used(process.pid)
            found[name], before = now - before, now
            print(f"{'ours' if ours else 'plain'} {name}: {found[name]:.2f} s", flush=True)
        if process.wait():
            rest.seek(0)
            raise SystemExit(f"{' '.join(command)}\n{rest.read()[-2000:]}")
    if ours:
        first, second = list(found)[:2]
        found["start"], found[first] = found[first] - found[second], found[second]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "performance")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tcd-bench-cells-") as scratch:
        bench = [sys.executable, "-m", "bench", "run", *ARGUMENTS, f"prompts.count={options.images}"]
        bench.append(f"results='{scratch}/ours'")
        plain = [sys.executable, str(ROOT / "scripts" / "benchmarks" / "plain_script.py"), f"{scratch}/plain"]
        sides = {
            "ours": of_cells(bench, ours=True),
            "plain": of_cells([*plain, f"--images={options.images}", "--cells", *CELLS], ours=False),
        }
    shared = CELLS
    ratio = sum(sides["ours"][name] for name in shared) / sum(sides["plain"][name] for name in shared)
    found = {"images": options.images, "processor_seconds": sides}
    save_benchmark(options.out / "cell_seconds.json", {"cells, ours / plain": [ratio]}, found)
    print(f"{len(shared)} cells, ours / plain: {ratio:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
