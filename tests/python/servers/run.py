"""Processes that end with the one that started them, and ports for them."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
#: Below the range that outgoing connections take theirs from.
_PORTS = range(20_000, 32_000)


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Waits for `condition()` to be true and gives its value; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on."""
    for _ in range(1_000):
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def tied(command: list[str], **options: Any) -> subprocess.Popen[Any]:
    """Starts a process that the kernel kills when this one ends, however it ends.

    Call it from the main thread: the kernel watches the thread.
    """
    parent = os.getpid()

    def tie() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the tie held
            os._exit(1)

    return subprocess.Popen(command, preexec_fn=tie, **options)


def end(process: subprocess.Popen[Any] | None, *, hard: bool = False, seconds: float = 15) -> None:
    """Ends a process and reaps it."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGKILL if hard else signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(seconds)
