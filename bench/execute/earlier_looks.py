"""The looks that a directory's claims were judged at, so that later verdicts count them."""

from __future__ import annotations

from dataclasses import replace

from bench.records import BenchError
from bench.request import Run
from bench.store import Store


def looks_before(store: Store) -> tuple[tuple[int, int], ...]:
    """All looks so far, in the order of time: how many images a cell there were, and how many were planned.

    A run whose cells are not all recorded was stopped before anybody saw its last look's verdicts.
    """
    try:
        run = store.run()
    except BenchError:
        return ()
    looks = run.history(len(run.prompts))
    unseen = not run.claims or any(store.record(key) is None for key in run.cells)
    return tuple(dict.fromkeys(looks[:-1] if unseen else looks))


def with_earlier_looks(run: Run, store: Store) -> Run:
    """The run that is to be saved there, with the looks that were had before it."""
    own = set(run.history(len(run.prompts)))
    earlier = tuple(look for look in looks_before(store) if look not in own)
    return run if earlier == run.earlier_looks else replace(run, earlier_looks=earlier)


def without_past_counts(counts: tuple[int, ...], store: Store | None) -> tuple[int, ...]:
    """The counts to look at that are not below what was looked at already; the last one always."""
    most = max((images for images, _ in looks_before(store)), default=0) if store else 0
    return tuple(count for count in counts[:-1] if count >= most) + counts[-1:]
