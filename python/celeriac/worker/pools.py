"""The kinds of pool: what a child is, and how many requests run in it."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Protocol

from celeriac.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Callable

    from celeriac._core import Child
    from celeriac.app.base import Celery

#: Each process runs one request at a time.
ONE_SLOT = frozenset({"prefork", "solo"})
#: Each process runs as many as `-c` says.
SEVERAL_SLOTS = frozenset({"threads", "asyncio", "gevent"})
#: Celery's other names.
_ALIASES = {"processes": "prefork", "multiprocessing": "prefork", "thread": "threads"}
_HINT = "use -P prefork, threads, asyncio, gevent or solo"


class Loop(Protocol):
    """What serves the requests of a child with several slots."""

    def run(self) -> None:
        """Serves until the child is told to stop and has nothing left."""


def pool_name(name: str) -> str:
    """The pool that a name on the command line or in `worker_pool` means.

    Raises:
        ImproperlyConfigured: There is no such pool, or what it needs is not installed; the text says what to do.
    """
    pool = _ALIASES.get(name, name)
    if pool == "gevent" and importlib.util.find_spec("gevent") is None:
        raise ImproperlyConfigured("-P gevent needs gevent: pip install gevent (or use -P threads or -P asyncio)")
    if pool == "eventlet":
        raise ImproperlyConfigured("-P eventlet is not supported, eventlet itself advises against it: use -P gevent")
    if pool == "custom":
        raise ImproperlyConfigured(
            f"-P custom: pools of your own (CELERY_CUSTOM_WORKER_POOL) are not supported; {_HINT}"
        )
    if pool not in ONE_SLOT | SEVERAL_SLOTS:
        raise ImproperlyConfigured(f"there is no pool {name!r}; {_HINT}")
    return pool


def loop_maker(pool: str) -> Callable[[Celery, str, Child, int], Loop]:
    """What makes the loop of a child with several slots: (app, node name, channel, slots) -> loop."""
    if pool == "threads":
        from celeriac.worker.threads import ThreadLoop

        return ThreadLoop
    if pool == "asyncio":
        from celeriac.worker.event_loop import EventLoop

        return EventLoop
    from celeriac.worker.greenlets import GreenletLoop

    return GreenletLoop
