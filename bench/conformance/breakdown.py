"""Whose fault an error in a check is: the scheduler's, which is a finding, or this package's, which is none."""

from __future__ import annotations

import inspect
import traceback
from typing import Any


def sources_of(scheduler_class: type[Any]) -> set[str]:
    """Return the files that the methods of a class and of its bases were compiled from."""
    functions = (
        inspect.unwrap(value) for base in scheduler_class.__mro__ for value in vars(base).values() if callable(value)
    )
    codes = (getattr(function, "__code__", None) for function in functions)
    return {code.co_filename for code in codes if code is not None}


def passed_through(error: BaseException, sources: set[str]) -> bool:
    """Whether an error arose in code of these files, or in what that called."""
    return any(frame.f_code.co_filename in sources for frame, _ in traceback.walk_tb(error.__traceback__))
