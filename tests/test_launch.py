"""Launches and states of workers are read back completely or not at all."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench.records.errors import BenchError
from bench.store.files import Files
from bench.store.local import LocalFiles
from bench.workers.launch import Launch, Reporter, WorkerState

LAUNCH = Launch(
    "20261129-101500-abcdef", {"name": "x", "executor": {"max_attempts": 3}}, (0.5, 1.0), ("k1", "k2"), 4, 1.5
)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return LocalFiles(tmp_path)


def test_a_launch_is_read_as_it_was_written(files: Files) -> None:
    LAUNCH.save(files)
    files.write("launches/.DS_Store", b"\x00")
    files.write("launches/zzz.txt", b"")
    assert Launch.latest(files) == LAUNCH


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"{}", json.dumps({**asdict(LAUNCH), "cells": 3}).encode(), b'{"name": "x"}']
)
def test_a_damaged_launch_is_refused_in_a_sentence(files: Files, content: bytes) -> None:
    files.write("launches/x.json", content)
    with pytest.raises(BenchError, match=r"launches/x.json is damaged; start the run again"):
        Launch.load(files, "x")


@pytest.mark.parametrize("changed", [{"since": "x"}, {"images": None}, {"state": 3}, [], "garbage"])
def test_a_damaged_state_of_a_worker_is_ignored(files: Files, changed: Any) -> None:
    for worker in ("a", "b"):
        Reporter(files, "l", worker, "cpu").say()
    (files.root / "workers" / "c.json").mkdir()  # type: ignore[attr-defined]
    damaged = {**json.loads(files.read("workers/a.json")), **changed} if isinstance(changed, dict) else changed
    files.write("workers/a.json", json.dumps(damaged).encode())
    assert [state.worker for state in WorkerState.all_of(files, "l")] == ["b"]
