"""The runs below a directory, as the pages of `tcd-bench view` show them."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.records.cell import content_hash
from bench.records.errors import BenchError
from bench.report.terminal import SUMMARY_DATA, Summary
from bench.report.write import PAGE
from bench.store.cell_folder import FAILED, GOOD
from bench.store.store import RUN, Store
from bench.workers.launch import Launch
from bench.workers.status import LaunchStatus, describe, duration, read_status

_DEPTH = 4
"""Levels of directories in which runs are looked for."""
RUNNING, FINISHED, STOPPED, JOINT, DAMAGED = "running", "finished", "stopped", "joint report", "unreadable"


@dataclass(frozen=True)
class Place:
    """A directory with a run or a joint report; `name` is its path from the directory that is viewed."""

    name: str
    path: Path

    @property
    def key(self) -> str:
        """Its name in addresses."""
        return content_hash(self.name)[:12]


@dataclass(frozen=True)
class RunView:
    """One line of the list; `left` is the time left in words, `said` what `tcd-bench status` prints."""

    key: str
    place: str
    title: str
    state: str
    done: int = 0
    failed: int = 0
    cells: int = 0
    left: str = ""
    said: str = ""
    changed: float = 0.0
    """The time of its last change, in seconds since 1970."""
    page: bool = False
    models: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    verdicts: Mapping[str, int] = field(default_factory=dict)

    @property
    def date(self) -> str:
        """The time of its last change, as `2026-01-31 12:00 UTC`."""
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.changed))

    def live(self) -> dict[str, Any]:
        """Return what changes while it runs, as JSON values."""
        names = ("key", "state", "done", "failed", "cells", "left", "said", "page")
        return {name: value for name, value in asdict(self).items() if name in names}


class Runs:
    """The runs below a directory; what has not changed since it was read is not read again.

    Raises BenchError where there is no such directory, or no run in it.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise BenchError(f"results={root} is not a directory; give one that holds runs, as in results=results")
        self.root = root.resolve()
        self._known: dict[str, tuple[object, RunView]] = {}
        if not self.places():
            raise BenchError(
                f"results={root} holds no runs; give the directory of a run or one above several, as in results=results"
            )

    def places(self) -> dict[str, Place]:
        """Return by key the directories with runs and reports, in the order of their names."""
        found = sorted(_search(self.root, _DEPTH))
        named = (Place(os.path.relpath(path, self.root).replace(os.sep, "/"), path) for path in found)
        return {place.key: place for place in named}

    def views(self) -> list[RunView]:
        """Return all runs, the last changed first."""
        return sorted((self.view(place) for place in self.places().values()), key=lambda view: -view.changed)

    def view(self, place: Place) -> RunView:
        """Return one run as it is now."""
        signature = _signature(place.path)
        known = self._known.get(place.key)
        if known is None or known[0] != signature or known[1].state == RUNNING:
            known = signature, _read(place)
            self._known[place.key] = known
        return known[1]


def read_summary(place: Place) -> Summary:
    """Return the summary that its report stored; an empty one where there is none."""
    with suppress(OSError, ValueError):
        return Summary.from_json((place.path / SUMMARY_DATA).read_bytes())
    return Summary()


def _search(folder: Path, depth: int) -> Iterator[Path]:
    """Yield directories with a run or a report, without following links; nothing below them is searched."""
    try:
        entries = {entry.name: entry for entry in os.scandir(folder)}
    except OSError:
        return
    if entries.keys() & {RUN, "launches"} or {PAGE, "report.json"} <= entries.keys():
        yield folder
    elif depth:
        for name, entry in entries.items():
            if not name.startswith(".") and entry.is_dir(follow_symlinks=False):
                yield from _search(Path(entry.path), depth - 1)


def _signature(path: Path) -> tuple[float, ...]:
    """Return the times of change of what a run writes as it goes on; workers rewrite their states all the time."""
    files = [path / name for name in (RUN, "report.json", "launches", "cells", "workers")]
    with suppress(OSError):
        files += [Path(entry.path) for entry in os.scandir(path / "workers")]
    return tuple(_changed(file) for file in files)


def _changed(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _read(place: Place) -> RunView:
    changed = max(_signature(place.path))
    try:
        return _read_run(place, changed)
    except (BenchError, OSError, ValueError, KeyError, TypeError) as error:
        return RunView(place.key, place.name, place.path.name, DAMAGED, said=str(error), changed=changed)


def _read_run(place: Place, changed: float) -> RunView:
    page = (place.path / PAGE).is_file()
    verdicts = Counter(line.verdict for line in read_summary(place).verdicts)
    if not any((place.path / name).exists() for name in (RUN, "launches")):
        return RunView(
            place.key, place.name, place.path.name, JOINT, changed=changed, page=page, verdicts=dict(verdicts)
        )
    store = Store(place.path, writable=False)
    launch = Launch.latest(store.files)
    run = store.run() if store.files.exists(RUN) else None
    settings: Mapping[str, Any] = run.settings if run else launch.settings if launch else {}
    keys = set(run.cells if run else launch.cells if launch else ())
    good, bad = set[str](), set[str]()
    for name in store.files.tree("cells"):
        _, key, *rest = name.split("/")
        if key in keys and rest:
            good |= {key} if rest[0] == GOOD else set()
            bad |= {key} if rest[0] == FAILED else set()
    status = read_status(store, launch, int(launch.settings["batch_size"])) if launch else None
    alive = status is not None and status.left > 0 and bool(status.alive(time.time()))
    return RunView(
        key=place.key,
        place=place.name,
        title=run.name if run else str(settings.get("name", place.path.name)),
        state=RUNNING if alive else FINISHED if keys <= good | bad else STOPPED,
        done=len(good),
        failed=len(bad - good),
        cells=len(keys),
        left=_left(status) if status and alive else "",
        said=describe(status) if status else "",
        changed=changed,
        page=page,
        models=tuple(settings.get("models", ())),
        methods=tuple(run.labels.get(name, name) if run else name for name in settings.get("methods", ())),
        scores=run.metrics if run else (),
        verdicts=dict(verdicts),
    )


def _left(status: LaunchStatus) -> str:
    seconds = status.left_s(time.time())
    return "" if seconds is None else f"about {duration(seconds)} left"


def to_live_json(views: list[RunView]) -> str:
    """Return what changes in the list while runs go on."""
    return json.dumps([view.live() for view in views], ensure_ascii=False)
