"""A report of 400 cells × 5 scores with pictures: how long it takes to make, its memory and size, how it opens and
scrolls.

    .venv/bin/python scripts/benchmarks/large_report.py [--cells 400] [--keep DIRECTORY] [--out results/performance]

The run is made of random features and drawn pictures; its report is made by a new process, whose memory is the
proportional share of it and of its children. The page is opened and scrolled to its end by the wheel in Chromium; the
stalls are tasks of the page's main thread in the browser's own trace. Times are those of a clock, and beside them those
of the processor, which a busy machine does not lengthen. Writes large_report.json; exits with 1 where a limit of
processor time, memory or size is exceeded.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from many_records import write  # noqa: E402
from ratios import save_benchmark  # noqa: E402

from bench.pictures import hash_image, to_png  # noqa: E402
from bench.records.run import Claim, Side  # noqa: E402
from bench.store.store import Store  # noqa: E402

SCORES = ("fid@mini", "kid@mini", "clip_score@mini", "precision@mini", "density@mini")
SIDE, KEPT, DRAWN = 512, 2, 60
LIMITS = {
    "made_cpu_s": 60.0,
    "peak_bytes": 1.5e9,
    "page_bytes": 25e6,
    "opened_cpu_s": 3.0,
    "longest_task_cpu_ms": 50.0,
}
CATEGORIES = ["toplevel", "blink.user_timing", "devtools.timeline", "disabled-by-default-devtools.timeline"]


def make_run(folder: Path, cells: int) -> None:
    """Write a run of so many cells with KEPT pictures each, scores and ten claims."""
    write(folder, cells)
    store = Store(folder)
    drawn = [draw(i) for i in range(DRAWN)]
    pictures, hashed = [*map(to_png, drawn)], [*map(hash_image, drawn)]
    for i, record in enumerate(list(store.records())):
        chosen = [(i * KEPT + row) % DRAWN for row in range(KEPT)]
        for row, at in enumerate(chosen):
            store.cell(record.key).save_image(row, pictures[at])
        hashes = tuple(hashed[at] for at in chosen)
        store.cell(record.key).replace(replace(record, images=replace(record.images, hashes=hashes)))
    claims = tuple(
        Claim(f"c{i}", f"method {i} at 4 steps beats method {(i + 1) % 10}", Side(f"m{i}", (4,), 0.0),
              Side(f"m{(i + 1) % 10}", (4,), 0.0), ("clip_score@mini",), "better")
        for i in range(10)
    )  # fmt: skip
    store.save_run(replace(store.run(), metrics=SCORES, claims=claims))


def draw(i: int) -> np.ndarray[Any, Any]:
    """A smooth ground with shapes, which compresses about as a photograph does."""
    rng = np.random.default_rng(i)
    ground = Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(ground)
    for _ in range(12):
        x, y, width = rng.integers(0, SIDE, 3)
        pen.ellipse((x, y, x + width // 3, y + width // 3), fill=tuple(rng.integers(0, 255, 3).tolist()))
    noise = rng.normal(0, 6, (SIDE, SIDE, 3))
    return np.clip(np.asarray(ground) + noise, 0, 255).astype(np.uint8)


def make_report(folder: Path) -> dict[str, float]:
    """Make the report in a new process; returns its times, and the memory of it and its children."""
    command = [sys.executable, "-m", "bench", "report", f"results='{folder}'"]
    begun, peak, seen = time.perf_counter(), 0, dict[int, float]()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        parent = psutil.Process(running.pid)
        while running.poll() is None:
            total = 0
            for process in (parent, *children(parent)):
                try:
                    total += process.memory_full_info().pss
                    seen[process.pid] = sum(process.cpu_times()[:2])
                except psutil.Error:
                    continue
            peak = max(peak, total)
            time.sleep(0.5)
    if running.returncode:
        raise SystemExit(f"the report failed with exit code {running.returncode}")
    spent = time.perf_counter() - begun
    page = (folder / "report.html").stat().st_size
    return {"made_s": spent, "made_cpu_s": sum(seen.values()), "peak_bytes": peak, "page_bytes": page}


def children(parent: psutil.Process) -> list[psutil.Process]:
    try:
        return parent.children(recursive=True)
    except psutil.Error:
        return []


def open_page(path: Path, trace: Path) -> dict[str, Any]:
    """Open the page, scroll it to its end, and return times and the longest tasks of its main thread."""
    from playwright.sync_api import sync_playwright

    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(600_000)  # of a busy machine
        browser.start_tracing(page=page, path=trace, categories=CATEGORIES)
        begun = time.perf_counter()
        page.goto(path.as_uri(), wait_until="load")
        page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        opened = time.perf_counter() - begun
        page.evaluate("performance.mark('scrolling')")
        page.mouse.move(700, 450)
        for _ in range(1000):
            page.mouse.wheel(0, 450)
            page.wait_for_timeout(30)
            if page.evaluate("scrollY + innerHeight >= document.documentElement.scrollHeight - 2"):
                break
        height = page.evaluate("document.documentElement.scrollHeight")
        browser.stop_tracing()
        browser.close()
    return {"opened_s": opened, "height_px": height, **read_trace(trace)}


def read_trace(trace: Path) -> dict[str, Any]:
    """Return what the trace says of the page's main thread before and after scrolling began."""
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    mark = next(event for event in events if event["name"] == "scrolling")
    thread = mark["pid"], mark["tid"]
    own = [event for event in events if (event.get("pid"), event.get("tid")) == thread and event.get("ph") == "X"]
    tasks = [event for event in own if event["name"] == "RunTask"]
    opening = [task for task in tasks if task["ts"] < mark["ts"]]
    scrolling = sorted((task for task in tasks if task["ts"] >= mark["ts"]), key=lambda task: -task.get("tdur", 0))
    longest = [
        {"cpu_ms": task.get("tdur", 0) / 1000, "ms": task["dur"] / 1000, "of": parts_of(task, own)}
        for task in scrolling[:8]
    ]
    return {
        "opened_cpu_s": sum(task.get("tdur", 0) for task in opening) / 1e6,
        "longest_task_cpu_ms": longest[0]["cpu_ms"],
        "longest_task_ms": max(task["dur"] for task in scrolling) / 1000,
        "tasks_over_50_cpu_ms": sum(task.get("tdur", 0) > 50_000 for task in scrolling),
        "longest": longest,
    }


