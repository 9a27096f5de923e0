"""Settings as they may be shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celeriac.utils.urls import without_password

__all__ = ["masked"]

_MASK = "********"
#: A name is a secret's when one of these is in it.
_PARTS = ("credential", "key", "pass", "secret", "signature", "token")
#: These are secrets in mappings too, whatever their names are there.
_ALL_SECRET = frozenset({"webhook_secrets"})
_NOT_SECRET = frozenset({"cassandra_keyspace", "result_key_prefix", "task_default_routing_key"})


def masked(name: str, value: Any) -> Any:
    """The value of a setting with stars for secrets, also for those in mappings and lists and in URLs.

    Args:
        name: What the setting, or the member of a mapping, is called.
        value: What it is.
    """
    if value and name.lower() in _ALL_SECRET:
        return _MASK
    if isinstance(value, Mapping):
        return {key: masked(str(key), item) for key, item in value.items()}
    lower = name.lower()
    if value and lower not in _NOT_SECRET and any(part in lower for part in _PARTS):
        return _MASK
    if isinstance(value, str) and ("url" in lower or "backend" in lower):
        return without_password(value)
    if isinstance(value, (list, tuple)):
        items = [masked(name, item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value
