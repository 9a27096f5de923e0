"""Tasks that every app has, whatever the project declares: Celery's peers send them by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeriac.app import http_tasks, stores
from celeriac.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.task import Task

__all__ = ["add_builtin_tasks"]

_CLEANUP = "celery.backend_cleanup"


def add_builtin_tasks(app: Celery) -> None:
    """Registers them, but for those that the project declares itself."""
    http_tasks.add_tasks(app)
    if _CLEANUP not in app._tasks:

        def backend_cleanup() -> None:
            """Removes results that have expired, where the result backend does not by itself."""
            if app.has_own_backend:
                app.backend.cleanup()
            elif stores.needs_cleanup(app):
                raise ImproperlyConfigured("this result backend cannot be cleaned up by this version of celeriac")
            if app.conf.large_payload_store:
                from celeriac.app import large

                payloads = large.of_app(app)
                if payloads is not None:
                    payloads.sweep()

        app._task_from_fun(backend_cleanup, name=_CLEANUP, ignore_result=True)
    functions: dict[str, Any] = {
        "celery.accumulate": _accumulate,
        "celery.chain": _chain,
        "celery.chord": _chord,
        "celery.chunks": _chunks,
        "celery.group": _group,
        "celery.map": _map,
        "celery.starmap": _starmap,
    }
    for name, function in functions.items():
        if name not in app._tasks:
            app._task_from_fun(function, name=name, bind=True)
    if "celery.chord_unlock" not in app._tasks:
        interval = app.conf.result_chord_retry_interval
        app._task_from_fun(
            _chord_unlock,
            name="celery.chord_unlock",
            bind=True,
            max_retries=None,
            default_retry_delay=interval,
            ignore_result=True,
        )


def _accumulate(self: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Gives its arguments, or one of them: what a group that replaces a task ends with."""
    index = kwargs.get("index")
    return args if index is None else args[index]


def _map(self: Task[..., Any], task: Any, it: Any) -> list[Any]:
    """Calls a task for each item."""
    call = self.app.signature(task).type
    return [call(item) for item in it]


def _starmap(self: Task[..., Any], task: Any, it: Any) -> list[Any]:
    """Calls a task for each list of arguments."""
    call = self.app.signature(task).type
    return [call(*item) for item in it]


def _chunks(self: Task[..., Any], task: Any, it: Any, n: int) -> Any:
    """Sends a group of starmaps; gives its result."""
    from celeriac.canvas.chunks import chunks

    return chunks.apply_chunks(self.app.signature(task), it, n, app=self.app)


def _chain(self: Task[..., Any], *args: Any, **kwargs: Any) -> None:
    """Only its name is a task's."""
    raise NotImplementedError("chain is not a real task")


def _group(
    self: Task[..., Any], tasks: Any, result: Any, group_id: str, partial_args: Any, add_to_parent: bool = True
) -> Any:
    """Sends the members of a group, as old versions of Celery had it done."""
    from celeriac.canvas.composition import Composition
    from celeriac.canvas.rebuild import maybe_signature
    from celeriac.result.rebuild import result_from_tuple

    found = result_from_tuple(result, self.app)
    composition = Composition(self.app)
    for item in tasks:
        options = {"group_id": group_id, "add_to_parent": False}
        maybe_signature(item, app=self.app)._plan(composition, tuple(partial_args), {}, options)
    self.app._send_composition(composition, {})
    if add_to_parent:
        self.add_trail(found)
    return found


def _chord(
    self: Task[..., Any],
    header: Any,
    body: Any,
    partial_args: Any = (),
    interval: float | None = None,
    countdown: float = 1,
    max_retries: int | None = None,
    eager: bool = False,
    **kwargs: Any,
) -> Any:
    """Sends a chord, as old versions of Celery had it done."""
    from celeriac.canvas.chord import chord

    whole: Any = chord(header, body, app=self.app)
    return whole.run(whole.tasks, whole.body, partial_args, self.app, interval, countdown, max_retries, **kwargs)


def _chord_unlock(
    self: Task[..., Any],
    group_id: str,
    callback: Any,
    interval: float | None = None,
    max_retries: int | None = None,
    result: Any = None,
    **kwargs: Any,
) -> Any:
    """Looks whether the header of a chord is done, and comes again until it is; then sends the body."""
    from celeriac.app.unlocking import unlock

    return unlock(self, group_id, callback, result or (), interval, max_retries, kwargs)
