"""Messages that are larger than workers take are refused where they are made, with the part that makes them so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celeriac.exceptions import EncodeError
from celeriac.serialization import registry

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["NEVER_TOO_LARGE", "check_size"]

#: Messages up to this size are sent without a look at the settings, in bytes.
NEVER_TOO_LARGE = 64 * 1024


def check_size(app: Celery, task: str, size: int, body: tuple[Any, Any, Any], serializer: str) -> None:
    """Refuses a message that no worker would take.

    Args:
        app: Whose settings.
        task: The task's name.
        size: Bytes of the encoded body.
        body: Arguments, keyword arguments, and what follows.
        serializer: What encodes them.

    Raises:
        EncodeError: It takes more than `worker_max_message_bytes`.
    """
    # What else is in there only workers need.
    from celeriac.app.options import DEFAULT_MAX_MESSAGE_BYTES

    limit = app.conf.values_now()["worker_max_message_bytes"] or DEFAULT_MAX_MESSAGE_BYTES
    if size <= limit:
        return
    args, kwargs, follows = body
    part, part_size = _largest({"args": args, "kwargs": kwargs, **(follows or {})}, serializer)
    raise EncodeError(
        f"the message of task {task} takes {size} bytes, and worker_max_message_bytes allows {limit}; the largest part "
        f"of it is {part} with {part_size} bytes. Pass large values by reference, such as the name of a file."
    )


def _largest(parts: Mapping[str, Any], serializer: str) -> tuple[str, int]:
    """Where most of the bytes are: as far inside as one part has more than half of what is around it."""
    name, value, size = "", parts, 0
    while True:
        inside = {
            f"{name}[{key!r}]" if name else str(key): item
            for key, item in (value.items() if isinstance(value, Mapping) else enumerate(value))
        }
        sizes = {key: _size(item, serializer) for key, item in inside.items()}
        found = max(sizes, key=sizes.__getitem__, default="")
        if not found or (name and sizes[found] <= size // 2):
            return name, size
        name, value, size = found, inside[found], sizes[found]
        if not isinstance(value, (Mapping, list, tuple)):
            return name, size


def _size(value: Any, serializer: str) -> int:
    return len(registry.dumps(value, serializer)[2])
