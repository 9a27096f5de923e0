"""What programs need of the operating system: exit codes, pid files, privileges, the way into the background."""

from __future__ import annotations

import errno
import os
import platform
import signal as _signal
import sys
from collections.abc import Callable, Iterable, Mapping
from types import FrameType, TracebackType
from typing import IO, Any

from celeriac.exceptions import SecurityError

__all__ = [
    "EX_CANTCREAT", "EX_FAILURE", "EX_OK", "EX_UNAVAILABLE", "EX_USAGE", "DaemonContext", "LockFailed", "Pidfile",
    "Signals", "create_pidlock", "detached", "isatty", "maybe_drop_privileges", "parse_gid", "parse_uid",
    "process_lives", "signal_name", "signals",
]  # fmt: skip

EX_OK = getattr(os, "EX_OK", 0)
EX_FAILURE = 1
EX_UNAVAILABLE = getattr(os, "EX_UNAVAILABLE", 69)
EX_USAGE = getattr(os, "EX_USAGE", 64)
EX_CANTCREAT = getattr(os, "EX_CANTCREAT", 73)

SYSTEM = platform.system()
IS_macOS = SYSTEM == "Darwin"
IS_WINDOWS = SYSTEM == "Windows"

_Handler = Callable[[int, FrameType | None], Any] | int | None


def isatty(fh: IO[Any]) -> bool:
    """Whether a file is a terminal; what cannot say so is none."""
    try:
        return fh.isatty()
    except (AttributeError, ValueError):
        return False


def process_lives(pid: int) -> bool:
    """Whether a process of that id runs, whoever's it is. One that only waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True


class LockFailed(Exception):
    """A pid file is held by another process, or cannot be written."""


class Pidfile:
    """Holds the id of a process for as long as it runs. One left by a process that is gone is replaced."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)

    def acquire(self) -> Pidfile:
        """Writes this process' id.

        Raises:
            LockFailed: Another process that lives holds it, or it cannot be written.
        """
        for _ in range(2):
            try:
                self.write_pid()
            except FileExistsError:
                if self.remove_if_stale():
                    continue
                raise LockFailed(f"the pid file {self.path!r} says that process {self._owner()} runs already") from None
            except OSError as exc:
                raise LockFailed(f"the pid file {self.path!r} cannot be written: {exc.strerror}") from exc
            return self
        raise LockFailed(f"the pid file {self.path!r} was taken by another process just now")

    def __enter__(self) -> Pidfile:
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.release()

    def is_locked(self) -> bool:
        """Whether the file is there."""
        return os.path.exists(self.path)

    def release(self, *args: Any) -> None:
        """Removes it, when it is still ours."""
        if self._owner() == os.getpid():
            self.remove()

    def read_pid(self) -> int | None:
        """The id in it; None when there is no file.

        Raises:
            ValueError: It holds something else.
        """
        try:
            with open(self.path) as file:
                text = file.read().strip()
        except FileNotFoundError:
            return None
        if not text.isdigit():
            raise ValueError(f"the pid file {self.path!r} does not hold a process id")
        return int(text)

    def remove(self) -> None:
        """Removes the file, whosever it is."""
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass

    def remove_if_stale(self) -> bool:
        """Removes it unless another process that lives holds it.

        Returns:
            Whether it is free now.
        """
        owner = self._owner()
        if owner is not None and owner != os.getpid() and process_lives(owner):
            return False
        self.remove()
        return True

    def write_pid(self) -> None:
        """Makes the file with this process' id.

        Raises:
            OSError: It is there already, or cannot be written.
        """
        descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{os.getpid()}\n")

    def _owner(self) -> int | None:
        try:
            return self.read_pid()
        except (OSError, ValueError):
            return None


def create_pidlock(pidfile: str) -> Pidfile:
    """Takes a pid file until this process exits.

    Raises:
        SystemExit: With `EX_CANTCREAT`, when it is held already.
    """
    import atexit

    lock = Pidfile(pidfile)
    try:
        lock.acquire()
    except LockFailed as exc:
        sys.stderr.write(f"Error: {exc}\n")
        raise SystemExit(EX_CANTCREAT) from None
    atexit.register(lock.release)
    return lock


