"""`result`: prints what a task returned, or follows it until it ends."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from celeriac.bin.options import EXIT_FAILURE, Shared, command, friendly_errors, stop

if TYPE_CHECKING:
    from celeriac.result import AsyncResult


@command(name="result")
@click.argument("task_id")
@click.option("-t", "--task", help="Name of the task.")
@click.option("--traceback", is_flag=True, help="Show the traceback instead of the result.")
@click.option("-F", "--follow", is_flag=True, help="Show each state while waiting, and a bar of current and total.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Show state, result and traceback as one JSON object.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), help="Wait for at most so many seconds; for ever unless given."
)
def main(shared: Shared, /, task_id: str, task: str | None, traceback: bool, timeout: float | None, **how: Any) -> None:
    """Show the result of a task, and wait for it if need be."""
    from celeriac.exceptions import TimeoutError as WaitTimeout

    app = shared.load_app()
    with friendly_errors():
        if not app.results_enabled:
            stop("this app keeps no results", "set result_backend, or give --result-backend")
        result: Any = app.AsyncResult(task_id, task_name=task)
        if traceback:
            click.echo(result.traceback or "")
            return
        try:
            if how["follow"]:
                Follower(shared, timeout).follow(result)
            value = result.get(timeout=timeout, propagate=False)
        except (WaitTimeout, TimeoutError):
            stop(f"task {task_id} has no result after {timeout:g} seconds", code=EXIT_FAILURE)
        if how["as_json"]:
            _print_json(result, value)
        elif result.failed():
            stop(f"task {task_id} ended with {type(value).__name__}: {value}", "see --traceback", EXIT_FAILURE)
        else:
            click.echo(value)
        if result.failed():
            raise SystemExit(EXIT_FAILURE)


def _print_json(result: AsyncResult[Any], value: Any) -> None:
    from celeriac._core import json_dumps

    document = {
        "task_id": result.id,
        "status": result.state,
        "result": {"type": type(value).__name__, "message": str(value)} if result.failed() else value,
        "traceback": result.traceback,
    }
    click.echo(json_dumps(document, str).decode())


class Follower:
    """Shows states as they are stored: on a terminal a bar where a state tells its progress, else a line for each."""

    def __init__(self, shared: Shared, timeout: float | None) -> None:
        self._quiet = shared.quiet
        self._timeout = timeout
        self._bar: Any = None

    def follow(self, result: AsyncResult[Any]) -> None:
        """Returns when the task has ended.

        Raises:
            TimeoutError: It did not end in time.
        """
        from celeriac import states

        for now in result.stream(self._timeout):
            if now.ready:
                if self._bar is not None and now.state == states.SUCCESS:
                    # The last progress was overtaken by the end.
                    self._bar.update(self._bar.length - self._bar.pos)
                self._close()
                self._line(now.state)
            else:
                self._show(now.state, now.info)

    def _show(self, state: str, meta: Any) -> None:
        progress = _progress(meta)
        if progress is None:
            self._close()
            self._line(state if not meta else f"{state} {meta}")
        elif not sys.stderr.isatty():
            self._line(" ".join(filter(None, (state, f"{progress[0]:g}/{progress[1]:g}", meta.get("message")))))
        elif not self._quiet:
            self._draw(str(meta.get("message") or state), *progress)

    def _draw(self, label: str, current: float, total: float) -> None:
        if self._bar is None or self._bar.length != int(total):
            self._close()
            self._bar = click.progressbar(length=int(total), label=label, file=sys.stderr)
            self._bar.__enter__()
        self._bar.label = label
        self._bar.update(int(current) - self._bar.pos)

    def _close(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.__exit__(None, None, None)

    def _line(self, text: str) -> None:
        if not self._quiet:
            click.echo(text, err=True)


def _progress(meta: Any) -> tuple[float, float] | None:
    """`current` and `total` of a state, as Celery's documentation names them; `done` for the first does as well."""
    if not isinstance(meta, Mapping):
        return None
    current, total = meta.get("current", meta.get("done")), meta.get("total")
    if isinstance(current, (int, float)) and isinstance(total, (int, float)) and total >= 1:
        return current, total
    return None
