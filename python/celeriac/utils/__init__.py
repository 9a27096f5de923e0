"""What Celery users import from `utils`."""

from __future__ import annotations

from os import getpid, urandom

from celeriac._core import uuids

__all__ = ["gen_unique_id", "uuid"]

_BATCH = 64

# Those made in advance, and the process they belong to: one that was forked off must not use them again.
_held: tuple[int, list[str]] = (0, [])


def uuid() -> str:
    """A random (version 4) UUID as text."""
    global _held
    pid, ready = _held
    if pid == getpid():
        try:
            return ready.pop()
        except IndexError:
            pass
    ready = uuids(urandom(16 * _BATCH))
    first = ready.pop()
    _held = (getpid(), ready)
    return first


gen_unique_id = uuid
