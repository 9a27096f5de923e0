"""`list`: the queues of the broker, and what waits in them."""

from __future__ import annotations

import json

import click

from celeriac.bin.options import Shared, command, friendly_errors

_COLUMNS = ("name", "ready", "claimed", "parked", "dead")


@command(name="list")
@click.argument("what", type=click.Choice(["queues", "bindings"]), default="queues")
@click.option("-j", "--json", "as_json", is_flag=True, help="One JSON array.")
def main(shared: Shared, /, what: str, as_json: bool) -> None:
    """List the broker's queues: messages ready, claimed by workers, parked for later, and dead."""
    app = shared.load_app()
    with friendly_errors():
        queues = app.client.queues()
    if as_json:
        click.echo(json.dumps(queues))
        return
    if not queues:
        shared.error("There is no queue yet.")
        return
    width = max(len(queue["name"]) for queue in queues)
    click.echo(f"{'queue':<{width}}  " + "  ".join(f"{column:>8}" for column in _COLUMNS[1:]))
    for queue in queues:
        click.echo(f"{queue['name']:<{width}}  " + "  ".join(f"{queue.get(column, 0):>8}" for column in _COLUMNS[1:]))
