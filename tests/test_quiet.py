"""Libraries' warnings are shown once, except those that were requested or that tcd-bench reports itself."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from test_sampling import PROMPTS, make_cell, pipeline

from bench.generate.loaded_pipeline import CurrentPipeline, cut_prompts
from bench.generate.quiet import NOISE, quiet_libraries
from bench.generate.task_inputs import Inputs

assert pipeline  # a fixture
LONG = "a red circle and " * 60


@pytest.fixture
def shown() -> Any:
    """What the handlers of both libraries print."""
    heard: list[str] = []
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    kept = {logger.name: (logger.handlers[:], logger.level) for logger in loggers}
    for name in kept:
        logging.getLogger(name).setLevel(logging.WARNING)
        handler = logging.Handler()
        handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger(name).handlers[:] = [handler]
    yield heard
    for name, (handlers, level) in kept.items():
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).setLevel(level)


def test_only_listed_warnings_are_hidden_and_the_rest_is_shown_once(shown: list[str]) -> None:
    quiet_libraries()
    for library in ("diffusers.x", "transformers.y"):
        for begin in NOISE:
            logging.getLogger(library).warning("%s …", begin)
        for _ in range(2):
            logging.getLogger(library).warning("missing keys")
    assert shown == ["missing keys"] * 2
    quiet_libraries(afresh=True)
    logging.getLogger("diffusers.x").warning("missing keys")
    assert shown == ["missing keys"] * 3


def test_the_libraries_still_use_these_warnings(
    models: Path, pipeline: Any, shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from diffusers import TCDScheduler

    pipeline.tokenizer([LONG])
    pipeline.encode_prompt([LONG], "cpu", 1, False)
    TCDScheduler().set_timesteps(timesteps=[900, 403, 400])
    pipeline.unet.half()
    try:
        pipeline.to("cpu")
    finally:
        pipeline.unet.float()
    assert sum(any(text.startswith(begin) for text in shown) for begin in NOISE) == len(NOISE) - 1, shown
    quiet_libraries()
    shown.clear()
    cell = make_cell(models)
    current = CurrentPipeline((LONG, *PROMPTS), Inputs(cell.task, "world", 8, 64, 64))
    for _ in range(2):
        current.sampler(cell).sample(0)
    assert shown == []
    said = capsys.readouterr().err
    limit = pipeline.tokenizer.model_max_length
    assert said.count(f"mini: 1 of 8 prompts are longer than the {limit} tokens that the text encoder reads") == 1


def test_prompts_that_are_read_completely_are_not_reported(pipeline: Any) -> None:
    assert cut_prompts(pipeline, PROMPTS) is None
