"""`app.control`: commands to workers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from celeriac._core import Publication
from celeriac.serialization import json

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["Control"]

#: A worker that connects later than this does not see the command any more.
_SECONDS_TO_LIVE = 60.0


class Control:
    """Sends commands to all workers, or to some.

    Args:
        app: Whose broker.
    """

    def __init__(self, app: Celery) -> None:
        self.app = app

    def broadcast(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        destination: Iterable[str] | str | None = None,
        connection: Any = None,
        reply: bool = False,
        timeout: float = 1.0,
        limit: int | None = None,
        callback: Any = None,
        channel: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
        **extra_kwargs: Any,
    ) -> None:
        """Sends a command.

        Args:
            command: Its name.
            arguments: Its arguments; unknown keywords are added to them.
            destination: Node names; all workers unless given.
            connection: Accepted for compatibility, as are channel, limit and callback.
            reply: Not in this version.
            timeout: For replies.
            limit: For replies.
            callback: For replies.
            channel: Accepted for compatibility.
            pattern: Node names that match it.
            matcher: `glob` or `pcre`.
            **extra_kwargs: More arguments of the command.

        Raises:
            NotImplementedError: A reply is asked for.
            ValueError: The destination is not a list of names.
        """
        if reply:
            raise NotImplementedError("replies to control commands come in a later version")
        if destination is not None and not isinstance(destination, (list, tuple)):
            raise ValueError(f"destination must be a list/tuple not {type(destination)}")
        body = json.dumps(
            {
                "method": command,
                "arguments": {**(arguments or {}), **extra_kwargs},
                "destination": None if destination is None else list(destination),
                "pattern": pattern,
                "matcher": matcher,
            }
        )
        exchange = f"{self.app.conf.control_exchange}.pidbox"
        properties = {
            "content_type": json.CONTENT_TYPE,
            "content_encoding": json.CONTENT_ENCODING,
            "delivery_mode": 1,
        }
        headers = {"clock": 0, "expires": 0}
        publication = Publication(headers, properties, body, exchange=exchange, routing_key="")
        self.app.client.broadcast(exchange, publication, _SECONDS_TO_LIVE)

    def revoke(
        self,
        task_id: str | Iterable[str],
        destination: Iterable[str] | None = None,
        terminate: bool = False,
        signal: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Asks workers not to run a task, or several.

        Args:
            task_id: One id, or a list of them.
            destination: Node names; all workers unless given.
            terminate: End the process that runs it already.
            signal: The signal's name; SIGTERM unless given.
            **kwargs: As for `broadcast`.
        """
        ids = task_id if isinstance(task_id, str) else [str(item) for item in task_id]
        arguments = {"task_id": ids, "terminate": terminate, "signal": signal or "SIGTERM"}
        self.broadcast("revoke", arguments, destination=destination, **kwargs)

    def terminate(
        self,
        task_id: str | Iterable[str],
        destination: Iterable[str] | None = None,
        signal: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Ends the process that runs a task, and revokes it."""
        self.revoke(task_id, destination=destination, terminate=True, signal=signal, **kwargs)

    def purge(self, connection: Any = None) -> int:
        """Removes all waiting messages from the queues of the settings; gives how many."""
        names = {queue.name for queue in self.app.router.queues.values()}
        return sum(self.app.client.purge(name) for name in sorted(names))

    discard_all = purge
