"""`call`: sends a task by name, and prints its id."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from celeriac.bin.options import JsonValue, ParamType, Shared, command, friendly_errors, stop


class Moment(ParamType):
    """An ISO 8601 moment."""

    name = "iso8601"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not an ISO 8601 moment, such as 2030-01-02T03:04:05+00:00", param, ctx)


class Expiry(Moment):
    """Seconds from now, or an ISO 8601 moment."""

    name = "seconds or iso8601"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return float(value)
        except (TypeError, ValueError):
            return super().convert(value, param, ctx)


@command(name="call")
@click.argument("name")
@click.option("-a", "--args", type=JsonValue(list), default="[]", help="Positional arguments, a JSON array.")
@click.option("-k", "--kwargs", type=JsonValue(dict), default="{}", help="Keyword arguments, a JSON object.")
@click.option("--eta", type=Moment(), help="When to run it.")
@click.option("--countdown", type=float, help="In how many seconds to run it.")
@click.option("--expires", type=Expiry(), help="After when not to run it any more.")
@click.option("--serializer", help="Serializer of the message.")
@click.option("--queue", help="Queue to send it to.")
@click.option("--exchange", help="Exchange to send it to.")
@click.option("--routing-key", help="Routing key to send it with.")
def main(shared: Shared, /, name: str, args: list[Any], kwargs: dict[str, Any], **options: Any) -> None:
    """Call a task by NAME, and print its id."""
    from celeriac.exceptions import EncodeError, SerializerNotInstalled

    app = shared.load_app()
    given = {key: value for key, value in options.items() if value is not None}
    with friendly_errors():
        try:
            result = app.send_task(name, args, kwargs, **given)
        except (EncodeError, SerializerNotInstalled, ValueError) as exc:
            stop(str(exc))
    click.echo(result.id)
