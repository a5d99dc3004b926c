"""A process that times calls of a pipeline on request: one installation of an interleaved comparison.

    python -m bench.gate.timing_worker

One JSON object per line. In: `{"cell": …, "prompts": […], "warmup": 1, "threads": 1}` prepares a cell, `{"calls": 3}`
times calls. Out: `{"ready": …}` with the versions, `{"seconds": […]}`, or `{"error": …}`. What libraries print goes to
stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from bench.records.cell import Cell


def serve(lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    """An answer for each line; an error is an answer too."""
    time_calls: Callable[[int], list[float]] | None = None
    for line in lines:
        try:
            request = json.loads(line)
            if "cell" in request:
                time_calls, versions = _make_ready(**request)
                yield {"ready": versions}
            elif time_calls is None:
                yield {"error": "no cell was given yet"}
            else:
                yield {"seconds": time_calls(request["calls"])}
        except Exception as error:
            yield {"error": f"{type(error).__name__}: {error}"}


def _make_ready(
    cell: Mapping[str, Any], prompts: list[str], warmup: int, threads: int | None
) -> tuple[Callable[[int], list[float]], Mapping[str, str]]:
    import torch

    from bench.generate.pipelines import load_pipeline
    from bench.generate.sampling import Sampler
    from bench.measure.environment import library_versions
    from bench.measure.stopwatch import Stopwatch

    if threads:
        torch.set_num_threads(threads)
    wanted = Cell.from_dict(cell)
    sampler = Sampler(load_pipeline(wanted), wanted, prompts)
    rows = range(len(prompts))
    stopwatch = Stopwatch.of(torch.device(wanted.device))
    for _ in range(warmup):
        sampler.call(rows)

    def time_calls(calls: int) -> list[float]:
        seconds = []
        sampler.call(rows)  # does not count: the other process's calls left caches cold and its threads awake
        for _ in range(calls):
            stopwatch.synchronise()
            begun = stopwatch.now_s()
            sampler.call(rows)
            stopwatch.synchronise()
            seconds.append(stopwatch.now_s() - begun)
        return seconds

    return time_calls, library_versions()


def main() -> None:
    """Serve standard input."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for answer in serve(sys.stdin):
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
