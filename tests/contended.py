"""A lock that reports when a thread has to wait for it, so that tests need no clock."""

import threading


class ContendedLock:
    """A lock; `contended` is set once a thread finds it taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.contended = threading.Event()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.contended.set()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
