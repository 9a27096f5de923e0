"""A debugger for tasks: waits on a port for a `telnet`, and stops the task there.

Example:
    >>> from celeriac.contrib import rdb
    >>> @app.task
    ... def add(x, y):
    ...     result = x + y
    ...     rdb.set_trace()
    ...     return result
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from pdb import Pdb
from types import FrameType
from typing import Any

__all__ = ["CELERY_RDB_HOST", "CELERY_RDB_PORT", "DEFAULT_PORT", "Rdb", "debugger", "set_trace"]

DEFAULT_PORT = 6899
CELERY_RDB_HOST = os.environ.get("CELERY_RDB_HOST") or "127.0.0.1"
CELERY_RDB_PORT = int(os.environ.get("CELERY_RDB_PORT") or DEFAULT_PORT)
#: So many ports are tried.
_PORTS = 100

# The one of this process, while somebody is connected.
_current: Rdb | None = None


class Rdb(Pdb):
    """A debugger on a socket. Waits for somebody to connect when it is made.

    Args:
        host: Address to listen on.
        port: The first port that is tried.
    """

    def __init__(self, host: str = CELERY_RDB_HOST, port: int = CELERY_RDB_PORT, out: Any = None) -> None:
        self._said = out or sys.__stderr__
        self._listener = _listen(host, port)
        place = self._listener.getsockname()
        self._say(f"Remote Debugger: please telnet to {place[0]}:{place[1]} (pid {os.getpid()})")
        client, address = self._listener.accept()
        self._say(f"Remote Debugger: in session with {address[0]}:{address[1]}")
        self._client = client
        self._streams = sys.stdin, sys.stdout
        # Two of them: one that both reads and writes forgets what it has read ahead when it writes.
        self._reads, self._writes = client.makefile("r"), client.makefile("w")
        super().__init__(completekey="tab", stdin=self._reads, stdout=self._writes)
        self.prompt = "(rdb) "
        sys.stdin, sys.stdout = self._reads, self._writes

    def _say(self, text: str) -> None:
        if self._said is not None:
            print(text, file=self._said, flush=True)

    def _end(self) -> None:
        global _current
        _current = None
        if sys.stdin is self._reads:
            sys.stdin, sys.stdout = self._streams
        for one in (self._writes, self._reads, self._client, self._listener):
            try:
                one.close()
            except OSError:
                pass

    def do_continue(self, arg: str) -> Any:
        """Goes on, and lets whoever is connected go."""
        answer = super().do_continue(arg)
        self._end()
        return answer

    do_c = do_cont = do_continue

    def do_quit(self, arg: str) -> Any:
        """Ends the session; the task is not ended by it."""
        self.set_continue()
        self._end()
        return 1

    do_q = do_exit = do_quit


def debugger() -> Rdb:
    """The debugger of this process; made when there is none."""
    global _current
    if _current is None:
        _current = Rdb()
    return _current


def set_trace(frame: FrameType | None = None) -> None:
    """Stops here until somebody has connected and goes on."""
    debugger().set_trace(frame or sys._getframe().f_back)


def _listen(host: str, port: int) -> socket.socket:
    for number in range(port, port + _PORTS):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, number))
        except OSError as exc:
            listener.close()
            if exc.errno not in (errno.EADDRINUSE, errno.EINVAL):
                raise
        else:
            listener.listen(1)
            return listener
    raise OSError(f"no port from {port} to {port + _PORTS - 1} is free for the remote debugger")