class DaemonContext:
    """Takes this process into the background: a session of its own, no terminal, standard streams on files.

    Args:
        umask: For files made from here on, as number or octal text; unchanged unless given.
        workdir: Directory to change to.
        output: Where standard output and error go; `/dev/null` unless given.
        fake: Do not detach; for debugging.
        meanwhile: Runs in the process that called, which leaves with the exit code that it gives.
    """

    def __init__(
        self,
        *,
        umask: int | str | None = None,
        workdir: str | None = None,
        output: str | None = None,
        fake: bool = False,
        meanwhile: Callable[[], int] | None = None,
    ) -> None:
        self.umask = int(umask, 8) if isinstance(umask, str) else umask
        self.workdir = workdir
        self.output = output
        self.fake = fake
        self.meanwhile = meanwhile

    def open(self) -> None:
        """Detaches. The process that called goes on as a child of init; its parent leaves."""
        if not self.fake:
            self._fork_twice()
        if self.workdir is not None:
            os.chdir(self.workdir)
        if self.umask is not None:
            os.umask(self.umask)
        if not self.fake:
            self.redirect()

    def redirect(self) -> None:
        """Standard input reads nothing; output and error go to the file."""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        target = null
        if self.output is not None:
            target = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for descriptor in (1, 2):
            os.dup2(target, descriptor)
        for descriptor in {null, target} - {0, 1, 2}:
            os.close(descriptor)

    def close(self, *args: Any) -> None:
        """Nothing: there is no way back."""

    def _fork_twice(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if os.fork():
            os._exit(self.meanwhile() if self.meanwhile else 0)
        # A session leader could get a terminal again by opening one; its child cannot.
        os.setsid()
        if os.fork():
            os._exit(0)

    def __enter__(self) -> DaemonContext:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def detached(
    logfile: str | None = None,
    pidfile: str | None = None,
    uid: int | str | None = None,
    gid: int | str | None = None,
    umask: int | str | None = None,
    workdir: str | None = None,
    fake: bool = False,
    meanwhile: Callable[[], int] | None = None,
    **opts: Any,
) -> DaemonContext:
    """Prepares to detach this process, which happens when the result is entered by `with`. What can be checked is
    checked here, where there still is someone to tell.

    Raises:
        OSError: The log file cannot be written.
        SystemExit: The pid file is held by a process that lives.
        SecurityError: The privileges cannot be dropped.
    """
    signals.reset("SIGCHLD")
    maybe_drop_privileges(uid, gid)
    if logfile:
        open(logfile, "a").close()
    if pidfile and not Pidfile(pidfile).remove_if_stale():
        sys.stderr.write(f"Error: the pid file {pidfile!r} says that another process runs already\n")
        raise SystemExit(EX_CANTCREAT)
    return DaemonContext(umask=umask, workdir=workdir or os.getcwd(), output=logfile, fake=fake, meanwhile=meanwhile)


def parse_uid(uid: int | str) -> int:
    """A user's number, of its number or name.

    Raises:
        KeyError: There is no such user.
    """
    try:
        return int(uid)
    except ValueError:
        import pwd

        try:
            return pwd.getpwnam(str(uid)).pw_uid
        except KeyError:
            raise KeyError(f"there is no user {uid!r}") from None


def parse_gid(gid: int | str) -> int:
    """A group's number, of its number or name.

    Raises:
        KeyError: There is no such group.
    """
    try:
        return int(gid)
    except ValueError:
        import grp

        try:
            return grp.getgrnam(str(gid)).gr_gid
        except KeyError:
            raise KeyError(f"there is no group {gid!r}") from None


def maybe_drop_privileges(uid: int | str | None = None, gid: int | str | None = None) -> None:
    """Becomes another user and group for good. With a user alone, the group is that user's; with a group alone, the
    user stays.

    Raises:
        SecurityError: This process may not do so, or could take its privileges back.
        KeyError: There is no such user or group.
    """
    if uid is None and gid is None:
        return
    user = None if uid is None else parse_uid(uid)
    group = None if gid is None else parse_gid(gid)
    if os.geteuid() != 0:
        if user in (None, os.geteuid()) and group in (None, os.getegid()):
            return
        raise SecurityError("only root can become another user (--uid, --gid)")
    if user is None:
        assert group is not None
        os.setgid(group)
        return
    _become(user, group)
    if user != 0:
        _check_no_way_back()


def _become(user: int, group: int | None) -> None:
    import pwd

    try:
        entry: pwd.struct_passwd | None = pwd.getpwuid(user)
    except KeyError:
        entry = None
    if group is None:
        group = entry.pw_gid if entry else os.getgid()
    # The groups first: afterwards this process may not change them any more.
    os.setgid(group)
    if entry:
        os.initgroups(entry.pw_name, group)
    else:
        os.setgroups([])
    os.setuid(user)


def _check_no_way_back() -> None:
    try:
        os.setuid(0)
    except OSError as exc:
        if exc.errno != errno.EPERM:
            raise
        return
    raise SecurityError("this process could become root again after --uid")


class Signals:
    """Signal handlers by name: `signals["TERM"] = handler`. Names that a platform has not got are ignored."""

    ignored = _signal.SIG_IGN
    default = _signal.SIG_DFL

    def arm_alarm(self, seconds: float) -> None:
        """Sends SIGALRM after so many seconds."""
        _signal.setitimer(_signal.ITIMER_REAL, seconds)

    def reset_alarm(self) -> int:
        """Sends it no more."""
        return _signal.alarm(0)

    def supported(self, name: str) -> bool:
        """Whether this platform has a signal of that name."""
        try:
            self.signum(name)
        except AttributeError:
            return False
        return True

    def signum(self, name: int | str) -> int:
        """A signal's number, of `TERM` or `SIGTERM`.

        Raises:
            TypeError: The name is not in upper case.
            AttributeError: There is no such signal.
        """
        if isinstance(name, int):
            return name
        if not isinstance(name, str) or not name.isupper():
            raise TypeError("a signal's name is in upper case, such as TERM")
        return int(getattr(_signal, name if name.startswith("SIG") else f"SIG{name}"))

    def reset(self, *names: str) -> None:
        """The default handlers."""
        self.update((name, self.default) for name in names)

    def ignore(self, *names: str) -> None:
        """No handlers: nothing happens."""
        self.update((name, self.ignored) for name in names)

    def __getitem__(self, name: int | str) -> Any:
        return _signal.getsignal(self.signum(name))

    def __setitem__(self, name: int | str, handler: _Handler) -> None:
        try:
            _signal.signal(self.signum(name), handler)
        except (AttributeError, ValueError):
            pass

    def update(self, handlers: Mapping[str, _Handler] | Iterable[tuple[str, _Handler]] = (), **more: _Handler) -> None:
        """Sets many."""
        for name, handler in {**dict(handlers), **more}.items():
            self[name] = handler


signals = Signals()


def signal_name(number: int) -> str:
    """`SIGTERM` for 15."""
    return _signal.Signals(number).name
