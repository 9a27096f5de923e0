"""What a process of the worker needs from the operating system: its end tied to its parent's, a clean exit."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_libc: ctypes.CDLL | None = None


def die_with_parent(parent: int) -> None:
    """Asks the kernel to kill this process when `parent` ends; ends at once when it has ended already.

    Args:
        parent: Process id of the parent as it was known before the fork.
    """
    global _libc
    if sys.platform != "linux":
        return  # Elsewhere the end of file on the socket does it, as soon as the process reads.
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(70)


def set_title(node: str, number: int) -> None:
    """Names this child for `ps` and `top`: as Celery does where `setproctitle` is installed, else shortly."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        if _libc is not None:
            _libc.prctl(_PR_SET_NAME, f"celeryd:{number}".encode(), 0, 0, 0)
    else:
        setproctitle(f"[celeryd: {node}:ForkPoolWorker-{number}]")


def take_no_notice(signum: int, frame: FrameType | None) -> None:
    """A handler that does nothing. Unlike `SIG_IGN` it is not inherited by programs that a task starts."""


def end_in_peace() -> None:
    """From here on orders to stop come too late. The interpreter takes its handlers away some time before the end, and
    one that came then would replace the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def flush_stdio() -> None:
    """Writes out what `print` has kept, so that a fork does not double it and an exit does not lose it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass


def leave(code: int) -> NoReturn:
    """Ends this process without the interpreter's finalisation, which belongs to the process it was forked from."""
    flush_stdio()
    os._exit(code)


def thread_count() -> int:
    """Threads of this process that the kernel knows of; 1 where it cannot be told."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1
