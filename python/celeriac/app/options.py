"""Settings and tasks become the options that the engine's worker takes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from celeriac.app import http_tasks, limits, webhooks
from celeriac.app.stores import connection_options, uses_replies
from celeriac.exceptions import ImproperlyConfigured, QueueNotFound
from celeriac.queues import milliseconds
from celeriac.serialization import registry
from celeriac.utils.nodenames import worker_direct

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.settings import Settings
    from celeriac.app.task import Task

__all__ = ["consumed_queues", "rate_limit", "worker_options"]

_KEPT = ("keep_successes", "keep_failures", "result_expires_ms")
DEFAULT_LEASE_SECONDS = 30.0
DEFAULT_MAX_CRASHES = 3
#: How often a worker tells monitors that it lives, unless `--heartbeat-interval` says otherwise.
HEARTBEAT_SECONDS = 2.0
DEFAULT_MAX_MESSAGE_BYTES = 256 * 1024 * 1024


def worker_options(
    app: Celery,
    *,
    node: str,
    queues: Iterable[str] | None = None,
    exclude_queues: Iterable[str] = (),
    concurrency: int | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Options of `_core.Worker`.

    Args:
        app: The app; it is finalised.
        node: The worker's node name.
        queues: Queues to consume; those of the settings unless given.
        exclude_queues: Queues to leave out.
        concurrency: Slots; the setting, else the number of processors.
        **overrides: Options that win over what the settings say.

    Raises:
        ImproperlyConfigured: A queue is unknown, or a task's rate limit cannot be read.
    """
    tasks, conf = app.tasks, app.conf
    queues = None if queues is None else list(queues)
    options: dict[str, Any] = {
        "broker_url": app.broker_read_url_effective,
        "broker_write_url": app.broker_url_effective,
        "result_backend": app.result_backend_effective,
        "connect_attempts": connect_attempts(conf.values_now()),
        "node": node,
        **queues_and_topics(app, node, queues, exclude_queues),
        "concurrency": concurrency or _concurrency(conf.worker_concurrency),
        # Without a wish the engine goes by how long tasks take.
        "prefetch_multiplier": conf.chosen("worker_prefetch_multiplier"),
        "tasks": {name: task_options(task) for name, task in tasks.items()},
        "queue_limits": limits.options_of_queues(app),
        "accept_content": _accepted(conf),
        "max_message_bytes": conf.worker_max_message_bytes or DEFAULT_MAX_MESSAGE_BYTES,
        "time_limit": conf.task_time_limit,
        "soft_time_limit": conf.task_soft_time_limit,
        "lease_seconds": float(conf.worker_lease_seconds or DEFAULT_LEASE_SECONDS),
        "chord_lost_after_seconds": float(conf.result_chord_lost_after or 0) or None,
        "max_crashes": int(conf.worker_max_crashes or DEFAULT_MAX_CRASHES),
        **stop_options(conf),
        "max_tasks_per_child": conf.worker_max_tasks_per_child,
        "max_memory_per_child": conf.worker_max_memory_per_child,
        "disable_rate_limits": bool(conf.worker_disable_rate_limits),
        "fork_server_fd": None,
        "fork_server_argv": None,
        "child_fd": None,
        "log_level": 20,
        "task_events": bool(conf.worker_send_task_events),
        "task_stream": int(conf.task_stream_max) if conf.task_stream else None,
        "heartbeat_seconds": HEARTBEAT_SECONDS,
        "dead_letter": bool(conf.task_dead_letter),
        "dead_letter_max_age": conf.dead_letter_max_age,
        "dead_letter_max_count": conf.dead_letter_max_count,
        "queue_defaults": {name: found.worker_options() for name, found in app.router.queues.defaults.items()},
        "health_address": None if conf.worker_health_address is None else str(conf.worker_health_address),
    }
    _check_kept(app, options)
    webhooks.check("task_webhook", conf.task_webhook)
    webhooks.check("dead_letter_webhook", conf.dead_letter_webhook)
    http = http_options(app, queues, exclude_queues)
    if http is not None:
        options["http"] = http
    # After the queues were chosen: what was added for that is part of the topology.
    return {**options, **connection_options(app, worker=True), **overrides}


