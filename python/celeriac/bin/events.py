"""`events`: shows what workers tell: as lines, on a screen, or to a camera."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

import click

from celeriac.bin.detach import daemon_of, daemon_options
from celeriac.bin.options import LogLevel, Shared, command, friendly_errors, stop

#: Where a camera logs that runs in the background and was given no `--logfile`.
LOGFILE = "celeryev.log"


@command(name="events")
@click.option("-d", "--dump", is_flag=True, help="Print each event as a line.")
@click.option("-c", "--camera", help="Take snapshots with this class: module:Class.")
@click.option(
    "-F", "--frequency", "--freq", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True
)
@click.option("-r", "--maxrate", help="Snapshots at the most: 10/m.")
@click.option("-l", "--loglevel", type=LogLevel(), default="WARNING", show_default=True, help="Level of the log.")
@click.option("-f", "--logfile", help="Log to this file instead of standard error.")
@click.option("--pidfile", help="With --camera: holds the process id while it runs.")
@click.option("--detach", is_flag=True, help="With --camera: run in the background.")
@daemon_options
@click.argument("action", required=False, type=click.Choice(["bind"]))
def main(
    shared: Shared,
    dump: bool,
    camera: str | None,
    frequency: float,
    maxrate: str | None,
    action: str | None,
    **given: Any,
) -> None:
    """Show what workers tell: their heartbeats, and their tasks when they run with -E.

    Without --dump and --camera: a screen with workers and tasks. `events bind` is about events between services: it binds
    this service's queue as its handlers want, and ends. For deploys.
    """
    if action == "bind":
        return _bind(shared)
    if given["detach"] and not camera:
        stop("--detach goes with --camera", "a screen and lines need somebody who looks at them")
    if camera:
        return _take_pictures(shared, camera, {"freq": frequency, "maxrate": maxrate}, given)
    app = shared.load_app()
    with friendly_errors():
        if dump:
            from celeriac.events.dumper import evdump

            shared.error("Workers tell of tasks with -E, or after `control enable_events`.")
            return evdump(app)
        if not sys.stdout.isatty():
            stop("the screen needs a terminal", "use --dump for lines")
        from celeriac.events.cursesmon import evtop

        return evtop(app)


def _bind(shared: Shared) -> None:
    app = shared.load_app()
    with friendly_errors():
        app.import_default_modules()
        patterns = app.bind_events()
        click.echo(f"bound: {', '.join(patterns)}" if patterns else "no handlers: nothing is bound any more")


def _take_pictures(shared: Shared, camera: str, how: dict[str, Any], given: dict[str, Any]) -> None:
    shared.enter_workdir()
    from celeriac.utils.nodenames import default_nodename

    daemon = daemon_of(given, default_nodename(None), LOGFILE)
    with daemon.begin("camera") as report, friendly_errors(), ExitStack() as stack:
        app = shared.load_app()
        if daemon.pidfile:
            from celeriac.worker.pidfile import PidFile

            stack.enter_context(PidFile(daemon.pidfile))
        from celeriac.events.snapshot import evcam
        from celeriac.utils.imports import symbol_by_name

        try:
            kind = symbol_by_name(camera)
        except (ImportError, AttributeError, ValueError) as exc:
            stop(f"there is no camera {camera!r}: {exc}", "name a class: module:Class")
        report.ready()
        evcam(kind, **how, loglevel=given["loglevel"], logfile=daemon.logfile, app=app)
