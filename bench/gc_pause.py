"""Python's garbage collector, kept from going through what stays."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """No collections: where libraries are loaded or many records read, nothing that is made there is garbage.

    Collections are a fifth of the time that loading diffusers takes. What the first pause of a process leaves, later
    collections leave alone too. Serves as a decorator.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if not gc.get_freeze_count():
                gc.freeze()
                atexit.register(gc.unfreeze)  # else libraries take what they see at the end for leaks
            gc.enable()
