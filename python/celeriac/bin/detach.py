"""`--detach` and the other daemon options: the way of a worker or beat into the background.

It is gone before the app is imported and before there is a thread. The process that the user started waits until the
daemon says that it is ready, or has ended, and leaves with the exit code that tells which.
"""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from celeriac.bin.options import EXIT_FAILURE, stop

F = TypeVar("F", bound=Callable[..., Any])

#: Carries the descriptor of the daemon's report through `--executable`.
REPORT_KEY = "CELERIAC_DETACHED"
#: Where a daemon logs that was given no `--logfile`: in the working directory.
DEFAULT_LOGFILE = "%n.log"
#: After which the parent leaves though the daemon is not ready yet: it may be waiting for its broker.
PATIENCE_SECONDS = 10.0
#: What is shown of the log of a daemon that did not start.
SHOWN_BYTES = 4000

_OPTIONS: list[tuple[tuple[str, ...], str]] = [
    (("--executable",), "With --detach: the Python to run it with."),
    (("--umask",), "Octal mask of the files that it makes."),
    (("--gid",), "Become this group (number or name)."),
    (("--uid",), "Become this user (number or name)."),
]


def daemon_options(function: F) -> F:
    """Adds `--uid`, `--gid`, `--umask` and `--executable`."""
    for names, text in _OPTIONS:
        function = click.option(*names, help=text)(function)
    return function


@dataclass(frozen=True, slots=True)
class Daemon:
    """What the daemon options say; paths with the node's letters replaced."""

    detach: bool = False
    logfile: str | None = None
    pidfile: str | None = None
    uid: str | None = None
    gid: str | None = None
    umask: str | None = None
    executable: str | None = None

    def begin(self, what: str) -> Report:
        """Drops privileges, and detaches if that is wanted.

        Args:
            what: Name of the program, such as `worker`, for texts.

        Returns:
            How to tell the waiting parent that the start went well or not.
        """
        from celeriac.exceptions import SecurityError
        from celeriac.platforms import maybe_drop_privileges

        adopted = os.environ.pop(REPORT_KEY, None)
        if self.detach and adopted is None:
            return self._detach(what)
        if adopted is not None:
            _never_detach_again()
        umask = _umask(self.umask)
        try:
            maybe_drop_privileges(self.uid, self.gid)
        except (SecurityError, KeyError, OSError) as exc:
            stop(str(exc.args[0] if isinstance(exc, KeyError) else exc))
        if umask is not None:
            os.umask(umask)
        return Report(int(adopted) if adopted else None)

    def _detach(self, what: str) -> Report:
        from celeriac.exceptions import SecurityError
        from celeriac.platforms import detached
        from celeriac.worker.process import thread_count

        if thread_count() > 1:
            stop("--detach needs a process without threads", "start it as a program of its own: python -m celeriac ...")
        assert self.logfile is not None
        if self.executable and not os.access(self.executable, os.X_OK):
            stop(f"--executable {self.executable} is no program that can be run")
        umask = _umask(self.umask)
        reads, writes = os.pipe()
        waiting = _Waiting(what, reads, writes, self.logfile)
        try:
            context = detached(self.logfile, self.pidfile, self.uid, self.gid, umask, meanwhile=waiting.wait)
        except OSError as exc:
            stop(f"the log file {self.logfile!r} cannot be written: {exc.strerror}", "name another one with --logfile")
        except (SecurityError, KeyError) as exc:
            stop(str(exc.args[0]))
        waiting.begin()
        context.open()
        os.close(reads)
        if self.executable and os.path.realpath(self.executable) != os.path.realpath(sys.executable):
            os.set_inheritable(writes, True)
            os.environ[REPORT_KEY] = str(writes)
            arguments = without_detach(sys.argv[1:])
            os.execv(self.executable, [self.executable, "-m", "celeriac", *arguments])
        _never_detach_again()
        return Report(writes)


