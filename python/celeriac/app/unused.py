"""Settings that are read and do nothing here, each with the reason. Whoever sets one is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from celeriac.app.defaults import SETTINGS

if TYPE_CHECKING:
    from celeriac.app.settings import Settings

__all__ = ["without_effect"]

_CONNECTIONS = "a process has one connection, which all of it shares"
_ENGINE = "the engine has no such part"
_RPC = "rpc:// answers through the default exchange"
_SIGNED = "signed messages are not in this version"
_RETRIES = "the engine tries again by itself, within the time of the call"

_REASONS = {
    "beat_enable_remote_control": "beats answer no commands: `schedule list` shows what they do",
    "beat_remote_control_max_tick_age": "beats answer no commands: `schedule list` shows what they do",
    "broker_channel_error_retry": "a channel that the broker closes is opened again",
    "broker_heartbeat_checkrate": "heartbeats are watched all the time",
    "broker_pool_acquire_timeout": _CONNECTIONS,
    "broker_pool_limit": _CONNECTIONS,
    "control_queue_expires": "queues of commands have the engine's own limits",
    "control_queue_ttl": "queues of commands have the engine's own limits",
    "event_queue_expires": "queues of events have the engine's own limits",
    "redis_backend_credential_provider": "give user and password, in the URL or as redis_username and redis_password",
    "redis_max_connections": _CONNECTIONS,
    "redis_retry_on_timeout": _RETRIES,
    "result_backend_always_retry": _RETRIES,
    "result_backend_base_sleep_between_retries_ms": _RETRIES,
    "result_backend_max_retries": _RETRIES,
    "result_backend_max_sleep_between_retries_ms": _RETRIES,
    "result_cache_max": "the program remembers the results that it holds, and no others",
    "result_compression": "results are stored as they are; packed ones of Celery's workers are read",
    "result_exchange": _RPC,
    "result_exchange_type": _RPC,
    "security_cert_store": _SIGNED,
    "security_certificate": _SIGNED,
    "security_key": _SIGNED,
    "task_remote_tracebacks": "tracebacks come as text, in result.traceback",
    "worker_agent": _ENGINE,
    "worker_autoscaler": "the engine grows and shrinks the pool, see --autoscale",
    "worker_cancel_long_running_tasks_on_connection_loss": "tasks go on while the broker is away",
    "worker_consumer": _ENGINE,
    "worker_deduplicate_successful_tasks": "leases, not stored results, keep a task from being run twice",
    "worker_eta_task_limit": "tasks with an ETA wait in the broker",
    "worker_lost_wait": "a lost process is known at once",
    "worker_timer": _ENGINE,
}
#: Beginnings of the names of settings of stores that are not in this version.
_STORES = (
    "arangodb_",
    "azureblockblob_",
    "cache_",
    "cassandra_",
    "cosmosdbsql_",
    "couchbase_",
    "database_",
    "elasticsearch_",
    "gcs_",
    "mongodb_",
    "s3_",
)


def without_effect(conf: Settings) -> Iterator[tuple[str, str]]:
    """Settings that were given another value than their default and do nothing, each with the reason."""
    for name, setting in SETTINGS.items():
        reason = _REASONS.get(name)
        if reason is None and name.startswith(_STORES):
            reason = "that store is not in this version"
        if reason is not None and conf.get(name) != setting.default:
            yield name, reason
