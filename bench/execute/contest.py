"""Latency of the same cells in two installations, call by call in turn: what slows the machine slows both."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from bench.cell import Cell
from bench.execute.installation import Installation, InstallationError
from bench.records import Turns


def take_turns(
    before: Installation,
    after: Installation,
    cells: Sequence[Cell],
    prompts: Sequence[str],
    rounds: int,
    warmup: int = 3,
    threads: int | None = None,
) -> Iterator[Turns]:
    """Time one call of every cell `rounds` times on either side; who goes first alternates.

    Raises InstallationError where a side cannot run a cell.
    """
    with ExitStack() as stack:
        sides = [stack.enter_context(_Worker.started(installation)) for installation in (before, after)]
        for cell in cells:
            request = {"cell": asdict(cell), "prompts": list(prompts), "warmup": warmup, "threads": threads}
            for side in sides:
                side.ask(request)
            seconds: tuple[list[float], list[float]] = ([], [])
            for turn in range(rounds):
                for which in (0, 1) if turn % 2 == 0 else (1, 0):
                    seconds[which].append(sides[which].ask({})["seconds"])
            yield Turns(cell.label, len(prompts), tuple(seconds[0]), tuple(seconds[1]))


class _Worker:
    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name, self.process = name, process

    @classmethod
    @contextmanager
    def started(cls, installation: Installation) -> Iterator[_Worker]:
        process = subprocess.Popen(  # noqa: S603
            installation.command("bench.execute.worker"),
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