def _task_queues(app: Celery, node: str, queues: Iterable[str] | None, exclude: Iterable[str]) -> list[str]:
    """The queues whose tasks children run: not those of HTTP calls, which the engine takes by itself."""
    wanted = None if queues is None else [name for name in queues if name not in http_tasks.QUEUES]
    if queues is not None and not wanted:
        return []
    return [name for name in worker_queues(app, node, wanted, exclude) if name not in http_tasks.QUEUES]


def http_options(app: Celery, queues: Iterable[str] | None, exclude: Iterable[str]) -> dict[str, Any] | None:
    """How HTTP tasks and webhooks are taken; None: they are not.

    A worker that takes from all queues takes from theirs; one that was told its queues (`-Q`) only if they were named.

    Raises:
        ImproperlyConfigured: `webhook_secrets` or `webhook_retry_schedule` cannot be used.
    """
    conf = app.conf
    left_out = set(exclude)
    wanted = set(http_tasks.QUEUES if queues is None else queues) - left_out
    names = [name for name in http_tasks.QUEUES if name in wanted]
    concurrency = int(conf.worker_http_concurrency or 0)
    if not names or concurrency < 1:
        return None
    schedule = [float(delay) for delay in conf.webhook_retry_schedule or ()]
    if any(delay < 0 for delay in schedule):
        raise ImproperlyConfigured("webhook_retry_schedule holds seconds, and none of them is below 0")
    return {
        "queues": names,
        "concurrency": concurrency,
        "allow": [str(entry) for entry in conf.http_allow or ()],
        "timeout_seconds": float(conf.http_timeout),
        "connect_timeout_seconds": float(conf.http_connect_timeout),
        "max_response_bytes": int(conf.http_max_response_bytes),
        "retries": int(conf.http_retries),
        "backoff_seconds": float(conf.http_backoff),
        "backoff_max_seconds": float(conf.http_backoff_max),
        "retry_after_max_seconds": float(conf.http_retry_after_max),
        "webhook_schedule": schedule,
        "webhook_secrets": webhooks.secrets(conf.webhook_secrets),
        "done_queue": app.router.queues.default_name,
        # The engine writes Celery's JSON records, and knows no other.
        "concludes_in_child": app.has_own_backend or conf.result_serializer != "json" or bool(conf.result_extended),
    }


def _accepted(conf: Settings) -> list[str]:
    accepted = sorted(registry.prepare_accept_content(conf.accept_content) or ())
    if accepted and conf.large_payload_store:
        from celeriac.app.large import CONTENT_TYPE

        # What is in the store has a content type of its own, which the child looks at.
        accepted.append(CONTENT_TYPE)
    return accepted


def stop_options(conf: Settings) -> dict[str, Any]:
    """How long a stop may take. A deadline that nobody has chosen must not lose anything: only what can be handed
    back is ended then."""
    drain = conf.worker_drain_seconds
    return {
        "drain_seconds": drain,
        "drain_spares_acknowledged": drain is not None and conf.chosen("worker_drain_seconds") is None,
        "soft_shutdown_seconds": float(conf.worker_soft_shutdown_timeout or 0),
    }


def queues_and_topics(app: Celery, node: str, wanted: Iterable[str] | None, exclude: Iterable[str]) -> dict[str, Any]:
    """The queues a worker takes from, with that of its service's events, and what that one is bound with."""
    names, topics = _task_queues(app, node, wanted, exclude), None
    if app._handlers is not None:
        from celeriac.app.handlers import worker_topics

        topics = worker_topics(app, names, wanted, exclude)
    return {"queues": names, "topics": topics}


def worker_queues(app: Celery, node: str, wanted: Iterable[str] | None, exclude: Iterable[str] = ()) -> list[str]:
    """The queues a worker takes from, with its own when `worker_direct` is on.

    Raises:
        ImproperlyConfigured: A queue is not configured, and missing ones may not be made.
    """
    names = consumed_queues(app, wanted, exclude)
    if app.conf.worker_direct:
        own = app.router.queues.add(worker_direct(node))
        names = list(dict.fromkeys((*names, own.name)))
    return names


