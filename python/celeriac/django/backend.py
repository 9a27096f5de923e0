"""`CeleriacBackend`: runs the tasks of Django's own task framework (the setting `TASKS`) on celeriac's workers.

For `django.tasks` of Django 6 and for its backport `django-tasks`; where both are there, Django's own.

Two records are kept of a task: its result as of any other task, under its id; and under `django-<id>` what only Django
asks for (arguments, times, who ran it). The second is written before the message is sent, and when the task begins; a
crash between leaves a record of a task that never comes, and it expires as all do.
"""

from __future__ import annotations

import inspect
import os
from datetime import datetime
from functools import partial
from importlib import import_module
from typing import Any

from celeriac import Celery, _state, shared_task, states
from celeriac.app.current import get_current_app
from celeriac.result.record import build_record, read_record
from celeriac.utils import uuid
from celeriac.utils.imports import symbol_by_name

try:
    FRAMEWORK = "django.tasks"
    _base: Any = import_module("django.tasks.base")
except ImportError:
    try:
        FRAMEWORK = "django_tasks"
        _base = import_module("django_tasks.base")
    except ImportError as exc:
        raise ImportError(
            "celeriac.django.CeleriacBackend needs Django 6, or Django and its backport: pip install 'celeriac[django]'"
        ) from exc

__all__ = ["CeleriacBackend"]

_backends: Any = import_module(f"{FRAMEWORK}.backends.base")
_exceptions: Any = import_module(f"{FRAMEWORK}.exceptions")
_signals: Any = import_module(f"{FRAMEWORK}.signals")
_timezone: Any = import_module("django.utils.timezone")
_module_loading: Any = import_module("django.utils.module_loading")
_Base: Any = _backends.BaseTaskBackend
_Status: Any = _base.TaskResultStatus

#: Our priorities, from the least to the most urgent, for Django's from -100 to 100.
_LEVELS = 9
#: In front of a task's id: the record of what only Django asks for.
_NOTES = "django-"


