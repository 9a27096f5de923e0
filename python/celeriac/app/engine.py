"""The engine's client of an app, one for each process."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

from celeriac import _state
from celeriac.utils import uuid

if TYPE_CHECKING:
    from celeriac._core import Client
    from celeriac.app.base import Celery

__all__ = ["Engine"]

Front = TypeVar("Front")


class Engine:
    """Makes the client on first use, and a new one after a fork."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._lock = threading.Lock()
        # The client and the process it belongs to: written under the lock, read without it.
        self._held: tuple[int, Client] | None = None
        # The client itself, where something is in front of it. Written with `_held`.
        self._behind: Client | None = None
        self._names = threading.local()
        # The process and the name of its reply queue: written under the lock, read without it.
        self._replies: tuple[int, str] | None = None

    @property
    def client(self) -> Client:
        """The client of this process."""
        held = self._held
        if held is not None and held[0] == _state.pid:
            return held[1]
        return self._connect()

    def _connect(self) -> Client:
        from celeriac._core import Client
        from celeriac.app.stores import connection_options

        app, pid = self._app, os.getpid()
        # Before the lock: whoever is told that settings were read may use the client.
        options = connection_options(app, worker=False)
        with self._lock:
            held = self._held
            if held is None or held[0] != pid:
                # A client inherited through fork is left alone: its threads and sockets are the parent's.
                client = Client(app.broker_url_effective, app.result_backend_effective, options)
                held = (pid, self._with_own_results(self._around_publish(client)))
                self._held, self._behind = held, client
        return held[1]

    def _around_publish(self, client: Client) -> Client:
        """The client, or one whose messages pass what a library has put around kombu's publishing."""
        if "kombu.messaging" not in sys.modules:
            return client
        from celeriac.app.kombu_publish import around_publish

        return around_publish(self._app, client)

    def _with_own_results(self, client: Client) -> Client:
        """The client, or what reads results elsewhere: in a backend that is written in Python."""
        if not self._app.has_own_backend:
            return client
        from celeriac.app.backends import OwnResults

        return cast("Client", OwnResults(self._app, client))

    @property
    def core(self) -> Client:
        """The client of this process itself, whatever is in front of it."""
        client = self.client
        return self._behind or client

    def in_front(self, make: Callable[[Client], Front]) -> Front:
        """Puts something between the app and the client of this process: beat's scheduler sees there what is sent.

        Args:
            make: Makes, of the client, what the app uses instead from now on.
        """
        client = self.core
        front = make(self.client)
        with self._lock:
            self._held, self._behind = (os.getpid(), cast("Client", front)), client
        return front

    def close(self) -> None:
        """Closes this process' client."""
        with self._lock:
            held, self._held, self._behind = self._held, None, None
        if held is not None and held[0] == os.getpid():
            held[1].close()

    def after_fork(self) -> None:
        """The lock may have been held by a thread that this process has not got."""
        self._lock = threading.Lock()

    @property
    def reply_queue(self) -> str:
        """Names the queue of this process' replies."""
        pid = os.getpid()
        held = self._replies
        if held is None or held[0] != pid:
            with self._lock:
                held = self._replies
                if held is None or held[0] != pid:
                    held = self._replies = (pid, uuid())
        return held[1]

    @property
    def thread_oid(self) -> str:
        """Where replies go (`reply_to`): the queue of `rpc://`; else a name of the app in this thread and process."""
        key = (_state.pid, self._app.conf._generation)
        held: tuple[tuple[int, int], str] | None = getattr(self._names, "held", None)
        if held is None or held[0] != key:
            held = self._names.held = (key, self._name(key[0]))
        return held[1]

    def _name(self, pid: int) -> str:
        from uuid import NAMESPACE_OID, getnode, uuid3

        from celeriac.app.stores import uses_replies

        if uses_replies(self._app.conf.values_now()):
            return self.reply_queue
        return str(uuid3(NAMESPACE_OID, f"{getnode()}-{pid}-{id(self)}-{threading.get_ident()}"))
