"""What Celery users import from `utils`."""

from __future__ import annotations

from os import getpid, urandom

from celeriac._core import uuids

# Type checkers take this name for true; importing it would import `typing`.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from functools import cached_property
    from typing import Any

    from celeriac.utils.functional import chunks, memoize, noop
    from celeriac.utils.imports import (
        gen_task_name,
        import_from_cwd,
        instantiate,
    )
    from celeriac.utils.imports import qualname as get_full_cls_name
    from celeriac.utils.imports import symbol_by_name as get_cls_by_name
    from celeriac.utils.log import LOG_LEVELS
    from celeriac.utils.nodenames import nodename, nodesplit, worker_direct

__all__ = [
    "LOG_LEVELS",
    "cached_property",
    "chunks",
    "gen_task_name",
    "gen_unique_id",
    "get_cls_by_name",
    "get_full_cls_name",
    "import_from_cwd",
    "instantiate",
    "memoize",
    "nodename",
    "nodesplit",
    "noop",
    "uuid",
    "worker_direct",
]

#: Name -> its module, and its name there where that is another. Loaded on first use.
_HOMES = {
    "LOG_LEVELS": ("celeriac.utils.log", "LOG_LEVELS"),
    "cached_property": ("functools", "cached_property"),
    "chunks": ("celeriac.utils.functional", "chunks"),
    "gen_task_name": ("celeriac.utils.imports", "gen_task_name"),
    "get_cls_by_name": ("celeriac.utils.imports", "symbol_by_name"),
    "get_full_cls_name": ("celeriac.utils.imports", "qualname"),
    "import_from_cwd": ("celeriac.utils.imports", "import_from_cwd"),
    "instantiate": ("celeriac.utils.imports", "instantiate"),
    "memoize": ("celeriac.utils.functional", "memoize"),
    "nodename": ("celeriac.utils.nodenames", "nodename"),
    "nodesplit": ("celeriac.utils.nodenames", "nodesplit"),
    "noop": ("celeriac.utils.functional", "noop"),
    "worker_direct": ("celeriac.utils.nodenames", "worker_direct"),
}

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


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home[0]), home[1])
    globals()[name] = value
    return value
