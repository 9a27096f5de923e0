"""`beat`: reads the options, and sends periodic tasks."""

from __future__ import annotations

from typing import Any

import click

from celeriac.bin.detach import daemon_of, daemon_options
from celeriac.bin.options import CommaList, LogLevel, Shared, command, friendly_errors, stop

#: Where a beat logs that runs in the background and was given no `--logfile`.
LOGFILE = "celerybeat.log"


@command(name="beat")
@click.option(
    "-s", "--schedule", help="File of schedulers that keep one; the default one keeps its state in the broker."
)
@click.option("-S", "--scheduler", help="Class of the scheduler, or a short name such as django.")
@click.option("--max-interval", type=click.FloatRange(min=0, min_open=True), help="Seconds between two looks, at most.")
@click.option("-l", "--loglevel", type=LogLevel(), default="WARNING", show_default=True, help="Level of the log.")
@click.option("-f", "--logfile", help="Log to this file instead of standard error.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="json: one object a line.")
@click.option("--pidfile", help="Holds the process id while beat runs.")
@click.option("-I", "--include", type=CommaList(), help="More modules with tasks.")
@click.option("--detach", is_flag=True, help="Run in the background.")
@daemon_options
@click.option("-n", "--hostname", hidden=True)
@click.option("--enable-remote-control/--no-enable-remote-control", "remote_control", default=None, hidden=True)
@click.argument("settings", nargs=-1)
def main(shared: Shared, /, settings: tuple[str, ...], **given: Any) -> None:
    """Send periodic tasks. Any number of beats may run: one of them sends, the others stand by.

    Settings may follow after `--`, as KEY=VALUE.
    """
    if given["remote_control"]:
        stop("beat --enable-remote-control is not in this version of celeriac")
    shared.enter_workdir()
    from celeriac import signals
    from celeriac.app.find_app import import_tasks
    from celeriac.utils.nodenames import default_nodename, host_format
    from celeriac.worker.pidfile import PidFile

    daemon = daemon_of(given, default_nodename(host_format(given["hostname"] or "")), LOGFILE)
    with daemon.begin("beat") as report, friendly_errors():
        signals.beat_init.connect(report.ready, weak=False)
        app = shared.load_app()
        if given["include"]:
            app.conf.include = (*(app.conf.include or ()), *given["include"])
        app.set_current()
        import_tasks(app)
        app.conf.update(_settings(settings))
        beat = app.Beat(
            max_interval=given["max_interval"],
            loglevel=given["loglevel"],
            logfile=daemon.logfile,
            schedule=given["schedule"],
            scheduler=given["scheduler"],
            quiet=shared.quiet,
            no_color=shared.no_color or None,
            log_json=given["log_format"] == "json",
        )
        pidfile = PidFile(daemon.pidfile) if daemon.pidfile else None
        if pidfile is None:
            beat.run()
            return
        pidfile.acquire()
        try:
            beat.run()
        finally:
            pidfile.release()


def _settings(pairs: tuple[str, ...]) -> dict[str, str]:
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            stop(f"unexpected argument {pair!r}", "settings follow after -- as KEY=VALUE")
        settings[key] = value
    return settings