def connect_attempts(conf: Mapping[str, Any]) -> int | None:
    """How often a worker that starts tries to reach its broker; None: until it can."""
    retry = conf["broker_connection_retry_on_startup"]
    if not (conf["broker_connection_retry"] if retry is None else retry):
        return 1
    return int(conf["broker_connection_max_retries"] or 0) or None


def task_options(task: Task[..., Any]) -> dict[str, Any]:
    """What the engine must know of a task."""
    either = True if task.acks_on_failure_or_timeout is None else task.acks_on_failure_or_timeout
    return {
        "acks_late": bool(task.acks_late),
        "acks_on_failure": either if task.acks_on_failure is None else task.acks_on_failure,
        "acks_on_timeout": either if task.acks_on_timeout is None else task.acks_on_timeout,
        "reject_on_worker_lost": bool(task.reject_on_worker_lost),
        "track_started": bool(task.track_started),
        "ignore_result": bool(task.ignore_result),
        "send_events": bool(task.send_events),
        "rate_limit": rate_limit(task),
        **limits.options_of_task(task),
        "time_limit": task.time_limit,
        "soft_time_limit": task.soft_time_limit,
        **_policy(task),
        "batch": None if task.batch is None else (task.batch.max_size, float(task.batch.max_wait)),
    }


def _policy(task: Task[..., Any]) -> dict[str, Any]:
    """What a task asks for beyond Celery's options. A task that Celery's app has made has none of these."""
    found = {name: getattr(task, name, None) for name in ("dead_letter", "keep_successes", "keep_failures")}
    found["result_expires_ms"] = milliseconds(getattr(task, "result_expires", None))
    return {name: value for name, value in found.items() if value is not None}


def _check_kept(app: Celery, options: dict[str, Any]) -> None:
    """The newest results can be kept only where the engine stores them.

    Raises:
        ImproperlyConfigured: They are stored elsewhere, or not at all.
    """
    named = [*options["tasks"].items(), *options["queue_defaults"].items()]
    who = next((name for name, given in named if any(given.get(key) is not None for key in _KEPT)), None)
    if who is None:
        return
    if app.has_own_backend or uses_replies(app.conf.values_now()):
        raise ImproperlyConfigured(
            f"{who} limits how many results are kept, or how long, and this result backend cannot do that: use Redis or "
            "the embedded store for results"
        )


def rate_limit(task: Task[..., Any]) -> str | None:
    """A task's limit as text (`N` or `N/s`, `N/m`, `N/h`); None when there is none.

    Raises:
        ImproperlyConfigured: It is not of that form.
    """
    limit = task.rate_limit
    if not limit or limit == "0":
        return None
    text = str(limit)
    number, slash, unit = text.partition("/")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if value < 0 or (slash and unit not in {"s", "m", "h"}):
        raise ImproperlyConfigured(f"rate limit {text!r} of task {task.name} is not N, N/s, N/m or N/h")
    return text


def consumed_queues(app: Celery, wanted: Iterable[str] | None, exclude: Iterable[str] = ()) -> list[str]:
    """The queues a worker takes from.

    Raises:
        ImproperlyConfigured: A queue is not configured, and missing ones may not be made.
    """
    known = app.router.queues
    names = list(known.consume_from)
    if wanted:
        names = []
        for name in wanted:
            try:
                names.append(known[name].name)
            except QueueNotFound as exc:
                raise ImproperlyConfigured(
                    f"queue {name!r} is not in task_queues, and task_create_missing_queues is off"
                ) from exc
    left_out = {known.aliases[name].name if name in known.aliases else name for name in exclude}
    return [name for name in dict.fromkeys(names) if name not in left_out]


def _concurrency(setting: Any) -> int:
    if setting is None or setting == "auto":
        available = getattr(os, "sched_getaffinity", None)
        return len(available(0)) if available is not None else os.cpu_count() or 1
    return int(setting)
