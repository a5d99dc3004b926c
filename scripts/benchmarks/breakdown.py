"""Where the time of a whole run goes: the share inside UNet, VAE and extractor, and what the rest is.

    python scripts/benchmarks/breakdown.py [--out results/performance/breakdown] [--results DIR] [overrides …]
    python scripts/benchmarks/breakdown.py device=cuda $(python scripts/benchmarks/stand_in.py /tmp/stand-in)

Runs the default experiment in this process, with a clock around each part; time counts for the innermost part, and a
thread's second for its share of the machine. Imports count from the start of the process. Writes
OUT.json and OUT.png; exits with 1 where less than --least of the time (90%, on a GPU 95%) is inside the models.

On a GPU nothing is waited for: events on the device say when it is inside a model, a moment in several counting once,
and the host's parts are those of the main thread. While concurrent_batches are at work the rest of the time is that of
loading, for which all of them wait, and what else the device does or waits for without a model.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from ratios import save_benchmark

ROOT = Path(__file__).parents[2]
MODELS = ("UNet", "VAE", "extractor")
PARTS = {
    "UNet": ["diffusers.UNet2DConditionModel.forward"],
    "VAE": ["diffusers.AutoencoderKL.decode"],
    "extractor": ["open_clip.CLIP.encode_image"],
    "text encoders": ["transformers.CLIPTextModel.forward", "bench.features.extractor.Extractor.text_features"],
    "pipeline, scheduler": ["diffusers.StableDiffusionPipeline.__call__"],
    "pixels": ["bench.features.pixels.complexity"],
    "loading models": ["bench.generate.loaded_pipeline.Loaded", "bench.features.openclip.load_open_clip"],
    "store, PNG": ["bench.store.cell_folder.CellFolder.save_batch", "bench.store.store.Store.commit"],
    "latency and memory, beside the models": ["bench.execute.cell_runner.measured"],
    "real images": ["bench.execute.job.make_references"],
    "report": ["bench.report.build.make_report"],
}
WAITING = "bench.parallel.ThreadedCalls.call", "bench.parallel.ThreadedCalls.rest"
LEAST = {"cpu": 0.90, "cuda": 0.95}


class Clocks:
    """Seconds by part, in the main thread and in concurrent_batches."""

    def __init__(self, new_event: Callable[[], Any] | None) -> None:
        self.main: Counter[str] = Counter()
        self.concurrent_batches: Counter[str] = Counter()
        self.on_device: list[tuple[str, Any, Any]] = []
        self.new_event = new_event
        self._stacks = threading.local()
        self._lock = threading.Lock()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Whatever runs inside counts for the part, except what is inside another one."""
        events = (self.new_event(), self.new_event()) if self.new_event and name in MODELS else None
        self._switch(name)
        if events:
            events[0].record()
        try:
            yield
        finally:
            if events:
                events[1].record()
                self.on_device.append((name, *events))
            self._switch(None)

    def _switch(self, name: str | None) -> None:
        now = time.perf_counter()
        stack = self._stacks.__dict__.setdefault("stack", [])
        seconds = self.main if threading.current_thread() is threading.main_thread() else self.concurrent_batches
        if stack:
            with self._lock:
                seconds[stack[-1]] += now - self._stacks.since
        if name is None:
            stack.pop()
        else:
            stack.append(name)
        self._stacks.since = now

    def wrap(self, name: str | Callable[..., str], path: str) -> None:
        """Put the clock around a function, wherever it is looked up by this path; `name` may ask its arguments."""
        owner, attribute = find(path)
        inner = getattr(owner, attribute)

        @functools.wraps(inner)
        def timed(*arguments: Any, **more: Any) -> Any:
            with self.part(name if isinstance(name, str) else name(*arguments, **more)):
                return inner(*arguments, **more)

        setattr(owner, attribute, timed)

    def wrap_waiting(self, path: str, part: str) -> None:
        """The main thread waits in this generator; what the threads of its calls do counts for `part`, as theirs."""
        owner, attribute = find(path)
        inner = getattr(owner, attribute)

        def timed(calls: Any, *call: Any) -> Iterator[Any]:
            def in_thread(item: Any) -> Any:
                with self.part(part):
                    return call[0](item)

            results = inner(calls, *((in_thread, *call[1:]) if call else ()))
            while True:
                with self.part("waiting"):
                    try:
                        result = next(results)
                    except StopIteration:
                        return
                yield result

        setattr(owner, attribute, timed)


