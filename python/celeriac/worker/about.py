"""What a worker tells of itself: made once, when it starts, so that the engine can answer without Python."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from celeriac.utils.nodenames import node_format
from celeriac.utils.secrets import masked
from celeriac.worker.control import Panel

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.task import Task

__all__ = ["control_options"]

#: Attributes of tasks that `inspect registered` can show.
_ATTRIBUTES = (
    "acks_late", "acks_on_failure_or_timeout", "compression", "default_retry_delay", "exchange", "expires",
    "ignore_result", "max_retries", "priority", "queue", "rate_limit", "reject_on_worker_lost", "resultrepr_maxsize",
    "routing_key", "send_events", "serializer", "soft_time_limit", "store_errors_even_if_ignored", "time_limit",
    "track_started", "trail", "typing",
)  # fmt: skip
_PORTS = {"redis": 6379, "rediss": 6379, "amqp": 5672, "pyamqp": 5672, "amqps": 5671}


def control_options(app: Celery, node: str, *, pool: str, without_mingle: bool = False) -> dict[str, Any]:
    """The option `control` of `_core.Worker`.

    Args:
        app: The app; it is finalised.
        node: The worker's node name.
        pool: The kind of pool.
        without_mingle: Do not ask other workers for their revoked tasks.
    """
    conf = app.conf
    memory = app.broker_read_url_effective.startswith("memory:")
    return {
        "enabled": bool(conf.worker_enable_remote_control),
        "exchange": f"{conf.control_exchange}.pidbox",
        "mingle": bool(conf.worker_enable_remote_control) and not without_mingle and not memory,
        "state_file": node_format(str(conf.worker_state_db), node) if conf.worker_state_db else None,
        "pool_restarts": bool(conf.worker_pool_restarts),
        "commands": Panel.own(),
        "conf": _json(conf.table(with_defaults=False)),
        "conf_with_defaults": _json(conf.table(with_defaults=True)),
        "report": app.bugreport(),
        "tasks": _json({name: _attributes(task) for name, task in app.tasks.items()}),
        "broker": _json(_broker(app)),
        "pool": f"celeriac.concurrency.{pool}:TaskPool",
        "max_tasks_per_child": conf.worker_max_tasks_per_child,
    }


def _json(value: Any) -> str:
    return json.dumps(_plain(value), default=repr, allow_nan=False)


def _plain(value: Any) -> Any:
    """The same in what every reader of JSON knows: keys are texts, numbers finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def _attributes(task: Task[..., Any]) -> dict[str, str]:
    """What a task says of itself: its options, and what its class adds in plain values."""
    found: dict[str, Any] = {}
    for owner in (*reversed(type(task).__mro__), task):
        plain = (str, int, float, list, tuple)
        found |= {name: value for name, value in vars(owner).items() if name[0] != "_" and isinstance(value, plain)}
    found.update((name, getattr(task, name, None)) for name in _ATTRIBUTES)
    return {name: str(value) for name, value in found.items() if value is not None}


def _broker(app: Celery) -> dict[str, Any]:
    """The connection as kombu describes one."""
    conf = app.conf
    try:
        parts = urlsplit(app.broker_read_url_effective.split(";")[0])
    except ValueError:
        # The engine says what is wrong with it, without its password.
        parts = urlsplit("")
    scheme = parts.scheme
    amqp = scheme in {"amqp", "amqps", "pyamqp"}
    place = unquote(parts.path.removeprefix("/"))
    try:
        port = parts.port
    except ValueError:
        port = None
    return {
        "hostname": parts.hostname,
        "userid": unquote(parts.username) if parts.username else ("guest" if amqp else None),
        "virtual_host": place or ("/" if amqp else "0"),
        "port": port or _PORTS.get(scheme),
        "insist": False,
        "ssl": bool(conf.broker_use_ssl) or scheme in {"rediss", "amqps"},
        "transport": {"pyamqp": "amqp"}.get(scheme, scheme),
        "connect_timeout": conf.broker_connection_timeout,
        "transport_options": masked("broker_transport_options", dict(conf.broker_transport_options or {})),
        "login_method": (conf.broker_login_method or "PLAIN") if amqp else None,
        "uri_prefix": None,
        "heartbeat": conf.broker_heartbeat,
        "failover_strategy": conf.broker_failover_strategy or "round-robin",
        "alternates": [],
        "credential_provider": None,
    }
