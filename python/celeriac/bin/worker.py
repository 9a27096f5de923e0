"""`worker`: reads the options, and runs a worker."""

from __future__ import annotations

from typing import Any

import click

from celeriac.bin.detach import daemon_of, daemon_options, logfile_of
from celeriac.bin.options import CommaList, LogLevel, ParamType, Shared, command, friendly_errors, stop

#: Option -> setting that it overrides.
_SETTINGS = {
    "concurrency": "worker_concurrency",
    "task_events": "worker_send_task_events",
    "health_address": "worker_health_address",
    "time_limit": "task_time_limit",
    "soft_time_limit": "task_soft_time_limit",
    "prefetch_multiplier": "worker_prefetch_multiplier",
    "disable_prefetch": "worker_disable_prefetch",
    "max_tasks_per_child": "worker_max_tasks_per_child",
    "max_memory_per_child": "worker_max_memory_per_child",
    "statedb": "worker_state_db",
    "outbox": "outbox_url",
}


class Concurrency(ParamType):
    """A number of processes, or `auto`."""

    name = "number or auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "auto" or (str(value).isdigit() and int(value) > 0):
            return value if value == "auto" else int(value)
        return self.fail(f"{value!r} is neither a number above 0 nor 'auto'", param, ctx)


class Autoscale(ParamType):
    """MAX,MIN; MIN is 1 unless given."""

    name = "max,min"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        maximum, _, minimum = str(value).partition(",")
        try:
            bounds = int(maximum), int(minimum or 1)
        except ValueError:
            return self.fail(f"{value!r} is not MAX,MIN", param, ctx)
        # Celery's 0: there is always one that hears of work.
        bounds = bounds[0], max(bounds[1], 1)
        return bounds if bounds[0] >= bounds[1] else self.fail(f"{value!r}: MAX is less than MIN", param, ctx)


