"""Errors that a user can act on, and errors for content that differs from what was written."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Literal


class BenchError(Exception):
    """An error that the user can fix: the given value, the allowed ones, the remedy. Ends a verb with exit code 2."""


def check_path(setting: str, path: Path, kind: Literal["file", "folder", "any"], remedy: str) -> Path:
    """Return a path that must exist and be of this kind; raises BenchError, as in `baseline=x does not exist; …`.

    `setting` names the path as the user gave it, `remedy` says what is allowed. A pipe counts as a file.
    """
    try:
        found = "folder" if stat.S_ISDIR(path.stat().st_mode) else "file"
    except (FileNotFoundError, NotADirectoryError):
        what = "does not exist"
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
    else:
        if kind in (found, "any"):
            return path
        what = f"is a {found}"
    raise BenchError(f"{setting} {what}; {remedy}")


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
