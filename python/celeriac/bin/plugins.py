"""Commands of other packages: entry points of the group `celery.commands`, as Celery has them (flower is one)."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import click

from celeriac.bin.options import EXIT_FAILURE, Shared, stop

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from celeriac.app.base import Celery

GROUP = "celery.commands"


@lru_cache(maxsize=1)
def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP)}


def names() -> dict[str, str]:
    """The commands' names, and what `--help` says of them; none is imported for that."""
    return {name: f"Of the package {_package(point)}." for name, point in _entry_points().items()}


def load(name: str) -> click.Command | None:
    """A command by name; None when no package has it. One that cannot be imported says so when it is called."""
    point = _entry_points().get(name)
    if point is None:
        return None
    try:
        found: click.Command = point.load()
    except Exception as exc:
        problem = f"{type(exc).__name__}: {exc}"
        return click.Command(
            name,
            callback=lambda: stop(
                f"the command {name!r} of the package {_package(point)} cannot be imported: {problem}",
                "is the package made for this version?",
                EXIT_FAILURE,
            ),
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        )
    return _with_context(found)


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value.partition(".")[0]


def _with_context(command: click.Command) -> click.Command:
    """The same command, which finds in `ctx.obj` what Celery puts there."""
    made = copy.copy(command)
    invoke = command.invoke

    def run(ctx: click.Context) -> Any:
        ctx.obj = PluginContext(ctx.ensure_object(Shared))
        return invoke(ctx)

    made.invoke = run  # type: ignore[method-assign]
    return made


class PluginContext:
    """What Celery's commands have in `ctx.obj`: the app, and how to print."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._app: Celery | None = None
        self.no_color = shared.no_color
        self.quiet = shared.quiet
        self.workdir = shared.workdir

    @property
    def app(self) -> Celery:
        """The app that `-A` names; imported when first asked for."""
        if self._app is None:
            self._app = self._shared.load_app()
        return self._app

    @property
    def OK(self) -> str:
        """A word of success."""
        return self.style("OK", fg="green", bold=True)

    @property
    def ERROR(self) -> str:
        """A word of failure."""
        return self.style("ERROR", fg="red", bold=True)

    def style(self, message: Any, **attributes: Any) -> str:
        """Text in colour, where there is colour."""
        return str(message) if self.no_color else click.style(message, **attributes)

    def secho(self, message: Any = None, **attributes: Any) -> None:
        """Prints in colour, where there is colour."""
        if self.no_color:
            attributes = {key: attributes[key] for key in ("file", "nl", "err") if key in attributes}
        click.secho(message, **attributes)

    def echo(self, message: Any = None, **attributes: Any) -> None:
        """Prints."""
        click.echo(message, **attributes)

    def error(self, message: Any = None, **attributes: Any) -> None:
        """Prints to standard error."""
        self.secho(message, err=True, **attributes)
