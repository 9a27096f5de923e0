"""What users call: the outbox of a session, and `delay_on_commit`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from celeriac._state import get_current_app
from celeriac.app.outbox import table as tables
from celeriac.app.outbox.capture import capture
from celeriac.app.outbox.table import Content

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["CHANNEL", "outbox", "send_on_commit"]

logger = logging.getLogger("celery.app.outbox")

#: PostgreSQL's channel on which relays are told of new rows.
CHANNEL = "celeriac_outbox"
_KEY = "celeriac"


class outbox:
    """While this lasts, tasks that are sent become rows, in the transaction of a session of SQLAlchemy's.

    They are sent when it is committed, and never if it is rolled back; so are workflows, each as a whole. Results and
    ids are those of any call. Right after the commit a thread of this process publishes them (the setting
    `outbox_direct`); what it cannot, or does not live to, is sent by a relay: `celeriac outbox-relay`, or `worker
    --outbox URL`. Each is sent at least once.

    Example:
        >>> with Session() as session, session.begin():
        ...     session.add(order)
        ...     with celeriac.outbox(session):
        ...         bill.delay(order.number)

    Args:
        session: A `Session`, a `scoped_session`, or an `AsyncSession` (then: `async with`).
        app: Whose tasks; the current app unless given.

    Raises:
        TypeError: It is no session.
        ImproperlyConfigured: SQLAlchemy 2 is not installed.
    """

    def __init__(self, session: Any, app: Celery | None = None) -> None:
        self._given = session
        self._session, self._is_async = _session_of(session)
        self._app = app or get_current_app()
        self._watched = _Watched.of(self._session)
        self._capture: AbstractContextManager[None] | None = None

    #: The table in the application's own metadata, for its migrations; see `table.outbox_table`.
    table = staticmethod(tables.outbox_table)
    #: Makes the table: `celeriac.outbox.create(engine)`.
    create = staticmethod(tables.create)

    def __enter__(self) -> outbox:
        if self._is_async:
            raise TypeError("this is an AsyncSession: use `async with celeriac.outbox(session)`")
        return self._begin(self._write)

    def __exit__(self, *exc: object) -> None:
        self._end(*exc)

    async def __aenter__(self) -> outbox:
        # Rows are written when the block ends, or before a commit in it: here nothing can be awaited.
        return self._begin(self._watched.keep if self._is_async else self._write)

    async def __aexit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self._end(kind, *exc)
        if not self._is_async:
            return
        rows = self._watched.taken()
        if kind is None and rows:
            await self._given.run_sync(lambda session: _Watched.of(session).write(rows))

    def _begin(self, taker: Callable[[Celery, Content], None]) -> outbox:
        self._capture = capture(self._app, taker)
        self._capture.__enter__()
        return self

    def _end(self, *exc: Any) -> None:
        assert self._capture is not None
        self._capture.__exit__(*exc)

    def _write(self, app: Celery, content: Content) -> None:
        self._watched.write([(app, _row(app, content))])


def send_on_commit(app: Celery, session: Any, call: Callable[[], Any]) -> Any:
    """Makes a call whose messages are published when the transaction of a session is committed; without a table.

    A process that dies in between has lost them: that is what the outbox is for.

    Args:
        app: Whose tasks.
        session: As for `outbox`.
        call: Sends; what it gives is given.
    """
    real, is_async = _session_of(session)
    watched = _Watched.of(real)
    watched.is_async = is_async
    with capture(app, watched.remember):
        return call()


def _session_of(given: Any) -> tuple[Any, bool]:
    """The synchronous session, and whether it belongs to one that is not."""
    tables.sqlalchemy()
    from sqlalchemy.orm import Session, scoped_session

    if isinstance(given, Session):
        return given, False
    if isinstance(given, scoped_session) or hasattr(given, "registry"):
        return _session_of(given())
    inner = getattr(given, "sync_session", None)
    if isinstance(inner, Session):
        return inner, True
    raise TypeError(f"{given!r} is no session of SQLAlchemy's: give a Session, a scoped_session or an AsyncSession")


def _row(app: Celery, content: Content) -> dict[str, Any]:
    return {"app": app.main or "", "content": content.dump(), "created_at": time.time()}


class _Watched:
    """What we know of a session, kept in its `info`. It belongs to the thread that the session belongs to.

    1. writes rows, tells PostgreSQL's listeners of them at the commit, and the thread of this process after it;
    2. publishes after the commit what has no rows, and forgets it with a rollback, also to a savepoint.
    """

    @classmethod
    def of(cls, session: Any) -> _Watched:
        """The one of this session."""
        found = session.info.get(_KEY)
        if found is None:
            found = session.info[_KEY] = cls(session)
        return found  # type: ignore[no-any-return]

    def __init__(self, session: Any) -> None:
        from sqlalchemy import event

        self._session = session
        self.is_async = False
        # Rows that an asynchronous block has still to write.
        self._waiting: list[tuple[Celery, dict[str, Any]]] = []
        # Apps and engines with rows in the current transaction.
        self._written: dict[tuple[int, int], tuple[Celery, Any]] = {}
        # What is published after the commit, and the transaction it was sent in.
        self._remembered: list[tuple[Any, Celery, Content]] = []
        event.listen(session, "before_commit", self._before_commit)
        event.listen(session, "after_commit", self._after_commit)
        event.listen(session, "after_soft_rollback", self._after_rollback)
        event.listen(session, "after_transaction_end", self._after_end)

    # -- the outbox

    def keep(self, app: Celery, content: Content) -> None:
        """Keeps a row until it can be written."""
        self._waiting.append((app, _row(app, content)))

    def taken(self) -> list[tuple[Celery, dict[str, Any]]]:
        """What is kept; it is not any more."""
        rows, self._waiting = self._waiting, []
        return rows

    def write(self, rows: list[tuple[Celery, dict[str, Any]]]) -> None:
        """Writes rows, in the session's transaction."""
        session = self._session
        for app, row in rows:
            table = tables.outbox_table(name=app.conf.outbox_table)
            insert = table.insert().values(**row)
            session.execute(insert)
            engine = session.get_bind(clause=insert)
            # Of a session that was made for a connection.
            engine = getattr(engine, "engine", engine)
            self._written[id(app), id(engine)] = app, engine

    def _before_commit(self, session: Any) -> None:
        self.write(self.taken())
        if session.in_nested_transaction():
            return
        from sqlalchemy import text

        for _, engine in self._written.values():
            if engine.dialect.name == "postgresql":
                # Delivered with the commit, or not at all.
                session.execute(text(f"NOTIFY {CHANNEL}"), bind_arguments={"bind": engine})

    # -- on commit

    def remember(self, app: Celery, content: Content) -> None:
        """Keeps messages for the commit."""
        session = self._session
        if not session.in_transaction():
            # As any use of a session does. Without one, nobody would tell us of a rollback.
            session.begin()
        within = session.get_nested_transaction() or session.get_transaction()
        self._remembered.append((within, app, content))

    def _after_commit(self, session: Any) -> None:
        if session.in_nested_transaction():
            # A savepoint was released.
            return
        written, self._written = self._written, {}
        remembered, self._remembered = self._remembered, []
        for app, engine in written.values():
            if app.conf.outbox_direct and not engine.dialect.is_async:
                from celeriac.app.outbox.direct import after_commit

                after_commit(app, engine)
        for _, app, content in remembered:
            if self.is_async:
                import asyncio

                asyncio.get_running_loop().run_in_executor(None, _publish, app, content)
            else:
                _publish(app, content)

    def _after_rollback(self, session: Any, ended: Any) -> None:
        self._remembered = [entry for entry in self._remembered if not _is_in(entry[0], ended)]

    def _after_end(self, session: Any, ended: Any) -> None:
        if ended.parent is None:
            # Closed without a commit, perhaps.
            self._remembered.clear()
            self._written.clear()


def _is_in(transaction: Any, outer: Any) -> bool:
    """Whether one is, or is within, the other."""
    while transaction is not None:
        if transaction is outer:
            return True
        transaction = transaction.parent
    return False


def _publish(app: Celery, content: Content) -> None:
    from celeriac.app.outbox.relay import publish

    try:
        publish(app, [content], None)
    except Exception as exc:
        # It is committed: an error now would only leave the session in a state that nobody expects.
        names = ", ".join(f"{one.headers.get('task')}[{one.headers.get('id')}]" for one in content.publications)
        logger.error("After the commit, this was not sent and is lost: %s: %r", names, exc, exc_info=exc)
