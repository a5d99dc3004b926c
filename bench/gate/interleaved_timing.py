"""Interleaved latency of the same cells in two installations, a few calls each: what slows the machine slows both."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
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
    found = [(_Samples(), _Samples()) for _ in cells]
    for session in range(sessions):
        print(f"session {session + 1} of {sessions} ...", file=sys.stderr, flush=True)
        order = (0, 1) if session % 2 == 0 else (1, 0)
        with ExitStack() as stack:
            workers = {which: stack.enter_context(_Worker.started((before, after)[which])) for which in order}
            for cell, sides in zip(cells, found, strict=True):
                for which in order:
                    sides[which].begin(workers[which].ask({"cell": plain(cell), **asked}))
                for number in range(rounds):  # A B B A
                    for which in order if number % 2 == 0 else reversed(order):
                        sides[which].add(workers[which].ask({"calls": CALLS}))
    return [
        InterleavedLatency(
            *(cell.label, len(prompts), before_.seconds_by_session, after_.seconds_by_session),
            *(tuple(before_.first_s), tuple(after_.first_s), before_.joules_by_session, after_.joules_by_session),
        )
        for cell, (before_, after_) in zip(cells, found, strict=True)
    ]


@dataclass
class _Samples:
    """What one side said of a cell, session by session."""

    seconds: list[list[float]] = field(default_factory=list)
    joules: list[list[float]] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)

    def begin(self, ready: Mapping[str, Any]) -> None:
        self.seconds.append([])
        self.joules.append([])
        if ready.get("first_s") is not None:
            self.first_s.append(ready["first_s"])

    def add(self, answer: Mapping[str, Any]) -> None:
        self.seconds[-1].extend(answer["seconds"])
        if answer.get("joules") is not None:
            self.joules[-1].append(answer["joules"] / len(answer["seconds"]))

    @property
    def seconds_by_session(self) -> tuple[tuple[float, ...], ...]:
        return tuple(map(tuple, self.seconds))

    @property
    def joules_by_session(self) -> tuple[tuple[float, ...], ...]:
        return tuple(map(tuple, self.joules)) if all(self.joules) else ()


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
