"""`list`: the queues of the broker and what waits in them; the bindings of the app."""

from __future__ import annotations

import json
from typing import Any

import click

from celeriac.bin.options import Shared, command, friendly_errors

_COLUMNS = ("name", "ready", "claimed", "parked", "dead")


@command(name="list")
@click.argument("what", type=click.Choice(["queues", "bindings"]), default="queues")
@click.option("-j", "--json", "as_json", is_flag=True, help="One JSON array.")
def main(shared: Shared, /, what: str, as_json: bool) -> None:
    """List the broker's queues: messages ready, claimed by workers, parked for later, and dead; or the app's bindings.

    Bindings are those of the app's settings. What other programs have bound at a RabbitMQ server, its own tool tells:
    rabbitmqctl list_bindings.
    """
    app = shared.load_app()
    with friendly_errors():
        if what == "bindings":
            _show_bindings(_bindings(app.router.queues.topology()), as_json)
            return
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


def _bindings(topology: dict[str, Any]) -> list[dict[str, str]]:
    rows = []
    for name, queue in sorted(topology["queues"].items()):
        more = queue.get("bindings") or ()
        for one in more or (queue,):
            exchange = (one.get("exchange") or {}).get("name") or ""
            rows.append({"queue": name, "exchange": exchange, "routing_key": one.get("routing_key") or ""})
    return rows


def _show_bindings(rows: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows))
        return
    click.echo(f"{'Queue':<28} {'Exchange':<28} Routing Key")
    for row in rows:
        click.echo(f"{row['queue']:<28} {row['exchange']:<28} {row['routing_key']}")
