"""`result`: prints what a task returned."""

from __future__ import annotations

from typing import Any

import click

from celeriac.bin.options import EXIT_FAILURE, Shared, command, friendly_errors, stop


@command(name="result")
@click.argument("task_id")
@click.option("-t", "--task", help="Name of the task.")
@click.option("--traceback", is_flag=True, help="Show the traceback instead of the result.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), help="Wait for at most so many seconds; for ever unless given."
)
def main(shared: Shared, /, task_id: str, task: str | None, traceback: bool, timeout: float | None) -> None:
    """Show the result of a task, and wait for it if need be."""
    app = shared.load_app()
    with friendly_errors():
        if not app.results_enabled:
            stop("this app keeps no results", "set result_backend, or give --result-backend")
        result: Any = app.AsyncResult(task_id, task_name=task)
        if traceback:
            click.echo(result.traceback or "")
            return
        from celeriac.exceptions import TimeoutError as WaitTimeout

        try:
            value = result.get(timeout=timeout, propagate=False)
        except (WaitTimeout, TimeoutError):
            stop(f"task {task_id} has no result after {timeout:g} seconds", code=EXIT_FAILURE)
        if result.failed():
            stop(f"task {task_id} ended with {type(value).__name__}: {value}", "see --traceback", EXIT_FAILURE)
        click.echo(value)
