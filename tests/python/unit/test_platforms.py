"""Pid files, privileges, signals: what programs need of the operating system."""

from __future__ import annotations

import os
import pwd
import signal as number
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from celeriac import platforms
from celeriac.exceptions import SecurityError
from celeriac.platforms import LockFailed, Pidfile, signals


def in_a_child(work: Callable[[], str]) -> str:
    """What a forked process says."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writes, work().encode())
        except BaseException as exc:
            os.write(writes, repr(exc).encode())
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


def test_exit_codes_are_those_of_sysexits() -> None:
    codes = [
        platforms.EX_OK,
        platforms.EX_FAILURE,
        platforms.EX_USAGE,
        platforms.EX_UNAVAILABLE,
        platforms.EX_CANTCREAT,
    ]

    assert codes == [0, 1, 64, 69, 73]


def test_a_pid_file_is_held_by_one_process(tmp_path: Path) -> None:
    path = tmp_path / "w.pid"
    with Pidfile(str(path)) as held:
        assert held.is_locked()
        assert held.read_pid() == os.getpid()

        def other() -> str:
            try:
                Pidfile(str(path)).acquire()
            except LockFailed as exc:
                return str(exc)
            return "taken"

        assert f"says that process {os.getpid()} runs already" in in_a_child(other)
    assert not path.exists()


def test_a_pid_file_of_a_process_that_is_gone_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "w.pid"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for left in (str(gone.pid), "", "nonsense"):
        path.write_text(left)
        Pidfile(str(path)).acquire()
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_process_that_waits_to_be_reaped_does_not_live() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    try:
        assert not platforms.process_lives(child.pid)
    finally:
        child.wait()
    assert platforms.process_lives(os.getpid())


def test_releasing_does_not_remove_the_file_of_another(tmp_path: Path) -> None:
    path = tmp_path / "w.pid"
    mine = Pidfile(str(path)).acquire()
    path.write_text("1\n")

    mine.release()

    assert path.exists()
    assert not mine.remove_if_stale()


def test_a_lock_on_a_pid_file_ends_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.pid"
    path.write_text("1\n")

    with pytest.raises(SystemExit) as stopped:
        platforms.create_pidlock(str(path))

    assert stopped.value.code == platforms.EX_CANTCREAT
    assert "process 1 runs already" in capsys.readouterr().err


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_root_becomes_another_user_for_good() -> None:
    entry = pwd.getpwnam("nobody")

    def become() -> str:
        platforms.maybe_drop_privileges("nobody")
        return f"{os.getresuid()} {os.getresgid()} {0 in os.getgroups()}"

    uid, gid = entry.pw_uid, entry.pw_gid
    assert in_a_child(become) == f"{(uid, uid, uid)} {(gid, gid, gid)} False"


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_others_may_not() -> None:
    def become() -> str:
        platforms.maybe_drop_privileges("nobody")
        platforms.maybe_drop_privileges("nobody", None)  # What it is already is no change.
        try:
            platforms.maybe_drop_privileges(uid=1)
        except SecurityError as exc:
            return str(exc)
        return "became another"

    assert "only root" in in_a_child(become)


def test_users_and_groups_go_by_number_or_name() -> None:
    assert (platforms.parse_uid("0"), platforms.parse_uid("root"), platforms.parse_gid("root")) == (0, 0, 0)
    with pytest.raises(KeyError, match="no user"):
        platforms.parse_uid("nobody-of-that-name")
    with pytest.raises(KeyError, match="no group"):
        platforms.parse_gid("no-group-of-that-name")


def test_detaching_leaves_the_session_and_the_terminal(tmp_path: Path) -> None:
    log = tmp_path / "d.log"
    reads, writes = os.pipe()

    def detach() -> str:
        with platforms.detached(str(log), umask="027", workdir=str(tmp_path)):
            os.write(1, b"into the log")
            os.write(writes, f"{os.getsid(0) != os.getpid()} {os.getcwd()} {oct(os.umask(0))}".encode())
        return ""

    session = os.getsid(0)
    assert in_a_child(detach) == ""
    os.close(writes)
    with os.fdopen(reads) as file:
        said = file.read()

    assert said == f"True {tmp_path} 0o27"
    assert session == os.getsid(0)
    assert log.read_text() == "into the log"


def test_signals_have_names() -> None:
    before = signals["USR2"]
    try:
        signals["USR2"] = signals.ignored
        assert number.getsignal(number.SIGUSR2) is number.SIG_IGN
        signals.update(USR2=lambda *_: None)
        assert callable(signals["SIGUSR2"])
        signals.reset("USR2")
        assert signals["USR2"] == number.SIG_DFL
    finally:
        signals["USR2"] = before
    assert signals.signum("TERM") == signals.signum("SIGTERM") == 15
    assert platforms.signal_name(9) == "SIGKILL"
    assert not signals.supported("NOSUCH")
    with pytest.raises(TypeError):
        signals.signum("term")
