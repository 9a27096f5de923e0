"""A database that cannot be used: one clear error at the caller, and a worker that goes on when it can."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celery
from celeriac.exceptions import OperationalError

from .conftest import wait_until


@contextmanager
def client_of(url: str) -> Iterator[Celery]:
    app = Celery("client", broker=url, backend=url, set_as_current=False)
    try:
        yield app
    finally:
        app.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program holds the write lock. (A process does not see its own locks.)"""
    program = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30);"
        "c.execute('BEGIN IMMEDIATE'); print('locked', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        yield
        holder.communicate()


def test_a_locked_file_is_an_operational_error_before_the_deadline(bench: Any) -> None:
    worker = bench.start()
    bench.works()

    with locked(bench.project.folder / "queue.db"):
        began = time.monotonic()
        with pytest.raises(OperationalError, match="queue.db"):
            bench.project.send("add", 1, 1, retry=False, timeout=0.5)
        # Far from any machine's noise: the point is that it ends.
        assert time.monotonic() - began < 20

    bench.works()
    assert "Traceback" not in worker.log


def test_a_worker_outlives_a_lock_longer_than_its_patience(bench: Any) -> None:
    worker = bench.start()
    waiting = [bench.project.send("add", n, 1) for n in range(3)]
    with locked(bench.project.folder / "queue.db"):
        worker.wait_for("locked|busy|does not answer|time")

    assert [one.get(timeout=30) for one in waiting] == [1, 2, 3]
    bench.works()
    assert "Traceback" not in worker.log


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with client_of(f"sqlite:///{tmp_path}/nowhere/queue.db") as client:
        with pytest.raises(OperationalError, match="nowhere"):
            client.send_task("add", (1, 1), retry=False)


def test_a_file_that_is_no_database_is_named_and_left_alone(tmp_path: Path, bench: Any) -> None:
    path = tmp_path / "queue.db"
    path.write_bytes(b"these are my notes\n" * 1000)

    with client_of(f"sqlite:///{path}") as client, pytest.raises(OperationalError, match=r"queue\.db"):
        client.send_task("add", (1, 1), retry=False)
    bench.project.write("")
    worker = bench.project.start(ready=False)
    assert worker.wait() != 0
    assert "queue.db" in worker.log
    assert "Traceback" not in worker.log
    assert path.read_bytes() == b"these are my notes\n" * 1000


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may write to read-only files."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_read_only_file_is_an_operational_error() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "queue.db"
        with client_of(f"sqlite:///{path}") as client:
            client.send_task("add", (1, 1))
        path.chmod(0o444)
        Path(folder).chmod(0o555)

        with as_nobody(), client_of(f"sqlite:///{path}") as client:
            with pytest.raises(OperationalError, match=r"read-?only"):
                client.send_task("add", (1, 1), retry=False)
        Path(folder).chmod(0o755)


def test_a_damaged_file_is_an_operational_error_and_the_worker_says_so(tmp_path: Path, bench: Any) -> None:
    path = tmp_path / "queue.db"
    with client_of(f"sqlite:///{path}") as client:
        client.send_task("add", (1, 1))
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))

    with client_of(f"sqlite:///{path}") as client:
        with pytest.raises(OperationalError, match="malformed|damaged|corrupt"):
            client.send_task("add", (1, 1), retry=False)
    bench.project.write("")
    worker = bench.project.start(ready=False)
    worker.wait_for("malformed|damaged|corrupt")
    assert "Traceback" not in worker.log


def test_a_full_store_is_an_operational_error_and_what_is_in_it_still_runs(bench: Any) -> None:
    bench.project.url += "?max_size=2000000"
    sent = []
    with client_of(bench.project.url) as client, pytest.raises(OperationalError, match="full"):
        for _ in range(1000):
            sent.append(client.send_task("add", ("x" * 20_000, "y"), retry=False))
    assert sent

    worker = bench.start()
    results = [one.get(timeout=60) for one in sent[-3:]]

    assert results == ["x" * 20_000 + "y"] * 3
    bench.works()
    assert "Traceback" not in worker.log


def test_a_second_worker_of_the_same_name_is_told(bench: Any) -> None:
    bench.start("-n", "twin@here")
    second = bench.project.start("-c", "1", "-n", "twin@here", ready=False)

    wait_until(lambda: "both consume as twin@here" in bench.worker.log + second.log, "a word about the name")
    results = [bench.project.send("add", n, 1) for n in range(50)]
    assert [one.get(timeout=30) for one in results] == list(range(1, 51))
    bench.works()
