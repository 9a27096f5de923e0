"""`graph workflow` and `graph result`: pictures of workflows, before and after they run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from celeriac.bin.options import EXIT_FAILURE, Shared, command, friendly_errors, stop

if TYPE_CHECKING:
    from celeriac.utils.picture import Picture

__all__ = ["result", "workflow"]

_OUTPUT = click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file; .svg gives SVG."
)
_FORMAT = click.option("--format", "form", type=click.Choice(["dot", "svg"]), help="DOT (for Graphviz), or SVG.")
_MOST = click.option(
    "--most",
    type=click.IntRange(min=0),
    default=12,
    show_default=True,
    help="Members of a group that are drawn, one box stands for the others; 0 draws all.",
)


@command(name="workflow")
@click.argument("path")
@_OUTPUT
@_FORMAT
@_MOST
def workflow(shared: Shared, /, path: str, output: Path | None, form: str | None, most: int) -> None:
    """Draw a workflow before it runs: PATH is module:name of a signature, or of a function that makes one."""
    from celeriac.canvas.picture import picture_of

    shared.enter_workdir()
    if shared.app is not None:
        shared.load_app()
    elif os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found = _found(path)
    if not isinstance(found, Mapping) and callable(found):
        found = _made(path, found)
    try:
        picture = picture_of(found, most)
    except TypeError as exc:
        stop(f"{path}: {exc}", "name a signature, or a function without arguments that returns one")
    _write(picture, output, form)


@command(name="result")
@click.argument("task_id")
@_OUTPUT
@_FORMAT
@_MOST
def result(shared: Shared, /, task_id: str, output: Path | None, form: str | None, most: int) -> None:
    """Draw a workflow that runs or has run, with states: TASK_ID is that of any task in it, or of a saved group."""
    from celeriac.result.picture import picture_of_result
    from celeriac.result.result_set import GroupResult

    app = shared.load_app()
    with friendly_errors():
        if not app.results_enabled:
            stop("this app keeps no results", "set result_backend, or give --result-backend")
        found: Any = app.AsyncResult(task_id)
        if not found.exists():
            try:
                found = GroupResult.restore(task_id, app=app)
            except NotImplementedError:
                # A store without groups.
                found = None
        if not found:
            stop(f"nothing is stored for {task_id}", "has it begun, and is this its result backend?", EXIT_FAILURE)
        picture = picture_of_result(found, app, most)
    _write(picture, output, form)


def _found(path: str) -> Any:
    from celeriac.utils.imports import symbol_by_name

    try:
        return symbol_by_name(path)
    except (ImportError, AttributeError, ValueError) as exc:
        stop(f"{path} cannot be found: {exc}", "write module:name, such as proj.flows:make_flow")


def _made(path: str, make: Callable[[], Any]) -> Any:
    import inspect

    try:
        inspect.signature(make).bind()
    except TypeError as exc:
        stop(f"{path} cannot be called without arguments: {exc}", "name a function without arguments")
    return make()


def _write(picture: Picture, output: Path | None, form: str | None) -> None:
    if form is None:
        form = "svg" if output is not None and output.suffix.lower() == ".svg" else "dot"
    text = picture.to_svg() if form == "svg" else picture.to_dot()
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as exc:
        stop(f"cannot write {output}: {exc.strerror}")
