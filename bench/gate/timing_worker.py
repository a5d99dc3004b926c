"""A process that times calls of a pipeline on request: one installation of an interleaved comparison.

    python -m bench.gate.timing_worker

One JSON object per line. In: `{"cell": …, "prompts": […], "warmup": 1, "threads": 1}` prepares a cell, `{"calls": 3}`
times calls. Out: `{"ready": …, "first_s": …}` with the versions and the first call, which may compile;
`{"seconds": […], "joules": …}`, those of all calls together or null; or `{"error": …}`. What libraries print goes to
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
    time_calls: Callable[[int], Mapping[str, Any]] | None = None
    for line in lines:
        try:
            request = json.loads(line)
            if "cell" in request:
                time_calls, ready = _make_ready(**request)
                yield ready
            elif time_calls is None:
                yield {"error": "no cell was given yet"}
            else:
                yield time_calls(request["calls"])
        except Exception as error:
            yield {"error": f"{type(error).__name__}: {error}"}


def _make_ready(
    cell: Mapping[str, Any], prompts: list[str], warmup: int, threads: int | None
) -> tuple[Callable[[int], Mapping[str, Any]], Mapping[str, Any]]:
    import torch

    from bench.generate.pipelines import load_pipeline
    from bench.generate.sampling import Sampler
    from bench.measure.energy import energy_counter
    from bench.measure.environment import library_versions
    from bench.measure.stopwatch import Stopwatch

    if threads:
        torch.set_num_threads(threads)
    wanted = Cell.from_dict(cell)
    sampler = Sampler(load_pipeline(wanted), wanted, prompts)
    rows = range(len(prompts))
    stopwatch = Stopwatch.of(torch.device(wanted.device))
    joules = energy_counter(wanted.device)

    def timed_call() -> float:
        stopwatch.synchronise()
        begun = stopwatch.now_s()
        sampler.call(rows)
        stopwatch.synchronise()
        return stopwatch.now_s() - begun

    warm = [timed_call() for _ in range(warmup)]

    def time_calls(calls: int) -> Mapping[str, Any]:
        timed_call()  # does not count: the other process's calls left caches cold and its threads awake
        before_j = joules() if joules else None
        seconds = [timed_call() for _ in range(calls)]
        used = joules() - before_j if joules and before_j is not None else None
        return {"seconds": seconds, "joules": used}

    return time_calls, {"ready": library_versions(), "first_s": warm[0] if warm else None}


def main() -> None:
    """Serve standard input."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for answer in serve(sys.stdin):
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
