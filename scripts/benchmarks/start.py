"""How long until something is seen: the verbs' first output, and the first image of a run, in turn with bare imports.

    .venv/bin/python scripts/benchmarks/start.py [--rounds 7] [--out results/performance]

Each round starts every verb once, in a new process. `run` is timed until its first batch is in the store, against a
process that only imports what loading a pipeline, its adapters and an OpenCLIP evaluator needs. Bytecode is expected to
be compiled, as the installation leaves it. Writes start.json; exits with 1 where a verb takes over 1.5 s, or `run` over
1.2 times the imports.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from ratios import save_benchmark, seconds_of

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference" / "mini"
VERBS = {
    "--help": ["--help"],
    "run --help": ["run", "--help"],
    "plan": ["plan", "experiment=smoke"],
    "report": ["report", "results={copy}"],
    "status": ["status", f"results={REFERENCE}"],
    "gate": ["gate", f"baseline={REFERENCE}", f"candidate={REFERENCE}", "output={scratch}/gate"],
}
IMPORTS = """
import open_clip, peft, torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, TCDScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
"""
FIRST_S, FACTOR = 1.5, 1.2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "performance")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in (*VERBS, "imports", "run")}
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "copy"
        subprocess.run(["cp", "-r", str(REFERENCE), str(copy)], check=True)  # noqa: S607
        for turn in range(options.rounds + 1):  # the first one warms the disk cache up and does not count
            found = {
                name: until_output([part.format(copy=copy, scratch=scratch) for part in verb])
                for name, verb in VERBS.items()
            }
            found["imports"] = seconds_of(lambda: subprocess.run([sys.executable, "-c", IMPORTS], check=True))
            found["run"] = until_batch(Path(scratch) / f"run{turn}")
            if turn:
                for name, taken in found.items():
                    seconds[name].append(taken)
    middle = {name: median(taken) for name, taken in seconds.items()}
    for name, taken in seconds.items():
        print(f"{name:<12} {middle[name]:6.2f} s  ({min(taken):.2f} to {max(taken):.2f})")
    print(f"run over imports: {middle['run'] / middle['imports']:.2f} (allowed: {FACTOR})")
    ratios = {
        f"{name} / imports": [a / b for a, b in zip(seconds[name], seconds["imports"], strict=True)]
        for name in (*VERBS, "run")
    }
    save_benchmark(options.out / "start.json", ratios, {"seconds": seconds})
    late = [name for name in VERBS if middle[name] > FIRST_S]
    return 1 if late or middle["run"] > FACTOR * middle["imports"] else 0


def until_output(arguments: list[str]) -> float:
    """Seconds until a verb prints its first line; it then runs to its end."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "bench", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if process.stdout is not None:
        process.stdout.read(1)
    taken = time.perf_counter() - begun
    process.communicate()
    return taken


def until_batch(results: Path) -> float:
    """Seconds until a run has its first image, of two steps, in the store."""
    begun = time.perf_counter()
    asked = ["experiment=smoke", "prompts.count=1", "batch_size=1", f"results='{results}'"]
    command = [sys.executable, "-m", "bench", "run", *asked]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not any(results.glob("cells/*/batches-*/*.npz")) and process.poll() is None:
            time.sleep(0.002)
        return time.perf_counter() - begun
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
