"""Sentry: errors of tasks with what is known of their call, traces that go on from the caller, check-ins.

    sentry_sdk.init(dsn=..., traces_sample_rate=0.1)
    app.add_middleware(Sentry())

It takes the place of the SDK's integration of Celery: where that is on (as by itself with `import celery`), leave
this one out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from celeriac import signals
from celeriac.middleware import Call, Middleware, Run

try:
    import sentry_sdk
except ImportError as exc:
    raise ImportError("celeriac.middleware.sentry needs Sentry's SDK: pip install sentry-sdk") from exc

__all__ = ["Sentry"]

#: Seconds that events which are not sent yet may take, when a process of a worker ends.
FLUSH_SECONDS = 2.0
_ORIGIN = "auto.queue.celeriac"
_HEADERS = ("sentry-trace", "baggage")
_STATUS = {"SUCCESS": "ok", "RETRY": "aborted", "IGNORED": "ok", "REJECTED": "aborted"}


class Sentry(Middleware):
    """Reports failures; those that `throws` of the task names are expected, and are not reported.

    Args:
        transactions: Whether each run is a transaction (as far as `traces_sample_rate` samples it).
        arguments: Whether the arguments of a task are sent with an error; None: as `send_default_pii` says.
        monitors: Tasks by name that check in at the start and at the end: a slug, or a mapping with `slug` and
            `config` (Sentry's `monitor_config`).
    """

    def __init__(
        self,
        *,
        transactions: bool = True,
        arguments: bool | None = None,
        monitors: Mapping[str, str | Mapping[str, Any]] | None = None,
    ) -> None:
        self._transactions = transactions
        self._arguments = arguments
        self._monitors = {
            name: {"slug": given} if isinstance(given, str) else dict(given) for name, given in (monitors or {}).items()
        }
        signals.worker_process_shutdown.connect(_flush, weak=False)

    def before_publish(self, call: Call) -> None:
        """The trace goes with the message."""
        for header, value in zip(_HEADERS, (sentry_sdk.get_traceparent(), sentry_sdk.get_baggage()), strict=True):
            if not value:
                continue
            held = call.headers.get(header)
            if header == "baggage" and held and "sentry-" not in held:
                # Another library's members stay.
                value = f"{held},{value}"
            call.headers[header] = value

    def before_task(self, run: Run) -> None:
        """What happens from here on is about this task alone."""
        isolated = sentry_sdk.isolation_scope()
        scope = isolated.__enter__()
        kept = run.data[self] = _Kept(isolated)
        scope.set_transaction_name(run.task.name, source="task")
        self._describe(scope, run)
        if self._transactions:
            headers = {name: value for name in _HEADERS if isinstance(value := run.request.get(name), str)}
            transaction = sentry_sdk.continue_trace(
                headers, op="queue.task", name=run.task.name, source="task", origin=_ORIGIN
            )
            kept.transaction = sentry_sdk.start_transaction(transaction)
            kept.transaction.__enter__()
            for name, value in self._attributes(run).items():
                kept.transaction.set_data(name, value)
        kept.check_in = self._check_in(run.task.name, "in_progress")

    def on_failure(self, run: Run, exception: BaseException) -> None:
        """Reports it."""
        if isinstance(exception, tuple(run.task.throws or ())):
            return
        if self in run.data:
            sentry_sdk.capture_exception(exception)
            return
        # Its process was killed: nothing has begun here.
        with sentry_sdk.isolation_scope() as scope:
            scope.set_transaction_name(run.task.name, source="task")
            self._describe(scope, run)
            sentry_sdk.capture_exception(exception)

    def after_task(self, run: Run) -> None:
        """Ends the transaction, and leaves the scope."""
        kept: _Kept = run.data.pop(self)
        if kept.check_in is not None:
            status = "error" if run.state == "FAILURE" else "ok"
            self._check_in(run.task.name, status, kept.check_in, time.monotonic() - kept.began)
        if kept.transaction is not None:
            kept.transaction.set_status(_STATUS.get(run.state, "internal_error"))
            kept.transaction.__exit__(None, None, None)
        kept.scope.__exit__(None, None, None)

    def _describe(self, scope: Any, run: Run) -> None:
        request = run.request
        scope.set_tag("celeriac.task", run.task.name)
        scope.set_tag("celeriac.task_id", run.id)
        known = {
            "task": run.task.name,
            "id": run.id,
            "root_id": request.root_id,
            "parent_id": request.parent_id,
            "retries": request.retries,
            "worker": request.hostname,
            "queue": (request.delivery_info or {}).get("routing_key"),
        }
        if self._sends_arguments():
            known.update(args=run.args, kwargs=run.kwargs)
        scope.set_context("celeriac", known)

    def _sends_arguments(self) -> bool:
        if self._arguments is not None:
            return self._arguments
        return bool(sentry_sdk.get_client().options.get("send_default_pii"))

    def _attributes(self, run: Run) -> dict[str, Any]:
        return {
            "messaging.message.id": run.id,
            "messaging.message.retry.count": int(run.request.retries or 0),
            "messaging.destination.name": (run.request.delivery_info or {}).get("routing_key"),
        }

    def _check_in(
        self, name: str, status: str, check_in_id: str | None = None, seconds: float | None = None
    ) -> str | None:
        monitor = self._monitors.get(name)
        if monitor is None:
            return None
        from sentry_sdk.crons import capture_checkin

        found: str | None = capture_checkin(
            monitor_slug=monitor["slug"],
            check_in_id=check_in_id,
            status=status,
            duration=seconds,
            monitor_config=monitor.get("config"),
        )
        return found


class _Kept:
    """What a run has open."""

    def __init__(self, scope: Any) -> None:
        self.scope = scope
        self.transaction: Any = None
        self.check_in: str | None = None
        self.began = time.monotonic()


def _flush(**_: Any) -> None:
    sentry_sdk.flush(FLUSH_SECONDS)