def parts_of(task: dict[str, Any], own: list[dict[str, Any]]) -> dict[str, float]:
    """Return the milliseconds of the processor in the largest parts of a task."""
    found: dict[str, float] = {}
    for event in own:
        if event is not task and task["ts"] <= event["ts"] < task["ts"] + task["dur"]:
            found[event["name"]] = found.get(event["name"], 0.0) + event.get("tdur", 0) / 1000
    return dict(sorted(found.items(), key=lambda item: -item[1])[:6])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=400)
    parser.add_argument("--keep", type=Path, help="make the run here, and use it again where it is there already")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "performance")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch) / "run"
        if not (folder / "run.json").exists():
            make_run(folder, options.cells)
        (folder / "report.json").unlink(missing_ok=True)
        made = make_report(folder)
        print(json.dumps(made), flush=True)
        found: dict[str, Any] = {**made, **open_page(folder / "report.html", Path(scratch) / "trace.json")}
    for name, limit in LIMITS.items():
        print(f"{name:<22} {found[name]:>16,.1f}  limit {limit:,.0f}{'' if found[name] <= limit else '  EXCEEDED'}")
    for task in found["longest"]:
        print(f"    {task['cpu_ms']:.0f} ms ({task['ms']:.0f} by the clock): {task['of']}")
    load = psutil.getloadavg()[0]
    settings = {"cells": options.cells, "scores": list(SCORES), "picture_px": SIDE, "load": load}
    save_benchmark(options.out / "large_report.json", {}, {"settings": settings, "found": found, "limits": LIMITS})
    return 0 if all(found[name] <= limit for name, limit in LIMITS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