def find(path: str) -> tuple[Any, str]:
    """The module or class that a dotted path ends in, and the name there."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            owner: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:-1]:
            owner = getattr(owner, name)
        return owner, parts[-1]
    raise SystemExit(f"{path} is not there")


def main() -> int:
    begun = psutil.Process().create_time()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "performance" / "breakdown")
    parser.add_argument("--results", type=Path, help="where the run is to be kept")
    parser.add_argument("--least", type=float, help="the share below which the exit code is 1")
    options, overrides = parser.parse_known_args()
    from bench.__main__ import main as tcd_bench
    from bench.execute.job import resolve_concurrent_batches
    from bench.experiment.compose import compose_settings

    settings = compose_settings(overrides)
    import torch

    on_gpu = torch.cuda.is_available() and settings["device"] != "cpu"
    clocks = Clocks((lambda: torch.cuda.Event(enable_timing=True)) if on_gpu else None)
    for name, paths in PARTS.items():
        for path in paths:
            clocks.wrap(name, path)
    for path in WAITING:
        clocks.wrap_waiting(path, "sampling, the rest")
    if on_gpu:
        (base := torch.cuda.Event(enable_timing=True)).record()
    imported = time.time() - begun
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with clocks.part("everything else"):
            code = tcd_bench(["run", *overrides, f"results='{options.results or Path(folder, 'run')}'"])
        wall = time.perf_counter() - start + imported
    seconds = Counter({"imports": imported}) + clocks.main
    waited = seconds.pop("waiting", 0.0)
    if on_gpu:
        torch.cuda.synchronize()
        on_device = busy_seconds(base, clocks.on_device)
        for name in MODELS:
            waited += seconds.pop(name, 0.0)  # what of it the main thread asked for
        seconds += on_device
        loading = clocks.concurrent_batches["loading models"]
        seconds["loading models"] += loading
        seconds["sampling, the device without a model"] = waited - on_device.total() - loading
    else:
        threads = resolve_concurrent_batches(settings["concurrent_batches"], "cpu")
        of_threads = Counter({name: spent / threads for name, spent in clocks.concurrent_batches.items()})
        seconds += of_threads
        seconds["concurrent_batches without work"] = waited - of_threads.total()
    share = sum(seconds[name] for name in MODELS) / wall
    for name, spent in seconds.most_common():
        print(f"{name:<40} {spent:8.2f} s {spent / wall:6.1%}")
    device = "cuda" if on_gpu else "cpu"
    least = LEAST[device] if options.least is None else options.least
    print(f"inside the models: {share:.1%} of {wall:.1f} s (at least {least:.0%}); "
          f"unaccounted {wall - seconds.total():.2f} s")  # fmt: skip
    found = {"wall_s": wall, "share_of_models": share, "seconds": dict(seconds.most_common())}
    if on_gpu:
        found["busy_share"] = busy_share(base, clocks.on_device)
        print(f"device busy with models between the first and the last batch: {found['busy_share']:.1%}")
    save_benchmark(options.out.with_suffix(".json"), {"whole / inside the models": [1 / share]}, found, device)
    draw(seconds, wall, options.out.with_suffix(".png"))
    return code or int(share < least)


def busy_seconds(base: Any, events: list[tuple[str, Any, Any]]) -> Counter[str]:
    """Seconds of the device by model; where two are at work, the one that began first has the moment."""
    seconds: Counter[str] = Counter()
    until = float("-inf")
    for begun, ended, name in sorted((base.elapsed_time(a) / 1e3, base.elapsed_time(b) / 1e3, n) for n, a, b in events):
        seconds[name] += max(0.0, ended - max(begun, until))
        until = max(until, ended)
    return seconds


def busy_share(base: Any, events: list[tuple[str, Any, Any]]) -> float:
    """The share of the time from the first model's beginning to the last one's end in which a model is at work."""
    times = [base.elapsed_time(event) / 1e3 for _, *both in events for event in both]
    return busy_seconds(base, events).total() / (max(times) - min(times))


def draw(seconds: Counter[str], wall: float, path: Path) -> None:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    left = 0.0
    for i, (name, spent) in enumerate(seconds.most_common()):
        label = f"{name}: {spent:.1f} s, {spent / wall:.1%}"
        axes.barh([0], [spent], left=[left], color=colormaps["tab20"](i % 20), label=label)
        left += spent
    axes.set_yticks([])
    axes.set_xlabel("seconds of the whole run")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=3, fontsize=7, frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
