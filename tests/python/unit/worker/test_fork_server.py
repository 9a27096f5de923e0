"""The fork server, spoken to as the supervisor does."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from celeriac.worker import fork_server


def serve(descriptor: int, number: int) -> int:
    """A child for tests: says its number and its pid, then does what it is told."""
    with socket.socket(fileno=descriptor) as connection:
        try:
            connection.sendall(f"{number} {os.getpid()}\n".encode())
            order = connection.recv(16)
        except ConnectionError:
            return 0
    return int(order) if order else 0


class Supervisor:
    """The other end."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair()
        self.pid = fork_server.start(serve, self.control.fileno(), theirs)
        self.control.settimeout(10)

    def request(self, number: int) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(10)
        socket.send_fds(self.control, [fork_server.REQUEST.pack(b"F", number)], [theirs.fileno()])
        theirs.close()
        return ours

    def answer(self) -> tuple[bytes, int, int, int]:
        data = b""
        while len(data) < fork_server.ANSWER.size:
            part = self.control.recv(fork_server.ANSWER.size - len(data))
            assert part, "the fork server has hung up"
            data += part
        return fork_server.ANSWER.unpack(data)

    def close(self) -> None:
        self.control.close()
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    made = Supervisor()
    yield made
    made.close()


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether a process that is not ours has ended (a zombie has)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def test_a_child_is_made_for_a_request_and_its_exit_is_reported(supervisor: Supervisor) -> None:
    connection = supervisor.request(7)
    kind, number, pid, status = supervisor.answer()
    assert (kind, number, status) == (b"P", 7, 0)
    assert connection.recv(64) == f"7 {pid}\n".encode()

    connection.sendall(b"3")

    assert supervisor.answer() == (b"X", 7, pid, 3 << 8)


def test_a_killed_child_is_reported_with_its_wait_status(supervisor: Supervisor) -> None:
    connection = supervisor.request(1)
    _, _, pid, _ = supervisor.answer()
    connection.recv(64)

    os.kill(pid, signal.SIGKILL)

    assert supervisor.answer() == (b"X", 1, pid, signal.SIGKILL)


def test_several_requests_in_one_write_make_several_children(supervisor: Supervisor) -> None:
    connections = [supervisor.request(number) for number in range(5)]

    answers = [supervisor.answer() for _ in range(5)]

    assert [(kind, number) for kind, number, _, _ in answers] == [(b"P", number) for number in range(5)]
    assert len({pid for _, _, pid, _ in answers}) == 5
    for connection in connections:
        connection.close()


def test_children_do_not_keep_the_sockets_of_others_open(supervisor: Supervisor) -> None:
    first = supervisor.request(1)
    _, _, pid, _ = supervisor.answer()
    first.recv(64)
    second = supervisor.request(2)
    supervisor.answer()
    second.recv(64)

    os.kill(pid, signal.SIGKILL)

    assert first.recv(64) == b"", "a copy of the dead child's socket lives on in another process"


def test_signals_to_the_process_group_end_nothing(supervisor: Supervisor) -> None:
    connection = supervisor.request(1)
    supervisor.answer()
    connection.recv(64)

    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(supervisor.pid, number)

    connection.sendall(b"0")
    assert supervisor.answer()[0] == b"X"


def test_the_server_leaves_when_the_supervisor_hangs_up(supervisor: Supervisor) -> None:
    supervisor.control.shutdown(socket.SHUT_RDWR)

    assert os.waitstatus_to_exitcode(os.waitpid(supervisor.pid, 0)[1]) == 0


def test_children_die_with_the_fork_server(supervisor: Supervisor) -> None:
    connection = supervisor.request(1)
    _, _, child, _ = supervisor.answer()
    connection.recv(64)

    os.kill(supervisor.pid, signal.SIGKILL)

    assert gone(child)
    connection.close()


def test_everything_dies_with_the_supervisor() -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        supervisor = Supervisor()
        connection = supervisor.request(1)
        _, _, child, _ = supervisor.answer()
        connection.recv(64)
        os.write(write, f"{supervisor.pid} {child}".encode())
        time.sleep(60)
        os._exit(0)
    server, child = map(int, os.read(read, 64).split())

    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

    assert gone(server)
    assert gone(child)
