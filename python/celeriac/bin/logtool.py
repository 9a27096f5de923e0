"""`logtool`: reads log files of workers, and tells what became of the tasks in them."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import click

from celeriac.bin.options import stop

_START = re.compile(r"^\[\d{4}-\d\d-\d\d ")
_RECEIVED = re.compile(r"\] Task ([\w.:<>-]+)\[([^\]\s]+)\] received")
_ENDED = re.compile(r"\] Task ([\w.:<>-]+)\[([^\]\s]+)\] (succeeded|raised|rejected|ignored|retry|refused|failed)")
_DISCARDED = re.compile(r"Discarding revoked task: ([\w.:<>-]+)\[([^\]\s]+)\]")
_LOST = re.compile(
    r"(?:Hard time limit \([^)]*\) exceeded|Task handler raised error: .*) for ([\w.:<>-]+)\[([^\]\s]+)\]"
)

Echo = Callable[[str], None]


@dataclass(slots=True)
class Audit:
    """What the lines say of tasks. Memory grows with the tasks in the files.

    `on_error`, `on_trace` and `on_debug` get lines: of tasks that failed, of tracebacks, of anything but tasks.
    """

    on_error: Echo | None = None
    on_trace: Echo | None = None
    on_debug: Echo | None = None
    names: dict[str, str] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    types: Counter[str] = field(default_factory=Counter)
    _before: str | None = None

    def run(self, lines: Iterable[str]) -> Audit:
        """Reads lines."""
        for line in lines:
            self.feed(line.rstrip("\n"))
        return self

    def feed(self, line: str) -> None:
        """Reads one line."""
        if not _START.match(line):
            if self.on_trace:
                self.on_trace(line if self._before is None else f"{self._before}\n{line}")
            self._before = None
            return
        self._before = line
        if match := _RECEIVED.search(line):
            name, task_id = match.groups()
            if task_id not in self.names:
                self.types[name] += 1
            self.names[task_id] = name
        elif match := _ENDED.search(line):
            _, task_id, how = match.groups()
            if how != "retry":
                self._end(task_id, line, failed=how not in ("succeeded", "ignored"))
        elif match := _LOST.search(line):
            self._end(match.group(2), line, failed=True)
        elif match := _DISCARDED.search(line):
            self._end(match.group(2), line, failed=False)
        elif self.on_debug:
            self.on_debug(line)

    def _end(self, task_id: str, line: str, *, failed: bool) -> None:
        self.ended.add(task_id)
        if failed:
            self.failed.add(task_id)
            if self.on_error:
                self.on_error(line)

    def incomplete(self) -> list[str]:
        """Ids of tasks that were received and have not ended."""
        return [task_id for task_id in self.names if task_id not in self.ended]

    def report(self) -> str:
        """Counts."""
        types = "\n".join(f"{name}: {count}" for name, count in self.types.most_common())
        return (
            f"Report\n======\nTask total: {len(self.names)}\nTask errors: {len(self.failed)}\n"
            f"Task success: {len(self.ended - self.failed)}\nTask completed: {len(self.ended)}\n\nTasks\n=====\n{types}"
        )


def _lines(files: tuple[str, ...]) -> Iterable[str]:
    for name in files or ("-",):
        if name == "-":
            yield from sys.stdin
            continue
        try:
            with open(name, errors="replace") as file:
                yield from file
        except OSError as exc:
            stop(f"{name!r} cannot be read: {exc.strerror}")


@click.group(name="logtool", context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Count and find tasks in log files of workers (level INFO, the format of the settings' default).

    Without a file, standard input is read.
    """


def _files(function: Callable[[tuple[str, ...]], None]) -> None:
    main.command(name=function.__name__, help=function.__doc__)(click.argument("files", nargs=-1)(function))


@_files
def stats(files: tuple[str, ...]) -> None:
    """Count tasks, by name and by how they ended."""
    click.echo(Audit().run(_lines(files)).report())


@_files
def traces(files: tuple[str, ...]) -> None:
    """Show tracebacks and other lines that belong to the line before."""
    Audit(on_trace=click.echo).run(_lines(files))


@_files
def errors(files: tuple[str, ...]) -> None:
    """Show the lines of tasks that failed."""
    Audit(on_error=click.echo).run(_lines(files))


@_files
def incomplete(files: tuple[str, ...]) -> None:
    """List tasks that were received and did not end."""
    for task_id in Audit().run(_lines(files)).incomplete():
        click.echo(f"Did not complete: {task_id}")


@_files
def debug(files: tuple[str, ...]) -> None:
    """Show the lines that are not about tasks."""
    Audit(on_debug=click.echo).run(_lines(files))
