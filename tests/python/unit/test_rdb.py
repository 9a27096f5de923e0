"""The debugger on a socket: it waits for somebody, shows where it stopped, and lets the program go on."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import celeriac

PROGRAM = """
from celeriac.contrib import rdb

def work(x):
    result = x + 1
    rdb.set_trace()
    return result

print("first", work(1))
print("second", work(2))
"""
SECONDS = 30


def session(program: subprocess.Popen[str], *orders: str) -> str:
    """Connects to where the program says, gives the orders, and gives what it has shown until it hung up."""
    assert program.stderr is not None
    place = re.search(r"telnet to ([\d.]+):(\d+)", program.stderr.readline())
    assert place is not None
    with socket.create_connection((place[1], int(place[2])), SECONDS) as client:
        client.settimeout(SECONDS)
        client.sendall("".join(f"{order}\n" for order in orders).encode())
        return "".join(iter(lambda: client.recv(4096).decode(), ""))


def test_a_task_stops_until_somebody_has_looked(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    program = subprocess.Popen(
        [sys.executable, str(path)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(celeriac.__file__).parents[1]), "CELERY_RDB_PORT": "17899"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        first = session(program, "p x, result", "c")
        assert program.stderr is not None
        program.stderr.readline()  # whom it has in session
        second = session(program, "p x * 10", "q")
        out, errors = program.communicate(timeout=SECONDS)
    finally:
        program.kill()

    assert "(1, 2)" in first
    assert "20" in second
    assert out == "first 2\nsecond 3\n", errors
