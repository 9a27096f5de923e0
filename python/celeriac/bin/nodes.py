"""The nodes that `multi` looks after: which there are, with which options, and whether they run."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from celeriac.platforms import Pidfile, process_lives, signals
from celeriac.utils.nodenames import gethostname, host_format, node_format, nodesplit

PIDFILE = "/var/run/celery/%n.pid"
LOGFILE = "/var/log/celery/%n%I.log"
#: How a node is started, after the name of the Python program.
COMMAND = "-m celeriac worker --detach"

_PIDFILE_OPTIONS = ("--pidfile", "-p")
_LOGFILE_OPTIONS = ("--logfile", "-f")


class UsageError(Exception):
    """What was asked for makes no sense; the text says why."""


@dataclass(slots=True)
class CommandLine:
    """Names and options in Celery's form: `-c 3` for all nodes, `-c:1 3` or `-Q:images,mail q` for some.

    The value of a short option follows it; a long one has it after `=`. What follows `--` goes to the workers.
    """

    names: list[str] = field(default_factory=list)
    options: dict[str, str | None] = field(default_factory=dict)
    #: Options of some nodes: key is a name, an index, or a list or range of them.
    some: dict[str, dict[str, str | None]] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)
    signal: int = signal.SIGTERM

    @classmethod
    def parse(cls, arguments: list[str]) -> CommandLine:
        """Reads the arguments that follow the command's name."""
        line = cls()
        left = [argument for argument in arguments if argument]
        while left:
            argument = left.pop(0)
            if argument == "--":
                line.rest = [argument, *left]
                break
            number = _signal_number(argument)
            if number is not None:
                line.signal = number
            elif argument.startswith("--"):
                option, equals, value = argument.partition("=")
                line._add(option, value if equals else None)
            elif argument.startswith("-") and len(argument) > 1:
                follows = bool(left) and not left[0].startswith("-")
                line._add(argument, left.pop(0) if follows else None)
            else:
                line.names.append(argument)
        return line

    def _add(self, option: str, value: str | None) -> None:
        name, colon, where = option.partition(":")
        if colon:
            self.some.setdefault(where, {})[name] = value
        else:
            self.options[name] = value

    def take(self, *names: str, default: str = "") -> str:
        """Removes an option of `multi` itself, and gives its value."""
        for name in names:
            if name in self.options:
                default = self.options.pop(name) or ""
        return default

    def nodes(self) -> list[Node]:
        """The nodes of this command line.

        Raises:
            UsageError: There are none, or options name one that is not among them.
        """
        if not self.names:
            raise UsageError("no node is named: give names, or how many")
        host = self.take("--hostname", "-n", default=gethostname())
        prefix, suffix = self.take("--prefix"), self.take("--suffix") or host
        range_prefix = self.take("--range-prefix") or "celery"
        command, append = self.take("--cmd") or COMMAND, self.take("--append")
        names, counted = self.names, False
        if len(names) == 1 and names[0].isdigit():
            names, counted = [str(number) for number in range(1, int(names[0]) + 1)], True
            prefix = range_prefix
        if slashed := [name for name in names if "/" in name]:
            raise UsageError(f"{slashed[0]!r} is no node name; the value of a long option follows after =")
        some = self._by_name(names, counted)
        made = []
        for name in names:
            full = host_format(name if "@" in name else f"{prefix}{name}@{'' if suffix in _EMPTY else suffix}")
            options = {**self.options, **some.get(name, {}), **some.get(full, {})}
            made.append(Node(full, options, shlex.split(command), [*self.rest, *shlex.split(append)]))
        return made

    def _by_name(self, names: list[str], counted: bool) -> dict[str, dict[str, str | None]]:
        found: dict[str, dict[str, str | None]] = {}
        for key, options in self.some.items():
            for one in _expanded(key, counted):
                found.setdefault(_at_index(one, names, counted), {}).update(options)
        return found


_EMPTY = ('""', "''")


def _expanded(key: str, counted: bool) -> Iterator[str]:
    for part in key.split(","):
        first, dash, last = part.partition("-")
        if counted and dash and first.isdigit() and last.isdigit():
            yield from map(str, range(int(first), int(last) + 1))
        else:
            yield part


