"""`purge`: deletes waiting messages."""

from __future__ import annotations

import click

from celeriac.bin.options import CommaList, Shared, command, friendly_errors, progress_bar

#: From so many queues on, a bar shows how far it is.
MANY = 10


@command(name="purge")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-Q", "--queues", type=CommaList(), help="These queues only.")
@click.option("-X", "--exclude-queues", type=CommaList(), help="All but these queues.")
def main(shared: Shared, /, force: bool, queues: list[str] | None, exclude_queues: list[str] | None) -> None:
    """Delete all waiting messages of the app's queues. This cannot be undone."""
    from celeriac.app.options import consumed_queues

    app = shared.load_app()
    with friendly_errors():
        names = consumed_queues(app, queues, exclude_queues or ())
        if not force:
            click.confirm(f"Delete all waiting messages of {', '.join(names)}?", abort=True, err=True)
        count = 0
        with progress_bar(len(names), "Purging", hidden=shared.quiet or len(names) < MANY) as advance:
            for name in names:
                count += app.client.purge(name)
                advance(1)
    if count:
        click.echo(f"Purged {count} messages from {len(names)} queue{'s' if len(names) != 1 else ''}.")
    else:
        click.echo("No messages purged.")
