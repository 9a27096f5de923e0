"""What a worker's processes do right now: stacks of all their threads, on SIGUSR1 to the worker.

The handlers are C code that needs no interpreter, so that a process that hangs in an extension answers too. In the
fork server and its children the signal is SIGUSR2: there SIGUSR1 is the soft time limit.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Iterable
from types import FrameType

#: What has a fork server or a child write its stacks.
DUMP_SIGNAL = signal.SIGUSR2


def dump() -> None:
    """Writes the stacks of this process."""
    if sys.__stderr__ is not None:
        faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)


def register() -> None:
    """In a fork server: it and the children that it forks write their stacks on `DUMP_SIGNAL`."""
    if sys.__stderr__ is not None:
        faulthandler.register(DUMP_SIGNAL, file=sys.__stderr__, all_threads=True, chain=False)


def register_supervisor(children: Callable[[], Iterable[int]]) -> None:
    """In the worker's own process: it writes its stacks on SIGUSR1 and has its children write theirs.

    Args:
        children: Process ids of the children that live now.
    """

    def pass_on(signum: int, frame: FrameType | None) -> None:
        for pid in children():
            if pid == os.getpid():
                continue
            _write(f"\nStacks of the pool process {pid}:\n")
            try:
                os.kill(pid, DUMP_SIGNAL)
            except ProcessLookupError:
                _write("It has ended.\n")

    # The main thread may be busy: its own stacks are written at once, and then this handler is called in its turn.
    signal.signal(signal.SIGUSR1, pass_on)
    if sys.__stderr__ is not None:
        faulthandler.register(signal.SIGUSR1, file=sys.__stderr__, all_threads=True, chain=True)


def _write(text: str) -> None:
    try:
        os.write(2, text.encode())
    except OSError:
        pass
