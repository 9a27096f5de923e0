"""`shell`: Python with the app and its tasks at hand."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from celeriac.bin.options import EXIT_FAILURE, Shared, command, friendly_errors, stop


@command(name="shell")
@click.option("-I", "--ipython", is_flag=True, help="In IPython.")
@click.option("-B", "--bpython", is_flag=True, help="In bpython.")
@click.option("-P", "--python", is_flag=True, help="In the plain Python shell.")
@click.option("-T", "--without-tasks", is_flag=True, help="Without the tasks under their names.")
@click.option("--eventlet", is_flag=True, hidden=True)
@click.option("--gevent", is_flag=True, help="With gevent's patches.")
def main(
    shared: Shared, /, ipython: bool, bpython: bool, python: bool, without_tasks: bool, eventlet: bool, gevent: bool
) -> None:
    """Start a Python shell with the app (app, celery), canvas and all tasks of the app.

    Without an option in IPython, else bpython, else Python itself: whichever is installed.
    """
    if eventlet:
        stop("eventlet is not supported", "--gevent is, and asyncio needs no option")
    if gevent:
        _patch()
    app = shared.load_app()
    with friendly_errors():
        from celeriac.app.find_app import import_tasks

        import_tasks(app)
    names = _names(app, without_tasks)
    wanted = [kind for kind, given in (("ipython", ipython), ("bpython", bpython), ("python", python)) if given]
    for kind in wanted[:1] or ("ipython", "bpython", "python"):
        try:
            _START[kind](names)
        except ImportError as exc:
            if wanted:
                stop(f"{kind} is not installed: {exc}", f"pip install {kind}, or leave the option out", EXIT_FAILURE)
            continue
        return


def _patch() -> None:
    try:
        import_module("gevent.monkey").patch_all()
    except ImportError:
        stop("gevent is not installed", "pip install gevent", EXIT_FAILURE)


def _names(app: Any, without_tasks: bool) -> dict[str, Any]:
    import celeriac

    names: dict[str, Any] = {"app": app, "celery": app, "celeriac": celeriac}
    for name in ("Task", "chain", "chord", "chunks", "group", "signature", "xmap", "xstarmap"):
        try:
            names[name] = getattr(celeriac, name)
        except (AttributeError, ImportError):
            pass  # Not in this version.
    if "signature" in names:
        names["subtask"] = names["signature"]
    if not without_tasks:
        names.update(
            {task.__name__: task for task in app.tasks.values() if not task.name.startswith(("celery.", "celeriac."))}
        )
    return names


def _ipython(names: dict[str, Any]) -> None:
    import_module("IPython").start_ipython(argv=[], user_ns=names)


def _bpython(names: dict[str, Any]) -> None:
    import_module("bpython").embed(names)


def _python(names: dict[str, Any]) -> None:
    import code

    try:
        import readline
        import rlcompleter
    except ImportError:
        pass
    else:
        readline.set_completer(rlcompleter.Completer(names).complete)
        readline.parse_and_bind("tab: complete")
    code.interact(local=names, exitmsg="")


_START = {"ipython": _ipython, "bpython": _bpython, "python": _python}
