"""`control`: tells workers to change something."""

from __future__ import annotations

from typing import Any

import click

from celeriac.bin.options import Shared, command, friendly_errors
from celeriac.bin.remote import arguments_of, finish, remote_options, show_commands, teller


@command(name="control")
@click.argument("name", metavar="COMMAND", required=False)
@click.argument("arguments", nargs=-1)
@click.option("-l", "--list", "listed", is_flag=True, help="List the commands.")
@remote_options
def main(
    shared: Shared,
    /,
    name: str | None,
    arguments: tuple[str, ...],
    listed: bool,
    timeout: float,
    destination: list[str] | None,
    as_json: bool,
) -> None:
    """Tell workers to change something: COMMAND is rate_limit, pool_grow, shutdown, ... (--list)."""
    # The app may have commands of its own.
    app = shared.load_app()
    if listed:
        return show_commands("control")
    if name is None:
        raise click.UsageError("Missing argument 'COMMAND'. --list shows what there is.")
    named = arguments_of("control", name, arguments)
    callback: Any = None if as_json else teller(shared, show_reply=True)
    with friendly_errors():
        replies = app.control.broadcast(
            name, timeout=timeout, destination=destination, callback=callback, reply=True, arguments=named
        )
        finish(shared, replies, as_json=as_json, counted=False)
    return None
