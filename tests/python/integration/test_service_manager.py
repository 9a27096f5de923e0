"""What systemd hears of a worker."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

import pytest

TASKS = """
    @app.task(name="leak")
    def leak():
        return sorted(set(os.environ) & {"NOTIFY_SOCKET", "WATCHDOG_USEC"})

    @app.task(name="stuck")
    def stuck():
        mark("stuck")
        sum(range(10 ** 12))
    """


def heard(manager: socket.socket) -> str:
    manager.settimeout(30)
    return manager.recv(4096).decode()


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_it_hears_when_the_worker_is_ready_while_it_turns_and_when_it_stops(
    project: Any, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    project.write(TASKS)
    name = f"@celeriac-{os.getpid()}" if abstract else str(project.folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        monkeypatch.setenv("WATCHDOG_USEC", "100000")

        worker = project.start("-c", "1", "-Q", "celery,mail")

        assert heard(manager) == "READY=1\nSTATUS=consuming from celery, mail"
        # The child holds the interpreter's lock in C: the engine turns all the same.
        project.send("stuck")
        project.wait_for_mark("stuck")
        assert [heard(manager) for _ in range(5)] == ["WATCHDOG=1"] * 5
        worker.signal(signal.SIGQUIT)
        last = heard(manager)
        while last == "WATCHDOG=1":
            last = heard(manager)
        assert last.startswith("STOPPING=1\nSTATUS=stopping")
        assert worker.wait() == 1


def test_the_processes_of_the_pool_do_not_know_of_it(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write(TASKS)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(project.folder / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(project.folder / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "60000000")

        project.start("-c", "1")

        assert project.send("leak").get(timeout=30) == []


def test_a_watchdog_meant_for_another_process_is_not_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    from celeriac.worker.service import ServiceManager

    told = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}
    environment = dict(told)

    manager = ServiceManager(environment)

    assert environment == {}
    assert manager.options() == {"notify_socket": "/run/x", "watchdog_seconds": None}
    manager.restore()
    assert environment == told
    mine = ServiceManager({**told, "WATCHDOG_PID": str(os.getpid())})
    assert mine.options() == {"notify_socket": "/run/x", "watchdog_seconds": 30.0}