class CeleriacBackend(_Base):  # type: ignore[misc, no-any-unimported]
    """A backend of Django's task framework.

    Example:
        >>> TASKS = {
        ...     "default": {
        ...         "BACKEND": "celeriac.django.CeleriacBackend",
        ...         "QUEUES": ["default", "mail"],
        ...         "OPTIONS": {"app": "proj.celery:app", "enqueue_on_commit": True},
        ...     }
        ... }

    Options:
        app: The Celery app, or its path; the current one unless given, and where there is none, one whose settings are
            those of Django that begin with `CELERY_`.
        enqueue_on_commit: In a transaction, send when it is committed, and not at all when it is rolled back. Off, as
            Django's documentation has it: tasks are sent at once.
        queue_names: Django's queue -> ours. `default` is `task_default_queue` unless given.
    """

    supports_defer = True
    supports_async_task = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self._app: Celery | None = None
        self._on_commit = bool(self.options.get("enqueue_on_commit", False))

    @property
    def app(self) -> Celery:
        """The Celery app."""
        if self._app is None:
            named = self.options.get("app")
            self._app = symbol_by_name(named) if named else _current_app()
        return self._app

    @property
    def supports_get_result(self) -> bool:
        """Whether results are kept where every process may read them."""
        return self.app.results_enabled and not (self.app.result_backend_effective or "").startswith(("rpc:", "amqp"))

    @property
    def supports_priority(self) -> bool:
        """Whether the broker has priorities: RabbitMQ's queues have them with `task_queue_max_priority`."""
        return not _is_rabbitmq(self.app) or bool(self.app.conf.task_queue_max_priority)

    # -- sending

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Sends a task, with or after the transaction that it is in (`enqueue_on_commit`).

        Raises:
            InvalidTaskError: The backend cannot run it so.
            OperationalError: The broker or the result backend is away.
        """
        self.validate_task(task)
        result = self._new_result(task, args, kwargs)
        if self._on_commit:
            import_module("django.db.transaction").on_commit(partial(self._send, result))
        else:
            self._send(result)
        return result

    def _new_result(self, task: Any, args: Any, kwargs: Any) -> Any:
        return _base.TaskResult(
            task=task,
            id=uuid(),
            status=_Status.READY,
            enqueued_at=None,
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )

    def _send(self, result: Any) -> None:
        task, app = result.task, self.app
        object.__setattr__(result, "enqueued_at", _timezone.now())
        if self.supports_get_result:
            app.client.store([_notes(app, result)])
        runner = run_async if inspect.iscoroutinefunction(task.func) else run
        options: dict[str, Any] = {"task_id": result.id, "queue": self._queue(task.queue_name), "eta": task.run_after}
        if self.supports_priority:
            options["priority"] = self._priority(task.priority)
        # What monitors and logs show.
        options["shadow"] = task.module_path
        app.tasks[runner.name].apply_async((self.alias, task.module_path, result.args, result.kwargs), **options)
        _signals.task_enqueued.send(type(self), task_result=result)

    def _queue(self, name: str) -> str:
        names = self.options.get("queue_names") or {}
        if name in names:
            return str(names[name])
        return str(self.app.conf.task_default_queue) if name == "default" else name

    def _priority(self, priority: int) -> int:
        level = int((priority + 100) * _LEVELS / 200 + 0.5)
        # On Redis 0 is the most urgent, as with Celery.
        return _LEVELS - level if _is_redis(self.app) else level

    # -- reading

    def get_result(self, result_id: str) -> Any:
        """What is known of a task.

        Raises:
            TaskResultDoesNotExist: Nothing: it was never sent, or its record has expired.
        """
        record, notes = self.app.client.read([result_id, _NOTES + result_id])
        if notes is None:
            raise _exceptions.TaskResultDoesNotExist(result_id)
        noted = read_record(self.app, notes)["result"]
        return self._result(result_id, noted, read_record(self.app, record))

    def _result(self, result_id: str, noted: dict[str, Any], document: dict[str, Any]) -> Any:
        state, value = document["status"], document["result"]
        started = [_moment(moment) for moment in noted["started"]]
        result = _base.TaskResult(
            task=_task_at(noted["task"]).using(
                priority=noted["priority"],
                queue_name=noted["queue_name"],
                run_after=_moment(noted["run_after"]),
                backend=self.alias,
            ),
            id=result_id,
            status=_status(state, begun=bool(started)),
            enqueued_at=_moment(noted["enqueued"]),
            started_at=started[0] if started else None,
            last_attempted_at=started[-1] if started else None,
            finished_at=_moment(document.get("date_done")) if state in states.READY_STATES else None,
            args=noted["args"],
            kwargs=noted["kwargs"],
            backend=self.alias,
            errors=_errors(value, document.get("traceback")) if state in states.PROPAGATE_STATES else [],
            worker_ids=noted["workers"],
        )
        if state == states.SUCCESS:
            object.__setattr__(result, "_return_value", value)
        return result


# -- in the worker


@shared_task(name="celeriac.django.run", bind=True)
def run(self: Any, alias: str, path: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Runs a task of Django's."""
    begun = _Begun(self, alias, path, args, kwargs)
    try:
        return begun.succeeded(begun.task.call(*begun.context, *args, **kwargs))
    except Exception as exc:
        begun.failed(exc)
        raise


