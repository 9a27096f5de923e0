"""The command line. Each command is a module of its own, imported when it is called."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from celeriac.bin.options import Shared, shared_options

#: Name -> what `--help` says of it. A command's module has its name, and a `main` in it.
COMMANDS = {
    "beat": "Send periodic tasks.",
    "call": "Call a task by name.",
    "list": "List the queues that the broker has.",
    "purge": "Delete all waiting messages of the queues.",
    "report": "Show versions and settings, for bug reports.",
    "result": "Show the result of a task.",
    "schedule": "Show and change periodic tasks while beats run.",
    "unpark": "Give waiting tasks back, for Celery's workers.",
    "worker": "Start a worker.",
}

#: Commands of Celery that come with a later version.
LATER = frozenset(
    {
        "amqp", "control", "events", "flower", "graph", "inspect", "logtool", "migrate", "multi",
        "shell", "status", "upgrade",
    }
)  # fmt: skip


class LazyGroup(click.Group):
    """Imports a command's module only when that command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            command: click.Command = import_module(f"celeriac.bin.{cmd_name}").main
            return command
        if cmd_name in LATER:
            raise click.UsageError(f"the command {cmd_name!r} is not in this version of celeriac", ctx)
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


def _version(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value and not ctx.resilient_parsing:
        from celeriac import __version__

        click.echo(__version__)
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "CELERY"},
    help="Celery's API and wire format, Python tasks, a Rust engine.",
)
@shared_options
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
@click.pass_context
def celeriac(ctx: click.Context) -> None:
    """Entry of all commands; what the shared options gave is in `ctx.obj`."""
    ctx.ensure_object(Shared)
