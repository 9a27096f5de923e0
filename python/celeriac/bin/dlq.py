"""`dlq`: dead letters: lists, shows, retries, drops and exports them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from celeriac.bin.options import EXIT_FAILURE, Shared, friendly_errors, shared_options, stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celeriac.app.base import Celery
    from celeriac.app.dead_letters import DeadLetter

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: Kinds of letters that are told of before they are changed.
_SHOWN = 10


@click.group(name="dlq")
@shared_options
def main() -> None:
    """Show and change dead letters: messages that will not be tried again, kept with the reason."""


class _Moment(click.ParamType[datetime]):
    """`30m`, `2h`, `7d` ago, or a moment in ISO 8601 (UTC unless it says otherwise)."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        text = str(value)
        try:
            if text[-1:] in _UNITS:
                return datetime.now(UTC) - timedelta(seconds=float(text[:-1]) * _UNITS[text[-1]])
            moment = datetime.fromisoformat(text)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        except ValueError:
            self.fail(f"{text!r} is no moment: give 30m, 2h or 7d (ago), or 2026-01-31T12:00", param, ctx)


def _filters(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("-Q", "--queue", help="From this queue only."),
        click.option("-r", "--reason", help="For this reason only: failed, crashed, rejected, malformed, ..."),
        click.option("-T", "--task", help="Of this task only."),
        click.option("--since", type=_Moment(), help="Died at that moment or later: 2h (ago), or in ISO 8601."),
        click.option("--until", type=_Moment(), help="Died before that moment: 7d (ago), or in ISO 8601."),
    ):
        function = option(function)
    return function


def _given(**filters: Any) -> dict[str, Any]:
    return {name: value for name, value in filters.items() if value is not None}


def _app(ctx: click.Context) -> Celery:
    return ctx.ensure_object(Shared).load_app()


@contextmanager
def _errors() -> Iterator[None]:
    with friendly_errors():
        try:
            yield
        except KeyError as exc:
            stop(str(exc.args[0]), code=EXIT_FAILURE)
        except ValueError as exc:
            stop(str(exc))


@main.command(name="list")
@_filters
@click.option("-n", "--limit", type=int, default=100, show_default=True, help="So many at the most.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@shared_options
@click.pass_context
def list_(ctx: click.Context, /, limit: int, as_json: bool, **filters: Any) -> None:
    """List dead letters, the oldest first."""
    app = _app(ctx)
    with _errors():
        letters, stats = app.dead_letters.list(**_given(**filters), limit=limit), app.dead_letters.stats()
    if as_json:
        click.echo(json.dumps([letter.as_dict() for letter in letters], indent=2, default=str))
        return
    for letter in letters:
        name = letter.task or "(unreadable)"
        click.echo(f"{letter.id}  {_time(letter.died_at)}  {letter.queue}  {letter.reason}  {name}[{letter.task_id}]")
        click.echo(f"    {_first_line(letter.error)}")
    shown = ctx.ensure_object(Shared)
    oldest = "" if stats.oldest is None else f", the oldest of {_time(stats.oldest)}"
    shown.error(f"{len(letters)} shown of {stats.count} dead letters{oldest}.")


@main.command()
@click.argument("id", type=int)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@shared_options
@click.pass_context
def show(ctx: click.Context, id: int, as_json: bool) -> None:
    """Show one dead letter, with its traceback and its message."""
    app = _app(ctx)
    with _errors():
        letter = app.dead_letters.get(id)
    if as_json:
        click.echo(json.dumps(letter.as_dict(), indent=2, default=str))
        return
    args, kwargs = letter.arguments
    rows = {
        "task": f"{letter.task}[{letter.task_id}]",
        "args": args,
        "kwargs": kwargs,
        "queue": letter.queue,
        "reason": letter.reason,
        "error": letter.error,
        "tries": letter.attempts,
        "crashes": letter.crashes,
        "died": _time(letter.died_at),
    }
    for name, value in rows.items():
        click.echo(f"{name + ':':9}{value}")
    if letter.traceback:
        click.echo(f"\n{letter.traceback.rstrip()}")
    click.echo(f"\nheaders: {json.dumps(letter.headers, default=str)}")
    click.echo(f"body:    {letter.body.decode(errors='replace')}")


def _change(name: str, text: str, doing: str, done: str, more: Iterable[Callable[..., Any]] = ()) -> None:
    @main.command(name=name, help=text)
    @click.argument("ids", nargs=-1, type=int)
    @_filters
    @click.option("--all", "everything", is_flag=True, help="All of them, without a filter.")
    @click.option("-y", "--yes", is_flag=True, help="Do not ask.")
    @shared_options
    @click.pass_context
    def change(
        ctx: click.Context,
        /,
        ids: tuple[int, ...],
        everything: bool,
        yes: bool,
        to_queue: str | None = None,
        **filters: Any,
    ) -> None:
        given = _given(**filters)
        if not (ids or given or everything):
            stop("which dead letters?", "give numbers, a filter (--queue, --reason, --task, --since, --until) or --all")
        app = _app(ctx)
        with _errors():
            letters = app.dead_letters.list(**given, ids=ids or None, limit=1_000_000)
            _tell(ctx.ensure_object(Shared), letters, doing)
            if not letters:
                return
            if not yes:
                click.confirm(f"{doing} {_number(len(letters))}?", abort=True, err=True)
            # Those that were shown, and none that came since.
            which = [letter.id for letter in letters]
            options = _given(to_queue=to_queue)
            count = getattr(app.dead_letters, name)(which, **options)
        click.echo(f"{done} {_number(count)}.")
        if count < len(letters):
            ctx.ensure_object(Shared).error("The others are gone, or cannot be sent again (see their reason).")

    for option in more:
        option(change)


_change(
    "retry",
    "Send the messages again, with their count of retries at 0, and remove them here.",
    "Retry",
    "Retried",
    [click.option("--to-queue", help="To this queue instead of the one they were in.")],
)
_change("drop", "Remove dead letters. This cannot be undone.", "Drop", "Dropped")


@main.command()
@_filters
@click.option("-o", "--output", type=click.File("w"), default="-", help="To this file.")
@shared_options
@click.pass_context
def export(ctx: click.Context, /, output: Any, **filters: Any) -> None:
    """Write dead letters as JSON, one in a line, with the exact message. They stay."""
    app = _app(ctx)
    with _errors():
        count = app.dead_letters.export(output, **_given(**filters))
    ctx.ensure_object(Shared).error(f"{_number(count)} written.")


def _tell(shared: Shared, letters: list[DeadLetter], doing: str) -> None:
    """How many of which kind, before anything is done to them."""
    if not letters:
        shared.error(f"There is nothing to {doing.lower()}.")
        return
    kinds = Counter((letter.queue, letter.reason, letter.task or "(unreadable)") for letter in letters)
    for (queue, reason, task), count in kinds.most_common(_SHOWN):
        shared.error(f"{count:6}  {queue}  {reason}  {task}")
    if len(kinds) > _SHOWN:
        shared.error(f"        and {len(kinds) - _SHOWN} other kinds")


def _number(count: int) -> str:
    return f"{count} dead letter{'' if count == 1 else 's'}"


def _time(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="seconds")


def _first_line(text: str) -> str:
    line = text.split("\n", 1)[0]
    return line if len(line) <= 200 else line[:197] + "..."
