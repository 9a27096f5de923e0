"""How the message of an entry becomes a firing: noted and published in one step.

An entry is sent by the task's own `apply_async`, which users override and libraries patch. Whatever that does, it ends in
the client's `publish`: there the message is taken, and fired instead.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celeriac.beat.scheduler import NotSent

if TYPE_CHECKING:
    from celeriac._core import Client, Publication, Schedule

    Retry = tuple[int | None, float, float, float | None]

__all__ = ["Firing", "FiringClient"]


@dataclass(slots=True)
class Firing:
    """One moment of an entry, on its way. Belongs to the thread that made it."""

    store: Schedule
    holder: str
    lease: float
    entry: str
    due_ms: int
    state: str
    task_id: str
    #: `sent`, `already` or `not-holder`, once the store has answered.
    outcome: str | None = None
    failure: BaseException | None = None

    def fire(
        self,
        batch: Sequence[Publication] = (),
        timeout: float | None = None,
        retry: Retry | None = None,
        results: bool = False,
    ) -> str:
        """Notes the moment and publishes; gives the outcome."""
        self.outcome = self.store.fire(
            self.holder, self.lease, self.entry, self.due_ms, self.state, batch, timeout, retry, results
        )
        return self.outcome


class FiringClient:
    """A client whose next `publish` is a firing, while there is one; else the client itself."""

    def __init__(self, client: Client) -> None:
        self._client = client
        # `firing`: what each thread is about to fire. One client serves all schedulers of a process.
        self._local = threading.local()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    @contextmanager
    def firing(self, firing: Firing) -> Iterator[None]:
        """While this lasts, the first message that this thread publishes is the entry's."""
        self._local.firing = firing
        try:
            yield
        finally:
            self._local.firing = None

    def publish(
        self,
        batch: Sequence[Publication],
        timeout: float | None = None,
        retry: Retry | None = None,
        results: bool = False,
    ) -> None:
        """Publishes or fires.

        Raises:
            NotSent: The moment was sent before, or another scheduler holds the lease.
        """
        firing: Firing | None = getattr(self._local, "firing", None)
        if firing is None or firing.outcome is not None:
            self._client.publish(batch, timeout, retry, results)
            return
        self._checked(firing.fire(batch, timeout, retry, results))

    def publish_admitted(
        self,
        publication: Publication,
        admission: Any,
        timeout: float | None = None,
        retry: Retry | None = None,
        results: bool = False,
    ) -> Any:
        """The same for a message that needs a key (`overlap`). The moment is noted first: a crash between the two skips it.

        Raises:
            NotSent: The moment was sent before, or another scheduler holds the lease.
        """
        firing: Firing | None = getattr(self._local, "firing", None)
        if firing is not None and firing.outcome is None:
            self._checked(firing.fire((), timeout, retry, results))
        return self._client.publish_admitted(publication, admission, timeout, retry, results)

    def _checked(self, outcome: str) -> None:
        if outcome == "already":
            raise NotSent("this moment was sent before")
        if outcome != "sent":
            raise NotSent("another beat holds the schedule now")
