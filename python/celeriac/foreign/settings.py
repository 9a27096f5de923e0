"""The settings of Celery's app, as ours."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celeriac.app.defaults import SETTINGS
from celeriac.exceptions import ImproperlyConfigured
from celeriac.foreign import schedules

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["translate"]

#: What Celery means when nobody names a broker.
DEFAULT_BROKER = "amqp://guest:guest@localhost:5672//"
#: Result backends that the engine writes to; results of all others are stored by Celery's own code, in the children.
_STORES = ("redis", "rediss", "redis+socket", "sentinel", "rpc")
#: Applied by Celery to its own tasks: ours take the outcome.
_APPLIED = frozenset({"task_annotations"})
#: Setting -> the one whose value it has unless it is set.
_FOLLOWING = {
    "broker_read_url": "broker_url",
    "broker_write_url": "broker_url",
    "task_default_exchange": "task_default_queue",
    "task_default_routing_key": "task_default_queue",
}
#: Celery's own classes; ours stand for them.
_OWN_SCHEDULERS = frozenset({"celery.beat:PersistentScheduler", "celery.beat.PersistentScheduler"})


def translate(conf: Any) -> dict[str, Any]:
    """What differs from our defaults.

    Args:
        conf: `app.conf` of Celery's app. Reading it loads it.

    Raises:
        ImproperlyConfigured: The app depends on something that only Celery's own worker does.
    """
    found: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        value = _value(conf, name, setting.default)
        if isinstance(value, timedelta) and isinstance(setting.default, (int, float)):
            value = value.total_seconds()
        if name not in _APPLIED and not _same(value, setting.default):
            found[name] = value
    for name, usual in _FOLLOWING.items():
        # Where nothing else is said, Celery answers with that of another setting.
        if name in found and found[name] == _value(conf, usual, None):
            del found[name]
    if not any(found.get(name) for name in ("broker_url", "broker_read_url", "broker_write_url", "broker_host")):
        found["broker_url"] = DEFAULT_BROKER
    found["result_backend"] = _result_backend(found.get("result_backend"))
    found["beat_schedule"] = schedules.entries(found.get("beat_schedule"))
    if found.get("beat_scheduler") in _OWN_SCHEDULERS:
        del found["beat_scheduler"]
    _refuse_signing(found)
    return found


def _value(conf: Any, name: str, default: Any) -> Any:
    try:
        # As an attribute: some settings have rules of their own there.
        return getattr(conf, name)
    except (AttributeError, KeyError):
        return default


def _same(value: Any, default: Any) -> bool:
    try:
        return isinstance(value, bool) is isinstance(default, bool) and bool(value == default)
    except Exception:
        return False


def _result_backend(given: Any) -> str:
    """The backend, if the engine can write to it."""
    if not isinstance(given, str):
        return "disabled://"
    scheme, separator, _ = given.partition("://")
    if scheme not in _STORES:
        return "disabled://"
    return given if separator else f"{given}://"


def _refuse_signing(found: Mapping[str, Any]) -> None:
    accepted = found.get("accept_content") or ()
    if "auth" in accepted or found.get("task_serializer") == "auth":
        raise ImproperlyConfigured(
            "this app signs its messages (the serializer 'auth'), which this version of celeriac cannot read: "
            "run it with Celery's own worker"
        )