@shared_task(name="celeriac.django.run_async", bind=True)
async def run_async(self: Any, alias: str, path: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Runs a task of Django's that is a coroutine function."""
    begun = _Begun(self, alias, path, args, kwargs)
    try:
        return begun.succeeded(await begun.task.acall(*begun.context, *args, **kwargs))
    except Exception as exc:
        begun.failed(exc)
        raise


class _Begun:
    """A task of Django's that runs here: tells Django's signals, and notes that it has begun."""

    def __init__(self, runner: Any, alias: str, path: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        self.backend: CeleriacBackend = import_module(FRAMEWORK).task_backends[alias]
        self.task = _task_at(path)
        self._sender = type(self.backend)
        app, request, now = runner._get_app(), runner.request, _timezone.now()
        self.result = self.backend._new_result(self.task, args, kwargs)
        notes = app.client.read([_NOTES + request.id])[0] if self.backend.supports_get_result else None
        noted = {} if notes is None else read_record(app, notes)["result"]
        self._set(
            id=request.id,
            enqueued_at=_moment(noted.get("enqueued")),
            started_at=_moment(noted["started"][0]) if noted.get("started") else now,
            last_attempted_at=now,
            status=_Status.RUNNING,
            worker_ids=[*noted.get("workers", ()), str(request.hostname)],
        )
        if noted:
            noted["started"] = [*noted["started"], now.isoformat()]
            noted["workers"] = self.result.worker_ids
            app.client.store([build_record(app, _NOTES + request.id, states.STARTED, noted)])
        self.context = (_base.TaskContext(task_result=self.result),) if self.task.takes_context else ()
        _signals.task_started.send(self._sender, task_result=self.result)

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self.result, name, value)

    def succeeded(self, value: Any) -> Any:
        """It has returned."""
        self._set(status=_Status.SUCCESSFUL, finished_at=_timezone.now(), _return_value=value)
        _signals.task_finished.send(self._sender, task_result=self.result)
        return value

    def failed(self, exc: Exception) -> None:
        """It has raised."""
        import traceback

        trace = "".join(traceback.format_exception(exc))
        self._set(status=_Status.FAILED, finished_at=_timezone.now(), errors=_errors(exc, trace))
        _signals.task_finished.send(self._sender, task_result=self.result)


# -- helpers


def _notes(app: Celery, result: Any) -> Any:
    task = result.task
    notes = {
        "task": task.module_path,
        "priority": task.priority,
        "queue_name": task.queue_name,
        "run_after": task.run_after and task.run_after.isoformat(),
        "enqueued": result.enqueued_at.isoformat(),
        "args": result.args,
        "kwargs": result.kwargs,
        "started": [],
        "workers": [],
    }
    return build_record(app, _NOTES + result.id, states.PENDING, notes)


def _task_at(path: str) -> Any:
    found = _module_loading.import_string(path)
    if not isinstance(found, _base.Task):
        raise _exceptions.InvalidTaskError(f"{path} is no task of {FRAMEWORK}")
    return found


def _status(state: str, *, begun: bool) -> Any:
    if state == states.SUCCESS:
        return _Status.SUCCESSFUL
    if state in states.PROPAGATE_STATES:
        return _Status.FAILED
    waits = state == states.RETRY or (state == states.PENDING and not begun)
    return _Status.READY if waits else _Status.RUNNING


def _errors(exc: Any, trace: str | None) -> list[Any]:
    cls = type(exc)
    return [_base.TaskError(exception_class_path=f"{cls.__module__}.{cls.__qualname__}", traceback=trace or "")]


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _is_redis(app: Celery) -> bool:
    return app.broker_url_effective.startswith(("redis", "sentinel", "unix"))


def _is_rabbitmq(app: Celery) -> bool:
    return app.broker_url_effective.startswith(("amqp", "pyamqp"))


def _current_app() -> Celery:
    return get_current_app() if not _state.is_without_default_app() else own_app()


_own: Celery | None = None


def own_app() -> Celery:
    """The app of a project that has none of its own: its settings are those of Django that begin with `CELERY_`.

    Raises:
        RuntimeError: Nothing says which settings.
    """
    global _own
    if _own is None:
        if not os.environ.get("DJANGO_SETTINGS_MODULE"):
            raise RuntimeError("DJANGO_SETTINGS_MODULE must name the settings of Django")
        made = Celery("django", set_as_current=False)
        made.config_from_object("django.conf:settings", namespace="CELERY")
        made.autodiscover_tasks()
        made.set_default()
        _own = made
    return _own
