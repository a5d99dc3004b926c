"""A child process that ends with the process that started it.

    python -m bench.workers.attached MODULE [ARGUMENT …]

Runs a module as `python -m MODULE` would and watches standard input, a pipe whose other end the parent holds: it is
closed when the parent ends, however that happens, on every system. Then this process gets SIGTERM, which lets a worker
finish its batch and release its leases, and is ended after `GRACE_S`.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

GRACE_S = 20.0
ORPHANED = 75
"""Exit code, the same as that of a worker that was asked to stop."""


def end_with_parent(stdin: int = 0) -> threading.Thread:
    """Watch the file descriptor `stdin` in a thread; returns the thread."""

    def watch() -> None:
        while os.read(stdin, 4096):  # not through sys.stdin, whose lock would delay the exit of the interpreter
            pass
        print("the process that started this one is gone; ending", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os._exit(ORPHANED)

    thread = threading.Thread(target=watch, name="parent", daemon=True)
    thread.start()
    return thread


def main() -> None:
    """Run the module."""
    _, module, *arguments = sys.argv
    sys.argv = [module, *arguments]
    end_with_parent()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
