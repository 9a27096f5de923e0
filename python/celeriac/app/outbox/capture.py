"""Takes what would be published: something in front of an app's client, while somebody wants it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from celeriac.app.outbox.table import Content, Step

if TYPE_CHECKING:
    from celeriac._core import Client, Completions, Publication
    from celeriac.app.base import Celery

    Retry = tuple[int | None, float, float, float | None]
    #: Key, kind, longest wait, task id, token and time to live.
    Wanted = tuple[str, str, int | None, str, str, int]

__all__ = ["Taker", "capture"]

#: Gets what is not published, and the app whose it is.
Taker = Callable[["Celery", Content], None]

# Who takes what is sent here; each thread and coroutine has its own.
_taker: ContextVar[Taker | None] = ContextVar("celeriac_outbox", default=None)
# What the next messages need first: chords are started before their parts are sent.
_steps: ContextVar[list[Step] | None] = ContextVar("celeriac_outbox_steps", default=None)


@contextmanager
def capture(app: Celery, taker: Taker) -> Iterator[None]:
    """While this lasts, nothing that is sent here by this app is published: the taker gets it."""
    begin(app)
    tokens = _taker.set(taker), _steps.set([])
    try:
        yield
    finally:
        _taker.reset(tokens[0])
        _steps.reset(tokens[1])


def begin(app: Celery) -> None:
    """Puts the front before the client of this process; apps without an outbox have none, and pay nothing."""
    if not isinstance(app.client, CapturingClient):
        app._engine.in_front(lambda client: CapturingClient(app, client))


class CapturingClient:
    """A client that gives what it is to publish to the taker of this thread or coroutine, if there is one."""

    def __init__(self, app: Celery, client: Client) -> None:
        self._app = app
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def publish(
        self,
        batch: Sequence[Publication],
        timeout: float | None = None,
        retry: Retry | None = None,
        results: bool = False,
    ) -> None:
        """Publishes, or gives to the taker."""
        taker = _taker.get()
        if taker is None:
            self._client.publish(batch, timeout, retry, results)
        else:
            taker(self._app, Content(self._taken_steps(), list(batch), results))

    def publish_later(
        self,
        batch: Sequence[Publication],
        timeout: float | None,
        retry: Retry | None,
        results: bool,
        completions: Completions,
        token: int,
    ) -> None:
        """The same for coroutines."""
        if _taker.get() is None:
            self._client.publish_later(batch, timeout, retry, results, completions, token)
            return
        from celeriac.result import _aio

        self.publish(batch, timeout, retry, results)
        _aio.answer(token, _nothing())

    def publish_admitted(
        self,
        publication: Publication,
        wanted: Wanted,
        timeout: float | None = None,
        retry: Retry | None = None,
        results: bool = False,
    ) -> tuple[str, int | None] | None:
        """The same of a call that wants a key. Who has it shows when it is published.

        Raises:
            ValueError: The call is debounced: others would have to know it by then.
        """
        taker = _taker.get()
        if taker is None:
            return self._client.publish_admitted(publication, wanted, timeout, retry, results)
        if wanted[1] == "d":
            raise ValueError("debounce cannot be combined with an outbox or on_commit: debounce the task that it calls")
        taker(self._app, Content(self._taken_steps(), [publication], results, wanted))
        return None

    def publish_admitted_later(
        self,
        publication: Publication,
        wanted: Wanted,
        timeout: float | None,
        retry: Retry | None,
        results: bool,
        completions: Completions,
        token: int,
    ) -> None:
        """The same for coroutines."""
        if _taker.get() is None:
            self._client.publish_admitted_later(publication, wanted, timeout, retry, results, completions, token)
            return
        from celeriac.result import _aio

        self.publish_admitted(publication, wanted, timeout, retry, results)
        _aio.answer(token, _nothing())

    def start_chord(self, group_id: str, size: int, expires_ms: int | None = None) -> None:
        """Starts a chord, or notes that it is to be started."""
        self._do_or_note("start_chord", group_id, size, expires_ms)

    def guard_chords(self, group_ids: Sequence[str], publications: Sequence[Publication]) -> None:
        """Has chords looked after, or notes it."""
        if _taker.get() is None:
            self._client.guard_chords(group_ids, publications)
        else:
            self._do_or_note("guard_chords", list(group_ids))

    def broadcast(self, exchange: str, publication: Publication, ttl: float) -> None:
        """Says something to whoever listens; that a task was sent is said by who sends it."""
        if _taker.get() is None or publication.routing_key != "task.sent":
            self._client.broadcast(exchange, publication, ttl)

    def _do_or_note(self, name: str, *given: Any) -> None:
        steps = _steps.get()
        if _taker.get() is None or steps is None:
            getattr(self._client, name)(*given)
        else:
            steps.append((name, list(given)))

    def _taken_steps(self) -> list[Step]:
        steps = _steps.get()
        taken = list(steps or ())
        if steps:
            steps.clear()
        return taken


async def _nothing() -> None:
    pass
