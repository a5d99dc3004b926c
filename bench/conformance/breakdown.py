"""Whose fault an error in a check is: the scheduler's, which is a finding, or this package's, which is none."""

from __future__ import annotations

import dis
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


def deliberate(error: BaseException) -> bool:
    """Whether a class refuses by this error: `raise` or `assert` made it, and no library of numbers did."""
    if not isinstance(error, _CLEAR) or error.__traceback__ is None:
        return False
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    code, library = last.tb_frame.f_code, str(last.tb_frame.f_globals.get("__name__")).partition(".")[0]
    return code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"] and library not in _NUMBERS


_CLEAR = (ValueError, AssertionError, TypeError, NotImplementedError, ImportError)
_NUMBERS = ("torch", "numpy", "scipy")
