"""Cells, records and runs for tests, of which a test says only what it is about."""

from pathlib import Path
from typing import Any

from bench.pictures import read_images
from bench.records.cell import Base, Cell, PromptSet, SchedulerSpec, Task
from bench.records.errors import CellError
from bench.records.record import Calls, Failure, Record
from bench.records.run import Run
from bench.store.store import Store

CALLS = Calls((999.0,), None, None, {}, {}, 4, 4, 8, 32, 8)


def make_base(**changes: Any) -> Base:
    """The miniature at 64 × 64 pixels."""
    return Base(
        **{
            **{"name": "mini", "source": "bench://teacher", "weights": "w", "pipeline": "StableDiffusionPipeline"},
            **{"dtype": "float32", "height": 64, "width": 64, **changes},
        }
    )


def make_cell(prompts: int = 4, **changes: Any) -> Cell:
    """TCD in 4 steps with eta 0.3; so many prompts, unless they are among the changes."""
    return Cell(
        **{
            **{"base": make_base(), "task": Task(), "method": "tcd", "adapters": (), "fused": False, "steps": 4},
            **{"scheduler": SchedulerSpec("diffusers.TCDScheduler"), "eta": 0.3, "guidance_scale": 0.0, "seed": 0},
            **{"prompts": PromptSet("world", prompts, "t"), "batch_size": 4, "device": "cpu", "versions": {}},
            **changes,
        }
    )


def make_record(cell: Cell, **changes: Any) -> Record:
    """The record of a finished cell, without what was not given."""
    return Record(**{"key": cell.key, "cell": cell, "status": "ok", "environment": {}, "sampling_s": 1.0, **changes})


def make_failure(cell: Cell, kind: str = CellError.__name__, message: str = "black", **changes: Any) -> Record:
    """The record of a failed cell."""
    return make_record(cell, status="error", failure=Failure(kind, message, "Traceback"), **changes)


def make_run(**changes: Any) -> Run:
    """A run of nothing, by the extractor "mini" with the identity "e" and the reference "r"."""
    return Run(
        **{
            **{"name": "x", "settings": {}, "cells": (), "left_out": (), "prompts": (), "labels": {}, "metrics": ()},
            **{"real_images": "r", "references": {"mini": "r"}},
            **{"claims": (), "features": {"mini": "e"}, **changes},
        }
    )


def records_and_images(results: Path | str) -> dict[str, tuple[dict[str, Any], bytes]]:
    """By cell, all of its record and images that must not depend on where and how often it was run."""
    store, found = Store(results, writable=False), {}
    for record in store.records():
        images = read_images(store.cell(record.key), range(record.images.count))
        found[record.cell.label] = record.reproducible(), images.tobytes()
    assert found
    return found
