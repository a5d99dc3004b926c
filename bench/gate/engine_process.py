"""A sampler in another process, of any language: JSON lines on its standard input and output.

One line asks for a run, `{"sample": {"steps": 4, "latents": [[…], …], "path": "diffusion", "alphas_cumprod": […]}}`.
The process asks as often as it needs for the denoiser, `{"denoise": {"latents": [[…], …], "timestep": 999}}`, which is
answered by `{"output": [[…], …]}`, and for each random number of a stochastic step, `{"noise": true}`, which is
answered by `{"noise": [[…], …]}`, standard normal rows. It ends the run with `{"latents": [[…], …]}`, or with
`{"error": "…"}`, waits for the next line, and ends when its input does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.conformance.noise import Draws

_Floats = NDArray[np.float64]
LONGEST_LINE = 16 * 2**20
"""Characters of a line; a longer one is refused."""
MOST_CALLS = 64
"""Calls of the denoiser, and draws of noise, for each step; a sampler that needs more is taken to be lost."""


@dataclass
class EngineRun:
    """States that a sampler asked about and its last one, the outputs it got, timesteps, and how much noise it drew."""

    states: list[_Floats] = field(default_factory=list)
    outputs: list[_Floats] = field(default_factory=list)
    timesteps: list[float] = field(default_factory=list)
    draws: int = 0


class EngineError(Exception):
    """The process broke down, was silent for too long, or said something else than the protocol has."""


class Engine:
    """A running process. Every exchange ends within `timeout_s`, after which the process is killed."""

    def __init__(self, process: subprocess.Popen[str], said: Any, timeout_s: float) -> None:
        self._process, self._said, self._timeout_s = process, said, timeout_s
        self._timed_out = False

    @classmethod
    @contextmanager
    def started(cls, command: Sequence[str], timeout_s: float) -> Iterator[Engine]:
        """Start it, and kill it and its children at the end. Raises EngineError where it cannot be started."""
        with tempfile.TemporaryFile("w+", errors="replace") as said:
            try:
                process = subprocess.Popen(  # noqa: S603
                    list(command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    text=True,
                    encoding="utf-8",
                    errors="replace",
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                raise EngineError(f"cannot be started: {error}") from error
            engine = cls(process, said, timeout_s)
            try:
                yield engine
            finally:
                engine._kill()
                for stream in (process.stdin, process.stdout):
                    with suppress(OSError, ValueError):
                        if stream is not None:
                            stream.close()
                process.wait()

    def sample(
        self,
        request: Mapping[str, Any],
        latents: _Floats,
        denoise: Callable[[_Floats, float], _Floats],
        noise: Draws,
    ) -> EngineRun:
        """Run it once, with the noise that it asks for. Raises EngineError."""
        run, most = EngineRun(), MOST_CALLS * int(request["steps"])
        answer = self._ask({"sample": {**request, "latents": latents.tolist()}})
        while "denoise" in answer or "noise" in answer:
            if max(len(run.states), run.draws) >= most:
                what = "the denoiser" if len(run.states) >= most else "noise"
                raise EngineError(f"asked for {what} {most} times in {request['steps']} steps")
            if "noise" in answer:
                run.draws += 1
                answer = self._ask({"noise": noise.draw(run.draws - 1).tolist()})
                continue
            asked = answer["denoise"]
            if not isinstance(asked, Mapping):
                raise EngineError("asked for the denoiser without an object of latents and a timestep")
            state = _array(asked.get("latents"), latents.shape, "the latents it asked about")
            timestep = asked.get("timestep")
            if isinstance(timestep, bool) or not isinstance(timestep, int | float) or not 0 <= timestep <= 1000:
                raise EngineError(f"asked for timestep {_short(timestep)}; give a number from 0 to 1000")
            run.states.append(state)
            run.timesteps.append(float(timestep))
            run.outputs.append(denoise(state, float(timestep)))
            answer = self._ask({"output": run.outputs[-1].tolist()})
        if not run.states:
            raise EngineError("made latents without the denoiser")
        run.states.append(_array(answer.get("latents"), latents.shape, "its last latents"))
        return run

    def _ask(self, line: Mapping[str, Any]) -> Mapping[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise EngineError("cannot be talked to")
        timer = threading.Timer(self._timeout_s, self._give_up)
        timer.start()
        try:
            stdin.write(json.dumps(line) + "\n")
            stdin.flush()
            text = stdout.readline(LONGEST_LINE)
        except (OSError, ValueError):
            text = ""
        finally:
            timer.cancel()
        if self._timed_out:
            raise EngineError(f"said nothing for {self._timeout_s:g} s")
        if not text:
            raise EngineError(self._why_ended())
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            raise EngineError(f"said what is not JSON: {_short(text)}") from None
        if not isinstance(answer, dict):
            raise EngineError(f"said what is not an object: {_short(answer)}")
        if "error" in answer:
            raise EngineError(f"gave up: {_short(answer['error'])}")
        if not {"denoise", "noise", "latents"} & answer.keys():
            raise EngineError(f"said neither denoise nor noise nor latents: {_short(answer)}")
        return answer

    def _why_ended(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2)
        code = self._process.poll()
        self._said.seek(0)
        last = [line.strip() for line in self._said.read(2**20).splitlines() if line.strip()][-1:]
        how = (
            "closed its output"
            if code is None
            else f"ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"
        )
        return f"{how}{f': {_short(last[0])}' if last else ''}"

    def _give_up(self) -> None:
        self._timed_out = True
        self._kill()

    def _kill(self) -> None:
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _array(values: Any, shape: tuple[int, ...], what: str) -> _Floats:
    """Numbers of a shape; NaN stands for null, which JSON has in its place."""
    try:
        found = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise EngineError(f"gave {what} as something else than rows of numbers: {_short(values)}") from None
    if found.shape != shape:
        raise EngineError(f"gave {what} with the shape {found.shape}; the shape is {shape}")
    return found


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 120 else f"{text[:119]}…"
