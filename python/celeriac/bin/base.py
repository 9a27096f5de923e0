"""What commands of other packages are made of: classes and types of options with Celery's names."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from celeriac.bin.options import CommaList, JsonValue, LogLevel, ParamType
from celeriac.bin.plugins import PluginContext as CLIContext

__all__ = [
    "COMMA_SEPARATED_LIST",
    "ISO8601",
    "ISO8601_OR_FLOAT",
    "JSON_ARRAY",
    "JSON_OBJECT",
    "LOG_LEVEL",
    "CLIContext",
    "CeleryCommand",
    "CeleryDaemonCommand",
    "CeleryOption",
    "CommaSeparatedList",
    "DaemonOption",
    "ISO8601DateTime",
    "ISO8601DateTimeOrFloat",
    "JsonArray",
    "JsonObject",
    "LogLevel",
    "handle_preload_options",
    "handle_remote_command_error",
]


class CeleryOption(click.Option):
    """An option; `help_group` says below which title `--help` shows it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.help_group = kwargs.pop("help_group", None)
        default_from_context = kwargs.pop("default_value_from_context", None)
        super().__init__(*args, **kwargs)
        self.default_value_from_context = default_from_context

    def get_default(self, ctx: click.Context, *args: Any, **kwargs: Any) -> Any:
        if self.default_value_from_context:
            return getattr(ctx.obj, self.default_value_from_context, None)
        return super().get_default(ctx, *args, **kwargs)


class CeleryCommand(click.Command):
    """A command; `--help` shows its options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(param, "help_group", None) or "Options", []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


class DaemonOption(CeleryOption):
    """An option of programs in the background; its default is the setting of its name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, help_group=kwargs.pop("help_group", "Daemonization Options"), **kwargs)


class CeleryDaemonCommand(CeleryCommand):
    """A command that may run in the background."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("--logfile", "--pidfile", "--uid", "--gid", "--umask", "--executable"):
            names = ("-f", name) if name == "--logfile" else (name,)
            self.params.append(DaemonOption(names))


class CommaSeparatedList(CommaList):
    """Names, separated by commas."""


class JsonArray(JsonValue):
    """A JSON array."""

    def __init__(self) -> None:
        super().__init__(list)


class JsonObject(JsonValue):
    """A JSON object."""

    def __init__(self) -> None:
        super().__init__(dict)


class ISO8601DateTime(ParamType):
    """A date in ISO 8601."""

    name = "iso-86091"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from celeriac.utils.time import maybe_iso8601

        try:
            return maybe_iso8601(value)
        except (TypeError, ValueError) as exc:
            self.fail(str(exc), param, ctx)


class ISO8601DateTimeOrFloat(ISO8601DateTime):
    """A date in ISO 8601, or a number."""

    name = "iso-86091 or float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return float(value)
        except (TypeError, ValueError):
            return super().convert(value, param, ctx)


COMMA_SEPARATED_LIST = CommaSeparatedList()
JSON_ARRAY = JsonArray()
JSON_OBJECT = JsonObject()
ISO8601 = ISO8601DateTime()
ISO8601_OR_FLOAT = ISO8601DateTimeOrFloat()
LOG_LEVEL = LogLevel()


def handle_preload_options(f: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a command: tells `user_preload_options` that the app is there.

    Returns:
        The same function, given its arguments as they are.
    """

    @wraps(f)
    def run(ctx: click.Context, *args: Any, **kwargs: Any) -> Any:
        from celeriac.signals import user_preload_options

        user_preload_options.send(sender=f, app=ctx.obj.app, options=kwargs)
        return f(ctx, *args, **kwargs)

    return run


def handle_remote_command_error(command: str, exc: Exception) -> None:
    """Ends a command that workers were to carry out.

    Raises:
        CeleryCommandException: Always, unless it is one of click's own.
    """
    from celeriac.exceptions import CeleryCommandException
    from celeriac.platforms import EX_UNAVAILABLE

    if isinstance(exc, click.ClickException):
        raise exc
    raise CeleryCommandException(f"the command `{command}` failed: {exc}", EX_UNAVAILABLE) from exc
