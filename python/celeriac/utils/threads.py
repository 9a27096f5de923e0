"""What belongs to one thread, or coroutine; and a thread that runs a method again and again."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import get_ident
from typing import Any

__all__ = ["Local", "LocalStack", "bgThread", "default_socket_timeout", "get_ident", "release_local"]


class Local(threading.local):
    """Attributes that each thread has for itself."""

    def __release_local__(self) -> None:
        self.__dict__.clear()


class LocalStack:
    """A stack that each thread and coroutine has for itself."""

    def __init__(self) -> None:
        self._items: ContextVar[tuple[Any, ...]] = ContextVar("celeriac_stack", default=())

    def push(self, obj: Any) -> list[Any]:
        """Puts an object on top; gives the stack."""
        items = (*self._items.get(), obj)
        self._items.set(items)
        return list(items)

    def pop(self) -> Any:
        """Takes the object on top; None when there is none."""
        items = self._items.get()
        if not items:
            return None
        self._items.set(items[:-1])
        return items[-1]

    @property
    def stack(self) -> list[Any]:
        """The objects, the top one last."""
        return list(self._items.get())

    @property
    def top(self) -> Any:
        """The object on top."""
        items = self._items.get()
        return items[-1] if items else None

    def __len__(self) -> int:
        return len(self._items.get())

    def __release_local__(self) -> None:
        self._items.set(())


def release_local(local: Any) -> None:
    """Empties a `Local` or `LocalStack` in this thread."""
    local.__release_local__()


@contextmanager
def default_socket_timeout(timeout: float | None) -> Iterator[None]:
    """Sets the time-out of new sockets within the block."""
    before = socket.getdefaulttimeout()
    if timeout is not None:
        socket.setdefaulttimeout(timeout)
    try:
        yield
    finally:
        if timeout is not None:
            socket.setdefaulttimeout(before)


class bgThread(threading.Thread):
    """A daemon thread that calls `body` until it is stopped. What `body` raises ends the thread."""

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name or type(self).__name__, daemon=True, **kwargs)
        self._is_shutdown_event = threading.Event()
        self._is_stopped_event = threading.Event()

    def body(self) -> None:
        """To be overridden: one turn."""
        raise NotImplementedError

    def on_crash(self, msg: str, *fmt: Any, **kwargs: Any) -> None:
        """Called when a turn has raised."""
        print(msg.format(*fmt), file=sys.stderr)  # noqa: T201 -- there may be no logging any more

    def run(self) -> None:
        """Turns until stopped."""
        try:
            while not self._is_shutdown_event.is_set():
                try:
                    self.body()
                except Exception as exc:
                    self.on_crash("{0!r} crashed: {1!r}", self.name, exc)
                    return
        finally:
            self._is_stopped_event.set()

    def stop(self) -> None:
        """Asks it to stop, and waits for that."""
        self._is_shutdown_event.set()
        self._is_stopped_event.wait()
        if self.is_alive():
            self.join(threading.TIMEOUT_MAX)
