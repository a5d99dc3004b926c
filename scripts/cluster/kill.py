"""Kill -9 a small run at random moments, let it finish, and compare it with an undisturbed run.

    .venv/bin/python scripts/cluster/kill.py [--kills 10] [--seed 0] [overrides …]

Exit code 0 when the records (all but times and memory) and every image are equal.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.pictures import read_images
from bench.records.record import Record
from bench.store.store import Store

SMALL = ["experiment=smoke", "prompts.count=64", "batch_size=8", "measure.latency=false", "measure.memory=false"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments, overrides = parser.parse_known_args()
    dice = random.Random(arguments.seed)
    root = Path(tempfile.mkdtemp(prefix="tcd-bench-kill-"))
    command = [sys.executable, "-m", "bench", "run", *SMALL, *overrides]

    begin = time.monotonic()
    subprocess.run([*command, f"results={root}/undisturbed"], check=True, stderr=subprocess.DEVNULL)
    duration = time.monotonic() - begin
    early = start_up_s(command, root)
    print(f"undisturbed: {duration:.1f} s, of which {early:.1f} s before the first batch")
    for kill in range(arguments.kills):
        process = start([*command, f"results={root}/killed"])
        moment = early + dice.uniform(-0.1 * early, 1.4 * (duration - early) / arguments.kills)  # each finds work left
        try:
            process.wait(moment)
            print(f"kill {kill + 1}: the run was finished before {moment:.1f} s")
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            batches = len(list((root / "killed").rglob("batches-*/*.npz")))
            done = len(list((root / "killed").rglob("record.json")))
            kept = f"{done} cells done, {batches} batches of an unfinished one kept"
            print(f"kill {kill + 1} after {moment:.1f} s: {kept}")
    subprocess.run([*command, f"results={root}/killed"], check=True, stderr=subprocess.DEVNULL)
    return compare(Store(root / "undisturbed", writable=False), Store(root / "killed", writable=False))


def start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def start_up_s(command: list[str], root: Path) -> float:
    """Seconds until the first batch of a fresh run is on disk."""
    begin = time.monotonic()
    process = start([*command, f"results={root}/probe"])
    while process.poll() is None and not list((root / "probe").rglob("batches-*/*.npz")):
        time.sleep(0.02)
    elapsed = time.monotonic() - begin
    process.kill()
    process.wait()
    return elapsed


def compare(ours: Store, theirs: Store) -> int:
    left, right = {r.key: r for r in ours.records()}, {r.key: r for r in theirs.records()}
    differing = [key for key in left.keys() | right.keys() if _differs(left.get(key), right.get(key), ours, theirs)]
    images = sum(record.images.count for record in left.values() if record.images)
    print(f"{len(left)} records, {images} images compared bit for bit: {len(differing)} cells differ {differing}")
    return 1 if differing else 0


def _differs(left: Record | None, right: Record | None, ours: Store, theirs: Store) -> bool:
    if left is None or right is None or left.reproducible() != right.reproducible():
        return True
    rows = range(left.images.count if left.images else 0)
    pair = read_images(ours.cell(left.key), rows), read_images(theirs.cell(left.key), rows)
    return pair[0] is None or pair[1] is None or not np.array_equal(*pair)


if __name__ == "__main__":
    sys.exit(main())