@command(name="worker", context_settings={"ignore_unknown_options": False})
@click.option("-n", "--hostname", help="Node name: NAME@HOST; %h host, %n name, %d domain.")
@click.option(
    "-c", "--concurrency", type=Concurrency(), help="Processes, or slots in each; the number of CPUs unless given."
)
@click.option("-P", "--pool", help="prefork (default), threads, asyncio, gevent or solo.")
@click.option(
    "--processes", type=click.IntRange(min=1), help="Processes of threads, asyncio or gevent; -c is for each."
)
@click.option("-Q", "--queues", type=CommaList(), help="Consume from these queues only.")
@click.option("-X", "--exclude-queues", type=CommaList(), help="Consume from all but these queues.")
@click.option("-E", "--task-events", "--events", is_flag=True, default=None, help="Send events for monitors.")
@click.option("-O", "--optimization", type=click.Choice(["default", "fair"]), help="fair is what there is.")
@click.option("-l", "--loglevel", type=LogLevel(), default="WARNING", show_default=True, help="Level of the log.")
@click.option("-f", "--logfile", help="Log to this file instead of standard error.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="json: one object a line.")
@click.option("--pidfile", help="Holds the process id while the worker runs.")
@click.option("-I", "--include", type=CommaList(), help="More modules with tasks.")
@click.option("--time-limit", type=click.FloatRange(min=0, min_open=True), help="Hard time limit in seconds.")
@click.option("--soft-time-limit", type=click.FloatRange(min=0, min_open=True), help="Soft time limit in seconds.")
@click.option("--prefetch-multiplier", type=click.IntRange(min=0), help="Messages to hold for each process.")
@click.option("--disable-prefetch", is_flag=True, default=None, help="Take a message only for a free process.")
@click.option("--max-tasks-per-child", type=click.IntRange(min=1), help="Replace a process after so many tasks.")
@click.option("--max-memory-per-child", type=click.IntRange(min=1), help="Replace a process above so many KiB.")
@click.option("--purge", "--discard", is_flag=True, help="Delete all waiting messages first.")
@click.option("--without-gossip", is_flag=True, help="Accepted: there is no gossip to switch off.")
@click.option("--without-mingle", is_flag=True, help="Do not ask others for revoked tasks.")
@click.option("--without-heartbeat", is_flag=True, help="Do not tell monitors that the worker lives.")
@click.option(
    "--heartbeat-interval",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds between heartbeat events; 2 unless given.",
)
@click.option("--health-address", help="Answer /live, /ready and /metrics on HOST:PORT, or on a local PORT.")
@click.option("-B", "--beat", is_flag=True, help="Send periodic tasks too: a beat in a process of its own.")
@click.option("-s", "--schedule-filename", "--schedule", "schedule", help="With -B: as of beat.")
@click.option("--scheduler", help="With -B: as of beat.")
@click.option("--outbox", help="Send the outbox of this database too (SQLAlchemy's URL), in a process of its own.")
@click.option("--autoscale", type=Autoscale(), help="MAX,MIN: as many processes or slots as there is work for.")
@click.option("-D", "--detach", is_flag=True, help="Run in the background.")
@daemon_options
@click.option("-S", "--statedb", help="Keep revoked tasks in this file.")
@click.option("--pool-start-method", type=click.Choice(["fork", "spawn"]), hidden=True)
@click.argument("settings", nargs=-1)
def main(shared: Shared, /, settings: tuple[str, ...], **given: Any) -> None:
    """Start a worker. Settings may follow after `--`, as KEY=VALUE."""
    _refuse_later(given)
    if shared.loader:
        stop("custom loaders (--loader) are not in this version of celeriac")
    shared.enter_workdir()
    from celeriac import signals
    from celeriac.utils.nodenames import default_nodename, host_format
    from celeriac.worker import process
    from celeriac.worker.setup import Setup

    setup = Setup(
        app=shared.app,
        node=default_nodename(host_format(given["hostname"] or "")),
        workdir=shared.workdir,
        config=shared.config,
        broker=shared.broker,
        result_backend=shared.result_backend,
        include=tuple(given["include"] or ()),
        settings=_settings(settings, given),
        log=_log(shared, given),
    )
    daemon = daemon_of(given, setup.node)
    with daemon.begin("worker") as report, friendly_errors():
        signals.worker_ready.connect(report.ready, weak=False)
        app = setup.load_app()
        from celeriac.worker.supervisor import Arguments, WorkController

        arguments = Arguments(
            **_pool(given, app.conf.worker_pool),
            queues=tuple(given["queues"] or ()),
            exclude_queues=tuple(given["exclude_queues"] or ()),
            purge=given["purge"],
            pidfile=daemon.pidfile,
            quiet=shared.quiet,
            beat=(given["schedule"], given["scheduler"]) if given["beat"] else None,
            options=dict(given),
        )
        code = WorkController(app, setup, arguments).run()
    process.end_in_peace()
    raise SystemExit(code)


def _refuse_later(given: dict[str, Any]) -> None:
    if given["pool_start_method"] == "spawn":
        stop("--pool-start-method spawn is not in this version of celeriac", "leave it out: processes are forked")


def _pool(given: dict[str, Any], setting: str) -> dict[str, Any]:
    """Which pool, and how large, as the worker's arguments have it."""
    from celeriac.worker import pools

    pool, processes, autoscale = pools.pool_name(given["pool"] or setting), given["processes"], given["autoscale"]
    if processes and pool in pools.ONE_SLOT:
        instead = "-c says how many there are" if pool == "prefork" else "it has none but the worker's own"
        stop(f"--processes is not for -P {pool}: {instead}", "it is for -P threads, asyncio and gevent")
    if autoscale and pool == "solo":
        stop("-P solo runs one task at a time, and cannot grow", "use --autoscale with another pool")
    return {"pool": pool, "processes": processes or 1, "autoscale": autoscale}


def _settings(pairs: tuple[str, ...], given: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            stop(f"unexpected argument {pair!r}", "settings follow after -- as KEY=VALUE")
        settings[key] = value
    settings.update({name: given[key] for key, name in _SETTINGS.items() if given[key] is not None})
    return settings


def _log(shared: Shared, given: dict[str, Any]) -> dict[str, Any]:
    log: dict[str, Any] = {"level": given["loglevel"], "logfile": logfile_of(given)}
    if given["log_format"] == "json":
        log["as_json"] = True
    if shared.no_color:
        log["colorize"] = False
    return log
