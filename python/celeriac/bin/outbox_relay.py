"""`outbox-relay`: reads the options, and sends what is in an outbox."""

from __future__ import annotations

import signal
from typing import Any

import click

from celeriac.bin.options import LogLevel, Shared, command, friendly_errors, stop


@command(name="outbox-relay")
@click.option("--url", help="The database, as SQLAlchemy takes it; the setting outbox_url unless given.")
@click.option("--create-table", is_flag=True, help="Make the table first, unless it is there.")
@click.option("--once", is_flag=True, help="Send what is there, and end.")
@click.option("-l", "--loglevel", type=LogLevel(), default="WARNING", show_default=True, help="Level of the log.")
@click.option("-f", "--logfile", help="Log to this file instead of standard error.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="json: one object a line.")
def main(shared: Shared, /, **given: Any) -> None:
    """Send what transactions have left in an outbox (celeriac.outbox). Any number of relays may run."""
    shared.enter_workdir()
    with friendly_errors():
        app = shared.load_app()
        url = given["url"] or app.conf.outbox_url
        if not url:
            stop("no database is named", "name one: --url postgresql+psycopg://..., or the setting outbox_url")
        from celeriac.app import log
        from celeriac.app.outbox.relay import Relay

        log.setup(
            log.LogOptions.from_conf(
                app.conf,
                level=given["loglevel"],
                logfile=given["logfile"],
                as_json=given["log_format"] == "json" or None,
                colorize=False if shared.no_color else None,
            )
        )
        relay = Relay.of_url(app, url)
        if given["create_table"]:
            relay.create_table()
        if given["once"]:
            click.echo(f"{relay.drain()} sent")
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, relay.stop)
        relay.run()
