"""The fork server: one thread, the app imported, and nothing to do but fork children on request.

The supervisor asks with `F` + child number (u64, little endian) and the child's end of a socket as ancillary
data. The answers are records of 17 bytes: kind, number u64, pid u32, status i32. `P`: the child lives.
`X`: it has ended, with this raw wait status. `E`: it could not be forked, for this errno.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable

# By name, and now: with gevent these are replaced later, and this process is no place for greenlets.
from select import POLLIN
from select import poll as make_poll
from typing import NoReturn

from celeriac import signals
from celeriac.worker import process, stacks

REQUEST = struct.Struct("<cQ")
ANSWER = struct.Struct("<cQIi")
#: How long children that were told to stop may take to leave after the supervisor hung up.
FAREWELL_SECONDS = 5.0

Serve = Callable[[int, int], int]
"""Runs a child: (socket, child number) -> exit code. Called in the new process."""


class ForkServer:
    """Forks, reaps and reports, until the supervisor hangs up.

    All fields belong to the one thread of this process.
    """

    def __init__(self, control: socket.socket, serve: Serve) -> None:
        self._control = control
        self._serve = serve
        self._numbers: dict[int, int] = {}
        self._unread = b""
        self._descriptors: list[int] = []
        self._wake_read, self._wake_write = os.pipe()

    def run(self) -> None:
        """Serves until the supervisor's socket closes. Then waits a moment for children that are leaving."""
        self._prepare()
        poll = make_poll()
        poll.register(self._control.fileno(), POLLIN)
        poll.register(self._wake_read, POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._wake_read in ready:
                self._reap()
            if self._control.fileno() in ready and not self._take_requests():
                break
        self._say_farewell()

    def _prepare(self) -> None:
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        # The supervisor decides what a signal to the whole process group means.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, process.take_no_notice)
        stacks.register()
        signal.signal(signal.SIGCHLD, process.take_no_notice)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        gc.collect()
        # Objects that exist now are never traversed again: no child dirties their pages by collecting.
        gc.freeze()

    def _take_requests(self) -> bool:
        """Reads what there is and forks for it; False when the supervisor is gone."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, REQUEST.size * 16, 64, socket.MSG_CMSG_CLOEXEC)
        except InterruptedError:
            return True
        except ConnectionError:
            return False
        self._descriptors += descriptors
        self._unread += data
        while len(self._unread) >= REQUEST.size and self._descriptors:
            kind, number = REQUEST.unpack_from(self._unread)
            self._unread = self._unread[REQUEST.size :]
            connection = self._descriptors.pop(0)
            if kind != b"F":
                raise RuntimeError(f"the supervisor sent an unknown request: {kind!r}")
            self._fork(number, connection)
        return bool(data)

    def _fork(self, number: int, connection: int) -> None:
        server = os.getpid()
        if signals.worker_before_create_process.receivers:
            signals.worker_before_create_process.send(sender=self)
        try:
            pid = os.fork()
        except OSError as exc:
            os.close(connection)
            self._answer(b"E", number, 0, exc.errno or errno.EAGAIN)
            return
        if pid == 0:
            self._become_child(number, connection, server)
        os.close(connection)
        self._numbers[pid] = number
        self._answer(b"P", number, pid, 0)

    def _become_child(self, number: int, connection: int, server: int) -> NoReturn:
        code = 70
        try:
            process.die_with_parent(server)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for fd in (self._wake_read, self._wake_write, *self._descriptors):
                os.close(fd)
            self._control.close()
            code = self._serve(connection, number)
        except BaseException:  # The process ends here whatever it was; the text is all that remains.
            sys.excepthook(*sys.exc_info())
        finally:
            process.leave(code)

    def _reap(self) -> None:
        try:
            while os.read(self._wake_read, 512):
                pass
        except BlockingIOError:
            pass
        while self._numbers:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self._numbers.pop(pid, None)
            if number is not None:
                self._answer(b"X", number, pid, status)

    def _answer(self, kind: bytes, number: int, pid: int, status: int) -> None:
        try:
            self._control.sendall(ANSWER.pack(kind, number, pid, status))
        except OSError:
            pass  # The supervisor has hung up: the next read says so, and children see it themselves.

    def _say_farewell(self) -> None:
        """Children end by themselves when their sockets close; this process is what keeps them alive."""
        self._control.close()
        deadline = time.monotonic() + FAREWELL_SECONDS
        poll = make_poll()
        poll.register(self._wake_read, POLLIN)
        while self._numbers and (left := deadline - time.monotonic()) > 0:
            poll.poll(min(left, 0.5) * 1000)
            self._reap()


def start(serve: Serve, ours: int, theirs: socket.socket) -> int:
    """Forks a fork server from this process, which must have one thread only.

    Args:
        serve: What a child does.
        ours: Descriptor of the supervisor's end of the socket; closed in the fork server, so that it sees
            the supervisor go.
        theirs: The fork server's end; closed here.

    Returns:
        The process id.
    """
    parent = os.getpid()
    process.flush_stdio()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            process.die_with_parent(parent)
            os.close(ours)
            ForkServer(theirs, serve).run()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            process.leave(code)
    theirs.close()
    return pid


def main() -> None:
    """`python -m celeriac.worker.fork_server`: takes the place of one that died; its socket is standard input."""
    from celeriac.compat import install_if_wanted
    from celeriac.worker.setup import Setup

    install_if_wanted()
    parent = os.getppid()
    process.die_with_parent(parent)
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    setup = Setup.from_environment()
    if setup.pool == "gevent":
        from celeriac.worker import greenlets

        greenlets.patch()
    serve = setup.prepare_fork_server()
    ForkServer(control, serve).run()


if __name__ == "__main__":
    main()
