"""Signals of our worker, passed on to receivers of Celery's.

Signals of a task that runs are sent by Celery's tracer itself; those here come from the worker's own process, from its
children's start and end, and from requests that do not run.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from celeriac import signals
from celeriac.app import log
from celeriac.app.context import Context
from celeriac.foreign import tracing
from celeriac.foreign.mirror import as_celery, celery, context_of
from celeriac.worker import limits

if TYPE_CHECKING:
    from celeriac._dispatch import Signal
    from celeriac.foreign.app import ForeignApp

__all__ = ["Relay"]

logger = logging.getLogger("celery.worker")

_ALWAYS = (
    "celeryd_init", "celeryd_after_setup", "worker_init", "worker_before_create_process", "worker_process_init",
    "worker_process_shutdown", "worker_ready", "worker_shutting_down", "worker_shutdown", "beat_init",
    "beat_embedded_init", "after_setup_logger", "after_setup_task_logger", "user_preload_options", "task_failure",
    "task_internal_error",
)  # fmt: skip
#: That somebody receives these changes what the worker does: so they are passed on only to whom there is.
_WHEN_HEARD = (
    "setup_logging", "task_received", "task_revoked", "task_unknown", "task_rejected", "before_task_publish",
    "after_task_publish", "task_sent",
)  # fmt: skip


class Relay:
    """Passes signals on for one app. Connected before the worker forks, and by the main thread alone."""

    def __init__(self, app: ForeignApp) -> None:
        self._app = app
        self._theirs = celery("signals")
        self._connected: set[str] = set()
        self._process = os.getpid()
        self._pool = "prefork"
        # The order counts: what Celery's worker prepares before it sends a signal, and what is heard by then.
        for name, receiver in (
            ("celeryd_init", self._on_start),
            ("worker_init", self._on_init),
            ("worker_process_init", self._on_child),
        ):
            getattr(signals, name).connect(receiver, weak=False)
        for name in _ALWAYS:
            self._connect(name)
        # After the receivers of these, which may listen to more.
        for name in ("worker_init", "celeryd_after_setup", "worker_ready", "worker_process_init"):
            getattr(signals, name).connect(self._listen, weak=False)

    def listen(self) -> None:
        """Connects to what is heard by now."""
        for name in _WHEN_HEARD:
            if getattr(self._theirs, name).receivers:
                self._connect(name)

    def _listen(self, **_: Any) -> None:
        self.listen()

    def _connect(self, name: str) -> None:
        if name in self._connected:
            return
        self._connected.add(name)
        ours, theirs = getattr(signals, name), getattr(self._theirs, name, None)
        if theirs is not None:
            ours.connect(self._passer(name, theirs), weak=False)

    def _passer(self, name: str, theirs: Any) -> Any:
        def pass_on(sender: Any = None, signal: Signal | None = None, **named: Any) -> Any:
            if name in {"task_failure", "task_internal_error"} and tracing.running.get() is not None:
                return None
            named = {key: self._translated(value) for key, value in named.items()}
            answers = theirs.send(sender=self._translated(sender), **named)
            for _, answer in answers:
                if name == "setup_logging" and isinstance(answer, Exception):
                    raise answer
            return answers

        return pass_on

    def _translated(self, value: Any) -> Any:
        real = getattr(value, "real", None)
        if real is not None and type(value).__module__.startswith(__package__ or ""):
            return real
        if isinstance(value, Context):
            return context_of(value)
        if isinstance(value, BaseException):
            return as_celery(value)
        if getattr(value, "app", None) is self._app:
            return _view(value, self._app.real)
        return value

    # -- what Celery's worker does at these moments

    def _on_start(self, instance: Any = None, **_: Any) -> None:
        arguments = getattr(instance, "arguments", None)
        if arguments is not None:
            self._pool = arguments.pool
        self.listen()

    def _on_init(self, sender: Any = None, **_: Any) -> None:
        real = self._app.real
        celery("app.trace").setup_worker_optimizations(real, sender.hostname)
        _make_backend(real)
        real.loader.worker_initialized = True
        real.loader.on_worker_init()
        if not self._app.results_enabled:
            signals.task_revoked.connect(self._store_revoked, weak=False)
            signals.task_unknown.connect(self._store_unknown, weak=False)

    def _store_revoked(
        self, sender: Any = None, request: Any = None, terminated: bool = False, expired: bool = False, **_: Any
    ) -> None:
        """What the engine would store of it, by Celery's backend."""
        if sender is not None:
            reason = "terminated" if terminated else "expired" if expired else "revoked"
            context, stores = context_of(request), sender.stores(request)
            sender.real.backend.mark_as_revoked(request.id, reason, request=context, store_result=stores)

    def _store_unknown(self, id: str | None = None, exc: Any = None, **_: Any) -> None:
        self._app.real.backend.mark_as_failure(id, as_celery(exc))

    def _on_child(self, sender: Any = None, **_: Any) -> None:
        """In a child, before receivers hear that it has started."""
        real = self._app.real
        limits.soft_limit.exception = celery("exceptions").SoftTimeLimitExceeded
        if os.getpid() != self._process:
            _after_fork()
            if self._pool == "prefork":
                celery("_state")._set_task_join_will_block(True)
            _name_process()
        celery("app.trace").setup_worker_optimizations(real, sender)
        _make_backend(real)
        real.loader.init_worker_process()
        self.listen()


def _make_backend(real: Any) -> None:
    """Celery's result backend, before children are forked: results that tasks make hold it, and the collector, which ends
    them whenever it likes, must not be what imports it."""
    try:
        _ = real.backend
    except Exception as exc:
        # The engine stores results without it; a task that asks for one hears of it.
        logger.warning("Celery cannot make the result backend of this app: %r", exc)


def _after_fork() -> None:
    """Connections that the app has opened belong to the process it was forked from."""
    from importlib import import_module

    try:
        util = import_module("billiard.util")
    except ImportError:
        return
    util._run_after_forkers()


def _name_process() -> None:
    """Code that asks billiard which process this is finds the name that the log has."""
    process = sys.modules.get("billiard.process")
    if process is not None:
        process.current_process().name = log.process_name()


class _View:
    """The sender of a signal, whose `app` is Celery's."""

    def __init__(self, seen: Any, app: Any) -> None:
        self._seen = seen
        self.app = app

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._seen, name)
        task = getattr(value, "real", None)
        return value if task is None else task

    def __repr__(self) -> str:
        return repr(self._seen)


def _view(seen: Any, app: Any) -> Any:
    cls = type(seen)
    return type(cls.__name__, (_View,), {"__module__": cls.__module__})(seen, app)