def logfile_of(given: dict[str, Any], default: str = DEFAULT_LOGFILE) -> str | None:
    """The log file as the options name it; what runs in the background has one in any case."""
    found: str | None = given["logfile"]
    if found is None and given["detach"]:
        found = default
    return os.path.expanduser(found) if found else None


def daemon_of(given: dict[str, Any], node: str, default_logfile: str = DEFAULT_LOGFILE) -> Daemon:
    """The daemon options of a command, for a node name: `detach`, `logfile`, `pidfile`, and those of `daemon_options`."""
    from celeriac.utils.nodenames import node_format

    logfile, pidfile = logfile_of(given, default_logfile), given["pidfile"]
    return Daemon(
        logfile=os.path.abspath(node_format(logfile, node)) if logfile else None,
        pidfile=os.path.abspath(os.path.expanduser(node_format(pidfile, node))) if pidfile else None,
        **{name: given[name] for name in ("detach", "uid", "gid", "umask", "executable")},
    )


def _umask(text: str | None) -> int | None:
    try:
        return None if text is None else int(text, 8)
    except ValueError:
        return stop(f"--umask {text!r} is no octal number, such as 022")


class Report:
    """The daemon's word to the process that waits; without one that waits, nothing."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def ready(self, **_: Any) -> None:
        """It runs. The form is that of a signal's receiver."""
        self._say(b"ready %d" % os.getpid())

    def failed(self, code: Any) -> None:
        """It has ended with this exit code."""
        self._say(b"ended %d" % (code if isinstance(code, int) else EXIT_FAILURE))

    def _say(self, text: bytes) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            try:
                os.write(descriptor, text)
            except OSError:
                pass  # Whoever waited has left.
            os.close(descriptor)

    def __enter__(self) -> Report:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: object) -> None:
        if exc is not None:
            self.failed(exc.code if isinstance(exc, SystemExit) else EXIT_FAILURE)


class _Waiting:
    """The parent's side."""

    def __init__(self, what: str, reads: int, writes: int, logfile: str) -> None:
        self._what = what
        self._reads = reads
        self._writes = writes
        self._logfile = logfile
        self._before = 0

    def begin(self) -> None:
        """Remembers where the log ends now."""
        try:
            self._before = os.path.getsize(self._logfile)
        except OSError:
            self._before = 0

    def wait(self) -> int:
        """Waits for the daemon's word; gives the exit code."""
        os.close(self._writes)
        said = self._hear()
        word, _, number = said.decode().partition(" ")
        if word == "ready":
            click.echo(f"The {self._what} runs in the background as process {number}; its log is {self._logfile}")
            code = 0
        elif word == "waiting":
            click.echo(f"The {self._what} is still starting in the background: see its log {self._logfile}", err=True)
            code = 0
        else:
            code = int(number) if number.isdigit() and int(number) else EXIT_FAILURE
            click.echo(
                f"Error: the {self._what} did not start (exit code {code}); its log {self._logfile} says:", err=True
            )
            click.echo(self._log_tail(), err=True)
        sys.stdout.flush()
        return code

    def _hear(self) -> bytes:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self._reads], [], [], left)[0]:
                return os.read(self._reads, 100)
        return b"waiting"

    def _log_tail(self) -> str:
        try:
            with open(self._logfile, "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(self._before, file.tell() - SHOWN_BYTES))
                return file.read().decode(errors="replace").rstrip()
        except OSError as exc:
            return f"(it cannot be read: {exc.strerror})"


def without_detach(arguments: list[str]) -> list[str]:
    """A command line without `-D` and `--detach`."""
    kept: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return kept + arguments[position:]
        if argument == "--detach":
            continue
        # Flags may be written together: -DE.
        if re.fullmatch(r"-[BCDEq]+", argument):
            argument = argument.replace("D", "")
            if argument == "-":
                continue
        kept.append(argument)
    return kept


def _never_detach_again() -> None:
    """A restart (SIGHUP) runs the same command line in the same process."""
    sys.orig_argv[:] = without_detach(sys.orig_argv)
