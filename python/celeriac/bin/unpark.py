"""`unpark`: gives tasks that wait for their time back to the queues."""

from __future__ import annotations

import click

from celeriac.bin.options import CommaList, Shared, command, friendly_errors


@command(name="unpark")
@click.option("-Q", "--queues", type=CommaList(), help="These queues only.")
@click.option("-X", "--exclude-queues", type=CommaList(), help="All but these queues.")
def main(shared: Shared, /, queues: list[str] | None, exclude_queues: list[str] | None) -> None:
    """Move tasks that wait for their time from celeriac's keeping back to the queues.

    For the way back to Celery: stop the workers of celeriac, run this, start those of Celery. They hold the tasks
    until they are due.
    """
    from celeriac.app.options import consumed_queues

    app = shared.load_app()
    with friendly_errors():
        names = consumed_queues(app, queues, exclude_queues or ())
        count = sum(app.client.unpark(name) for name in names)
    click.echo(f"Moved {count} tasks back to {len(names)} queue{'s' if len(names) != 1 else ''}.")
