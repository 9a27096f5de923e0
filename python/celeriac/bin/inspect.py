"""`inspect`: asks workers."""

from __future__ import annotations

from typing import Any

import click

from celeriac.bin.options import Shared, command, friendly_errors
from celeriac.bin.remote import arguments_of, finish, remote_options, show_commands, teller


@command(name="inspect")
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
    """Ask workers something: COMMAND is ping, active, stats, ... (--list)."""
    # The app may have commands of its own.
    app = shared.load_app()
    if listed:
        return show_commands("inspect")
    if name is None:
        raise click.UsageError("Missing argument 'COMMAND'. --list shows what there is.")
    named = arguments_of("inspect", name, arguments)
    callback: Any = None if as_json else teller(shared, show_reply=True)
    with friendly_errors():
        inspect = app.control.inspect(timeout=timeout, destination=destination, callback=callback)
        finish(shared, inspect._request(name, **named), as_json=as_json)
    return None
