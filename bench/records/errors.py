"""Errors that a user can act on, and what is raised for content that is not what was written."""

from __future__ import annotations


class BenchError(Exception):
    """Something a person can mend: what was given, what is allowed, what to do. Ends a verb with exit code 2."""


class CellError(BenchError):
    """A cell's images are not worth scoring (NaN, all black), or its settings contradict what was measured."""


class StoreError(BenchError):
    """The store cannot be reached or is full, for longer than was to be waited for."""


class Corrupt(Exception):  # noqa: N818
    """What was read is not what was written."""


class Damaged(BenchError):  # noqa: N818
    """A stored file that is needed is missing or is not what was written; `tcd-bench run` can make it again."""

    def __init__(self, location: str, name: str, why: str) -> None:
        super().__init__(
            f"results={location}: {name} is damaged ({why}); start the same tcd-bench run again, it makes that file "
            "again and keeps the rest"
        )
        self.location, self.name, self.why = location, name, why

    def __reduce__(self) -> tuple[type[Damaged], tuple[str, str, str]]:
        """So that it comes out of another process."""
        return Damaged, (self.location, self.name, self.why)
