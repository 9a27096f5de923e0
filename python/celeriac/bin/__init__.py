"""The command line. Each command is a module of its own, imported when it is called."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from celeriac.bin.options import Shared, shared_options

#: Name -> what `--help` says of it. A command's module has its name, and a `main` in it.
COMMANDS = {
    "amqp": "Publish, get and purge messages by hand.",
    "beat": "Send periodic tasks.",
    "call": "Call a task by name.",
    "control": "Tell workers to change something.",
    "dlq": "Show, retry, drop and export dead letters.",
    "doctor": "Check connections and settings.",
    "events": "Show what workers tell of themselves and of tasks.",
    "graph": "Draw workers and their parts (DOT).",
    "inspect": "Ask workers something.",
    "list": "List the queues that the broker has, or the bindings.",
    "logtool": "Count and find tasks in log files.",
    "migrate": "Move messages from one broker to another.",
    "multi": "Start and stop several workers.",
    "outbox-relay": "Send what transactions have left in an outbox.",
    "purge": "Delete all waiting messages of the queues.",
    "report": "Show versions and settings, for bug reports.",
    "result": "Show the result of a task.",
    "schedule": "Show and change periodic tasks while beats run.",
    "shell": "Start a Python shell with the app and its tasks.",
    "status": "Show the workers that are online.",
    "unpark": "Give waiting tasks back, for Celery's workers.",
    "upgrade": "Rename old settings in a file.",
    "worker": "Start a worker.",
}

#: How `--help` groups them; what is in no group comes last.
GROUPS = {
    "Run": ("worker", "beat", "multi", "schedule", "outbox-relay"),
    "Watch and control": ("status", "inspect", "control", "events", "list", "doctor", "report", "logtool", "graph"),
    "Tasks and messages": ("call", "result", "purge", "dlq", "migrate", "unpark", "amqp", "shell"),
}


class LazyGroup(click.Group):
    """Imports a command's module only when that command is asked for; plug-ins only when nothing else has that name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from celeriac.bin import plugins

        return sorted({*COMMANDS, *plugins.names()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            command: click.Command = import_module(f"celeriac.bin.{cmd_name.replace('-', '_')}").main
            return command
        from celeriac.bin import plugins

        if (plugin := plugins.load(cmd_name)) is not None:
            return plugin
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            from difflib import get_close_matches

            near = get_close_matches(name, self.list_commands(ctx), 3)
            hint = f"did you mean {' or '.join(near)}?" if near else "--help lists the commands"
            ctx.fail(f"No such command {name!r}: {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from celeriac.bin import plugins

        texts = {**plugins.names(), **COMMANDS}
        grouped = {name for names in GROUPS.values() for name in names}
        groups = {**GROUPS, "More": tuple(sorted(set(texts) - grouped))}
        for title, names in groups.items():
            if rows := [(name, texts[name]) for name in names if name in texts]:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _version(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value and not ctx.resilient_parsing:
        from celeriac import __version__

        click.echo(__version__)
        ctx.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "CELERY"},
    help="Celery's API and wire format, Python tasks, a Rust engine.",
)
@shared_options
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
@click.pass_context
def celeriac(ctx: click.Context) -> None:
    """Entry of all commands; what the shared options gave is in `ctx.obj`."""
    ctx.ensure_object(Shared)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
