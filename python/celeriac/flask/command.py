"""`flask celeriac ...`: the commands of celeriac for the application that Flask has found."""

from __future__ import annotations

import os

import click
from flask import Flask
from flask.cli import ScriptInfo

__all__ = ["celeriac_command", "flask_app"]

#: What `-A` is for processes that Flask's command starts: the application is found there as Flask finds it.
APP = "celeriac.flask:flask_app()"

# Set by the command in this process; in processes that it starts, the environment says where the application is.
_info: ScriptInfo | None = None


@click.command(
    "celeriac",
    context_settings={"ignore_unknown_options": True},
    add_help_option=False,
    short_help="Commands of celeriac: worker, beat, inspect, ...",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def celeriac_command(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Runs a command of celeriac's."""
    global _info
    from celeriac.bin import celeriac

    _info = ctx.ensure_object(ScriptInfo)
    if _info.app_import_path:
        os.environ["FLASK_APP"] = _info.app_import_path
    celeriac.main(["-A", APP, *arguments], prog_name="flask celeriac")


def flask_app() -> Flask:
    """The application that `flask` works with: `--app`, FLASK_APP, or app.py or wsgi.py here.

    Raises:
        flask.cli.NoAppException: There is none.
    """
    global _info
    if _info is None:
        _info = ScriptInfo(os.environ.get("FLASK_APP"))
    return _info.load_app()