def _at_index(key: str, names: list[str], counted: bool) -> str:
    """A number means the node of that place, if it is not the name of one."""
    if not key.isdigit() or counted or key in names:
        return key
    if not 1 <= int(key) <= len(names):
        raise UsageError(f"there is no node number {key}: there are {len(names)}")
    return names[int(key) - 1]


def _signal_number(argument: str) -> int | None:
    """`-9`, `-TERM` or `-SIGTERM`."""
    text = argument.removeprefix("-")
    if text == argument:
        return None
    if text.isdigit():
        return int(text)
    if text.isupper() and len(text) > 2 and signals.supported(text):
        return signals.signum(text)
    return None


class Node:
    """One worker: its name, its command line, its pid file."""

    def __init__(self, name: str, options: dict[str, str | None], command: list[str], rest: list[str]) -> None:
        self.name = name
        self.options = {**options, "-n": name}
        self._command = command
        self._rest = rest
        self._default(_PIDFILE_OPTIONS, PIDFILE)
        self._default(_LOGFILE_OPTIONS, LOGFILE)
        self._default(("--executable",), sys.executable)
        # The supervisor's id: remembered, since a worker that ends removes its file.
        self._pid: int | None = None

    def _default(self, names: tuple[str, ...], value: str) -> None:
        for name in names:
            if self.options.get(name) is not None:
                self.options[name] = os.path.expanduser(self.options[name] or "")
                return
        self.options[names[0]] = value

    def _option(self, names: tuple[str, ...]) -> str:
        return next(value for name in names if (value := self.options.get(name)) is not None)

    def expand(self, template: str) -> str:
        """Replaces the letters: %n and %N short name, %h node name, %d host; %i and %I are left to the worker."""
        short, host = nodesplit(self.name)
        return node_format(template, self.name, N=short or "", d=host, h=self.name, i="%i", I="%I")

    @property
    def argv(self) -> list[str]:
        """The command line without the Python program."""
        arguments = [self.expand(part) for part in self._command]
        for name, value in self.options.items():
            # The pid file is this one's name; worker and beat have no short form of it.
            option = "--pidfile" if name == "-p" else name
            if not value:
                arguments.append(option)
            elif option.startswith("--"):
                arguments.append(f"{option}={self.expand(value)}")
            else:
                arguments += [option, self.expand(value)]
        return arguments + [self.expand(part) for part in self._rest]

    @property
    def command(self) -> list[str]:
        """The whole command line."""
        return [self._option(("--executable",)), *self.argv]

    @property
    def pidfile(self) -> str:
        """Where the worker keeps its process id; relative to its `--workdir`."""
        path = node_format(self.expand(self._option(_PIDFILE_OPTIONS)), self.name)
        return os.path.join(os.path.expanduser(self.options.get("--workdir") or ""), path)

    @property
    def pid(self) -> int | None:
        """The worker's process id, if it runs or did when last asked."""
        if self._pid is None:
            try:
                self._pid = Pidfile(self.pidfile).read_pid()
            except (OSError, ValueError):
                return None
        return self._pid

    def alive(self) -> bool:
        """Whether the worker runs."""
        return self.pid is not None and process_lives(self.pid)

    def send(self, number: int) -> bool:
        """Sends a signal; false when there is nobody to take it."""
        if self.pid is None:
            return False
        try:
            os.kill(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def start(self) -> int:
        """Runs the command, which leaves a daemon behind; gives its exit code.

        Raises:
            UsageError: A folder of its files cannot be made.
        """
        self._pid = None
        folder = os.path.expanduser(self.options.get("--workdir") or "")
        for names in (_PIDFILE_OPTIONS, _LOGFILE_OPTIONS):
            path = os.path.join(folder, self.expand(self._option(names)))
            try:
                os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            except OSError as exc:
                raise UsageError(f"cannot make the folder of {path!r}: {exc.strerror}; see {names[0]}") from exc
        return subprocess.run(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False).returncode  # noqa: S603
