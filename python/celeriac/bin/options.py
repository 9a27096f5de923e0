"""Options that every command has, before its name or after it, and how commands end on an error."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celeriac.app.base import Celery

    ParamType = click.ParamType[Any]
else:
    # Generic in the type checker's eyes only: older releases of click cannot be subscripted.
    ParamType = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])

#: Exit code for a wrong app, URL or option.
EXIT_USAGE = 2
#: Exit code of a command that did not get done.
EXIT_FAILURE = 1


@dataclass(slots=True)
class Shared:
    """What the options shared by all commands gave."""

    app: str | None = None
    broker: str | None = None
    result_backend: str | None = None
    loader: str | None = None
    config: str | None = None
    workdir: str | None = None
    no_color: bool = False
    quiet: bool = False
    skip_checks: bool = False

    def load_app(self, *, required: bool = False) -> Celery:
        """Finds the app that the options name.

        Args:
            required: There must be an `-A`; else the default app does.
        """
        from celeriac.app.find_app import find_app

        if required and self.app is None:
            stop("no app is named", "name one: python -m celeriac -A MODULE ...")
        if self.loader not in (None, "app", "default"):
            stop(
                "custom loaders (--loader) are not supported", "leave it out: settings and `include` say what is loaded"
            )
        with friendly_errors():
            return find_app(
                self.app,
                workdir=self.workdir,
                config=self.config,
                broker=self.broker,
                result_backend=self.result_backend,
            )

    def enter_workdir(self) -> None:
        """Changes to `--workdir` now, so that relative paths of other options are below it."""
        if self.workdir:
            try:
                os.chdir(self.workdir)
            except OSError as exc:
                stop(f"cannot change to {self.workdir!r}: {exc.strerror}", "give --workdir a directory")
            self.workdir = os.getcwd()

    def error(self, message: str) -> None:
        """A line for people, not for pipes."""
        if not self.quiet:
            click.echo(message, err=True)


def stop(problem: str, hint: str | None = None, code: int = EXIT_USAGE) -> NoReturn:
    """Ends the command with one clear line and a hint."""
    click.echo(f"Error: {problem}", err=True)
    if hint:
        click.echo(f"Hint: {hint}", err=True)
    raise SystemExit(code)


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Turns what a user can mend into a line and a hint; everything else stays a traceback."""
    from celeriac.app.find_app import AppNotFound
    from celeriac.exceptions import ImproperlyConfigured, OperationalError

    try:
        yield
    except AppNotFound as exc:
        stop(str(exc), exc.hint)
    except ImproperlyConfigured as exc:
        stop(str(exc))
    except OperationalError as exc:
        stop(str(exc), "is the broker's URL right, and does it run?", EXIT_FAILURE)


@contextmanager
def progress_bar(total: int, label: str, *, hidden: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar on standard error while it is a terminal, and nothing elsewhere; gives what advances it."""
    if hidden or total < 1 or not sys.stderr.isatty():
        yield lambda steps: None
        return
    with click.progressbar(length=total, label=label, file=sys.stderr) as bar:
        yield bar.update


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    shared = ctx.ensure_object(Shared)
    if value is not None and value is not False:
        setattr(shared, param.name or "", value)
        if param.name == "no_color":
            os.environ["NO_COLOR"] = "1"
            ctx.color = False


_SHARED: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("-A", "--app"), {"envvar": ["APP", "CELERY_APP"], "help": "Where the app is: module, module:attribute or module:factory()."}),
    (("-b", "--broker"), {"envvar": ["BROKER_URL", "CELERY_BROKER_URL"], "help": "URL of the broker."}),
    (("--result-backend",), {"envvar": ["RESULT_BACKEND", "CELERY_RESULT_BACKEND"], "help": "URL of the result backend."}),
    (("--loader",), {"envvar": ["LOADER", "CELERY_LOADER"], "help": "Class of a custom loader."}),
    (("--config",), {"envvar": ["CONFIG_MODULE", "CELERY_CONFIG_MODULE"], "help": "Module with settings."}),
    (("--workdir",), {"type": click.Path(file_okay=False), "help": "Change to this directory first."}),
    (("-C", "--no-color"), {"is_flag": True, "default": None, "help": "No colour."}),
    (("-q", "--quiet"), {"is_flag": True, "default": None, "help": "Only data and errors."}),
    (("--skip-checks",), {"is_flag": True, "default": None, "help": "Skip the checks of a web framework."}),
]  # fmt: skip


def shared_options(function: F) -> F:
    """Adds the options that every command has. They are kept in the context's `Shared`, not passed on."""
    for names, extra in reversed(_SHARED):
        function = click.option(*names, expose_value=False, callback=_keep, **extra)(function)
    return function


def command(**attributes: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """A command that takes the shared options too, and the `Shared` as its first argument."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        @click.pass_context
        def run(ctx: click.Context, /, *args: Any, **kwargs: Any) -> Any:
            return function(ctx.ensure_object(Shared), *args, **kwargs)

        attributes.setdefault("help", function.__doc__)
        made: click.Command = click.command(**attributes)(shared_options(run))
        return made

    return decorate


class CommaList(ParamType):
    """Names, separated by commas."""

    name = "comma separated list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        if isinstance(value, (list, tuple)):
            return list(value)
        return [item.strip() for item in str(value).split(",") if item.strip()]


class LogLevel(ParamType):
    """A level by name, in any case, or by number."""

    name = "level"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from celeriac.app.log import level_number

        try:
            return level_number(value)
        except ValueError:
            self.fail(f"{value!r} is none of DEBUG, INFO, WARNING, ERROR, CRITICAL, FATAL", param, ctx)


class JsonValue(ParamType):
    """A JSON value of one kind."""

    name = "json"

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        import json

        if isinstance(value, self._kind):
            return value
        try:
            found = json.loads(value)
        except ValueError as exc:
            self.fail(f"is not JSON: {exc}", param, ctx)
        if not isinstance(found, self._kind):
            self.fail(f"must be a JSON {'array' if self._kind is list else 'object'}", param, ctx)
        return found
