"""Errors that a user can act on, and errors for content that differs from what was written."""

from __future__ import annotations


class BenchError(Exception):
    """An error that the user can fix: the given value, the allowed ones, the remedy. Ends a verb with exit code 2."""


class CellError(BenchError):
    """A cell's images cannot be scored (NaN, all black), or its settings contradict the measurements."""


class StoreError(BenchError):
    """The store has been unreachable or full for longer than the configured wait."""


class Corrupt(Exception):  # noqa: N818
    """Content that was read differs from what was written."""


class Damaged(BenchError):  # noqa: N818
    """A stored file that is needed is missing or differs from what was written; `tcd-bench run` can regenerate it."""

    def __init__(self, location: str, name: str, why: str | Exception) -> None:
        why = "it is gone" if isinstance(why, FileNotFoundError) else str(why)
        super().__init__(
            f"results={location}: {name} is damaged ({why}); start the same tcd-bench run again, it regenerates that "
            "file and keeps the rest"
        )
        self.location, self.name, self.why = location, name, why

    def __reduce__(self) -> tuple[type[Damaged], tuple[str, str, str]]:
        """Support pickling, so that the error can be raised in another process."""
        return Damaged, (self.location, self.name, self.why)
