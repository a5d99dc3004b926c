"""The garbage collector rests while libraries are loaded, and only then."""

import gc
from types import SimpleNamespace
from typing import Any

import pytest

from bench.collector import collector_paused
from bench.execute import assemble


def test_it_is_as_before_afterwards_whatever_happens() -> None:
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


def test_libraries_are_loaded_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    experiment: Any = SimpleNamespace(scores=["clip_score"])
    monkeypatch.setattr(assemble, "lay_out", lambda *_: SimpleNamespace(plan=SimpleNamespace(cells=())))
    monkeypatch.setattr(assemble, "try_schedulers", lambda _: seen.append(("schedulers", gc.isenabled())))
    monkeypatch.setattr(assemble, "import_module", lambda name: seen.append((name, gc.isenabled())))
    assemble.prepare(experiment)
    assert seen == [("schedulers", False), ("bench.execute.runner", False), ("bench.score.features", False)]
    assert gc.isenabled()
