"""`events`: shows what workers tell: as lines, on a screen, or to a camera."""

from __future__ import annotations

import sys

import click

from celeriac.bin.options import LogLevel, Shared, command, friendly_errors, stop


@command(name="events")
@click.option("-d", "--dump", is_flag=True, help="Print each event as a line.")
@click.option("-c", "--camera", help="Take snapshots with this class: module:Class.")
@click.option(
    "-F", "--frequency", "--freq", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True
)
@click.option("-r", "--maxrate", help="Snapshots at the most: 10/m.")
@click.option("-l", "--loglevel", type=LogLevel(), default="WARNING", show_default=True, help="Level of the log.")
@click.option("-f", "--logfile", help="Log to this file instead of standard error.")
@click.option("--detach", is_flag=True, hidden=True)
def main(
    shared: Shared,
    dump: bool,
    camera: str | None,
    frequency: float,
    maxrate: str | None,
    loglevel: int,
    logfile: str | None,
    detach: bool,
) -> None:
    """Show what workers tell: their heartbeats, and their tasks when they run with -E.

    Without --dump and --camera: a screen with workers and tasks.
    """
    if detach:
        stop("--detach is not in this version of celeriac", "let a service manager run it")
    app = shared.load_app()
    with friendly_errors():
        if dump:
            from celeriac.events.dumper import evdump

            shared.error("Workers tell of tasks with -E, or after `control enable_events`.")
            return evdump(app)
        if camera:
            from celeriac.events.snapshot import evcam

            return evcam(camera, freq=frequency, maxrate=maxrate, loglevel=loglevel, logfile=logfile, app=app)
        if not sys.stdout.isatty():
            stop("the screen needs a terminal", "use --dump for lines")
        from celeriac.events.cursesmon import evtop

        return evtop(app)
