"""The garbage collector is paused while libraries are loaded, and only then."""

import gc
from types import SimpleNamespace
from typing import Any

import pytest

from bench.execute import job
from bench.gc_pause import collector_paused


def test_the_collector_is_restored_after_errors() -> None:
    @collector_paused()
    def fail() -> None:
        with collector_paused():
            pass
        assert not gc.isenabled()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert gc.isenabled()
    assert gc.get_freeze_count()
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_libraries_are_loaded_without_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    experiment: Any = SimpleNamespace(scores=["clip_score"], extractors={"mini": None})
    empty: Any = SimpleNamespace(cells=())
    monkeypatch.setattr(job, "plan_job", lambda *_: job.Job(experiment, empty, empty, empty))
    monkeypatch.setattr(job, "try_schedulers", lambda _: seen.append(("schedulers", gc.isenabled())))
    monkeypatch.setattr(job, "import_module", lambda name: seen.append((name, gc.isenabled())))
    job.prepare(experiment)
    assert seen == [("schedulers", False), ("bench.execute.cell_runner", False), ("bench.features.openclip", False)]
    assert gc.isenabled()
