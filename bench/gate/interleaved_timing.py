"""Interleaved latency of the same cells in two installations, a few calls each: what slows the machine slows both."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from bench.records.cell import Cell, plain
from bench.records.record import InterleavedLatency
from bench.workers.installation import Installation, InstallationError

CALLS = 3
"""Calls that an installation makes before the other takes over."""


def time_interleaved(
    before: Installation,
    after: Installation,
    cells: Sequence[Cell],
    prompts: Sequence[str],
    sessions: int,
    rounds: int,
    warmup: int = 3,
    threads: int | None = None,
) -> list[InterleavedLatency]:
    """Time `rounds` of calls of every cell in both installations in each session; `before` is first in even ones.

    Every session has its own processes: two processes of one installation can differ by a per cent, by where their
    memory lies and which was started first. Raises InstallationError where an installation cannot run a cell.
    """
    asked = {"prompts": list(prompts), "warmup": warmup, "threads": threads}
    samples: list[tuple[list[tuple[float, ...]], list[tuple[float, ...]]]] = [([], []) for _ in cells]
    for session in range(sessions):
        order = (0, 1) if session % 2 == 0 else (1, 0)
        with ExitStack() as stack:
            workers = {which: stack.enter_context(_Worker.started((before, after)[which])) for which in order}
            for cell, found in zip(cells, samples, strict=True):
                for which in order:
                    workers[which].ask({"cell": plain(cell), **asked})
                for which, seconds in enumerate(_alternate(workers, order, rounds)):
                    found[which].append(seconds)
    return [
        InterleavedLatency(cell.label, len(prompts), tuple(found[0]), tuple(found[1]))
        for cell, found in zip(cells, samples, strict=True)
    ]


def _alternate(workers: Mapping[int, _Worker], order: tuple[int, int], rounds: int) -> tuple[tuple[float, ...], ...]:
    """Seconds of every call in either installation, in the order A B B A."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for which in order if number % 2 == 0 else reversed(order):
            seconds[which].extend(workers[which].ask({"calls": CALLS})["seconds"])
    return tuple(map(tuple, seconds))


class _Worker:
    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name, self.process = name, process

    @classmethod
    @contextmanager
    def started(cls, installation: Installation) -> Iterator[_Worker]:
        process = subprocess.Popen(  # noqa: S603
            installation.command("bench.gate.timing_worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=installation.environment(),
        )
        try:
            yield cls(installation.name, process)
        finally:
            process.kill()
            process.communicate()

    def ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            raise InstallationError(self.name, "cannot be talked to")
        try:
            print(json.dumps(request), file=stdin, flush=True)
            answer: Mapping[str, Any] = json.loads(stdout.readline() or '{"error": "it ended"}')
        except BrokenPipeError:
            answer = {"error": "it ended"}
        if "error" in answer:
            raise InstallationError(self.name, f"cannot be timed: {answer['error']}")
        return answer
