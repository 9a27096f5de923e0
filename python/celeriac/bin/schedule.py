"""`schedule`: periodic tasks of running beats: lists, adds, pauses, resumes, runs and removes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from celeriac.bin.options import EXIT_FAILURE, JsonValue, Shared, friendly_errors, shared_options, stop

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.periodic import PeriodicTask


@click.group(name="schedule")
@shared_options
def main() -> None:
    """Show and change periodic tasks while beats run. They notice within a second or so."""


def _app(ctx: click.Context) -> Celery:
    from celeriac.app.find_app import import_tasks

    app = ctx.ensure_object(Shared).load_app()
    app.set_current()
    with friendly_errors():
        import_tasks(app)
    return app


@contextmanager
def _known() -> Iterator[None]:
    with friendly_errors():
        try:
            yield
        except KeyError as exc:
            stop(str(exc.args[0]), code=EXIT_FAILURE)
        except (TypeError, ValueError) as exc:
            stop(str(exc))


@main.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@shared_options
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List all periodic tasks."""
    app = _app(ctx)
    with _known():
        tasks, holder = app.schedules.list(), app.schedules.holder()
    if as_json:
        click.echo(json.dumps({"holder": holder, "tasks": [_plain(task) for task in tasks]}, indent=2))
        return
    for task in tasks:
        state = "removed" if task.removed else "paused" if task.paused else f"next {_time(task.next_run_at)}"
        click.echo(f"{task.name}: {task.task} {task.schedule!r}")
        click.echo(f"    {state}, last {_time(task.last_run_at)}, sent {task.total_run_count} times, {task.source}")
    if not tasks:
        click.echo("There are no periodic tasks.", err=True)
    if holder:
        click.echo(f"Held by {holder}.", err=True)


def _time(moment: Any) -> str:
    return "never" if moment is None else moment.isoformat(sep=" ", timespec="seconds")


def _plain(task: PeriodicTask) -> dict[str, Any]:
    return {
        "name": task.name,
        "task": task.task,
        "schedule": repr(task.schedule),
        "source": task.source,
        "paused": task.paused,
        "removed": task.removed,
        "last_run_at": None if task.last_run_at is None else task.last_run_at.isoformat(),
        "next_run_at": None if task.next_run_at is None else task.next_run_at.isoformat(),
        "total_run_count": task.total_run_count,
    }


@main.command()
@click.argument("name")
@click.argument("task")
@click.option("--every", type=click.FloatRange(min=0, min_open=True), help="Seconds between two runs.")
@click.option("--cron", help="A crontab's line: 'minute hour day-of-month month day-of-week'.")
@click.option("-a", "--args", "arguments", type=JsonValue(list), default="[]", help="Positional arguments, as JSON.")
@click.option("-k", "--kwargs", type=JsonValue(dict), default="{}", help="Keyword arguments, as JSON.")
@click.option("--options", type=JsonValue(dict), default="{}", help="Options of apply_async, as JSON.")
@shared_options
@click.pass_context
def add(
    ctx: click.Context,
    name: str,
    task: str,
    every: float | None,
    cron: str | None,
    arguments: list[Any],
    kwargs: dict[str, Any],
    options: dict[str, Any],
) -> None:
    """Add a periodic task, or replace the one of that name."""
    from celeriac.schedules import ParseException, crontab

    if (every is None) == (cron is None):
        stop("when is it to run?", "give either --every SECONDS or --cron 'M H DOM MOY DOW'")
    app = _app(ctx)
    with _known():
        try:
            when: Any = every if cron is None else crontab.from_string(" ".join(cron.split()))
        except ParseException as exc:
            stop(f"--cron {cron!r}: {exc}")
        app.schedules.add(name, when, task, arguments, kwargs, options)
    ctx.ensure_object(Shared).error(f"{name} is added.")


def _change(name: str, text: str, done: str) -> Callable[..., None]:
    @main.command(name=name, help=text)
    @click.argument("names", nargs=-1, required=True)
    @shared_options
    @click.pass_context
    def change(ctx: click.Context, names: tuple[str, ...]) -> None:
        app = _app(ctx)
        for entry in names:
            with _known():
                getattr(app.schedules, name)(entry)
            ctx.ensure_object(Shared).error(f"{entry} is {done}.")

    return change


_change("pause", "Stop sending periodic tasks until they are resumed.", "paused")
_change("resume", "Go on with periodic tasks; what they missed is not made up.", "resumed")
_change("remove", "Take periodic tasks out; those of the settings until they are resumed.", "removed")


@main.command()
@click.argument("name")
@shared_options
@click.pass_context
def run(ctx: click.Context, name: str) -> None:
    """Send a periodic task now, and print its id."""
    app = _app(ctx)
    with _known():
        click.echo(app.schedules.run_now(name).id)
