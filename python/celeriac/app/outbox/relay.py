"""Publishes what is in the outbox, and deletes it: at least once each, by any number of relays at the same time."""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from celeriac.app.outbox import table as tables
from celeriac.app.outbox.table import Content
from celeriac.exceptions import ImproperlyConfigured, OperationalError
from celeriac.utils import uuid

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["Relay", "is_in_memory", "publish"]

logger = logging.getLogger("celery.app.outbox")

#: Rows that are taken at once.
CHUNK = 100
#: Seconds that the broker has for what is published together.
PUBLISH_SECONDS = 10.0
#: Seconds for which a relay on SQLite holds rows, where nothing tells that it has died.
HOLD_SECONDS = 30.0
#: Seconds before the next try when database or broker are away: at first, and at the most.
PAUSE_SECONDS = (0.2, 10.0)
#: Rows that are refused one after the other before the broker is taken to be away.
REFUSED_IN_A_ROW = 3
#: Seconds before a row that was refused is tried again, at the most.
LONGEST_HOLD_SECONDS = 300.0
#: Databases that let a reader pass over what another one has locked.
_SKIP_LOCKED = {"postgresql", "mysql", "mariadb", "oracle"}


def is_in_memory(engine: Any) -> bool:
    """Whether a database is gone with its connection."""
    url = engine.url
    return engine.dialect.name == "sqlite" and (
        not url.database or ":memory:" in url.database or "mode=memory" in str(url)
    )


class _Row(NamedTuple):
    id: int
    content: str
    attempts: int


class _Outcome:
    """What became of some rows."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        #: Refused, while others were taken.
        self.refused: list[tuple[_Row, str]] = []
        #: Why nothing more was tried: the broker is away.
        self.away: Exception | None = None


def publish(app: Celery, contents: Sequence[Content], timeout: float | None = PUBLISH_SECONDS) -> None:
    """Publishes as the calls would have done.

    Raises:
        OperationalError: Broker or result backend do not take it.
    """
    client: Any = app._engine.core
    publications = [one for content in contents if content.key is None for one in content.publications]
    for content in contents:
        for name, given in content.steps:
            if name == "guard_chords":
                client.guard_chords(*given, content.publications)
            elif name == "start_chord":
                client.start_chord(*given)
    if publications:
        client.publish(publications, timeout, None, any(content.results for content in contents))
    for content in contents:
        if content.key is not None:
            (publication,) = content.publications
            # With the token of the first attempt: one that was made before is known again.
            other = client.publish_admitted(publication, content.key, timeout, None, content.results)
            if other is None:
                publications.append(publication)
            else:
                headers = publication.headers
                logger.info("%s[%s] is not sent: %s has its key", headers.get("task"), headers.get("id"), other[0])
    if app.conf.task_send_sent_event:
        app.events.tasks_sent(publications)


class Relay:
    """Sends what is in the outbox of one app.

    1. takes some rows that no other relay has;
    2. publishes them together; one by one, if the broker does not take them so;
    3. deletes those that were taken; one that is refused while others are not waits longer each time;
    4. when there are none: waits to be woken (`NOTIFY` on PostgreSQL), and looks from time to time in any case.

    Args:
        app: Whose messages, by the app's name.
        engine: SQLAlchemy's, of a synchronous driver.
    """

    def __init__(self, app: Celery, engine: Any) -> None:
        self._app = app
        self._engine = engine
        self._table = tables.outbox_table(name=app.conf.outbox_table)
        self._locks = engine.dialect.name in _SKIP_LOCKED
        # Written by `stop`, in whatever thread or signal handler.
        self._stopping = False
        # Written to by `stop`, and waited for, while `run` runs: which makes it, and closes it.
        self._wake: tuple[int, int] | None = None

    @classmethod
    def of_url(cls, app: Celery, url: str) -> Relay:
        """A relay with an engine of its own.

        Raises:
            ImproperlyConfigured: The URL or its driver are not usable.
        """
        library = tables.sqlalchemy()
        try:
            engine = library.create_engine(url, pool_pre_ping=True)
        except Exception as exc:
            raise ImproperlyConfigured(f"the outbox's URL cannot be used: {type(exc).__name__}: {exc}") from exc
        if is_in_memory(engine):
            raise ImproperlyConfigured("the outbox is in a database that lives in one process: nobody else can read it")
        if engine.dialect.is_async:
            raise ImproperlyConfigured(
                "the relay needs a synchronous driver: sqlite, postgresql+psycopg, mysql+pymysql"
            )
        return cls(app, engine)

    def create_table(self) -> None:
        """Makes the table, unless it is there."""
        tables.create(self._engine, self._app.conf.outbox_table)

    def close(self) -> None:
        """Lets go of the engine's connections."""
        self._engine.dispose()

    def backlog(self) -> tuple[int, float, int]:
        """How many rows wait, for how many seconds the oldest does, and how many were refused."""
        columns, functions = self._table.c, tables.sqlalchemy().func
        wanted = tables.sqlalchemy().select(
            functions.count(columns.id), functions.min(columns.created_at), functions.count(columns.error)
        )
        with self._engine.connect() as connection:
            count, oldest, refused = connection.execute(wanted.where(columns.app == (self._app.main or ""))).one()
        return count, 0.0 if oldest is None else max(0.0, time.time() - oldest), refused

    # -- sending

    def drain(self) -> int:
        """Sends all that is there; how many rows.

        Raises:
            OperationalError: The broker is away; what is left stays.
            sqlalchemy.exc.SQLAlchemyError: The database is.
        """
        total = 0
        while not self._stopping:
            sent, found = self._some()
            total += sent
            if found < CHUNK:
                break
        return total

    def _some(self) -> tuple[int, int]:
        """Sends some rows; how many, and how many there were."""
        with self._taken() as (connection, rows):
            outcome = self._send(rows)
            self._conclude(connection, rows, outcome)
        if outcome.away is not None:
            raise outcome.away
        return len(outcome.sent), len(rows)

    def _due(self) -> Any:
        columns = self._table.c
        wanted = tables.sqlalchemy().select(columns.id, columns.content, columns.attempts)
        free = columns.held_until.is_(None) | (columns.held_until < time.time())
        return wanted.where(columns.app == (self._app.main or ""), free).order_by(columns.id).limit(CHUNK)

    @contextmanager
    def _taken(self) -> Iterator[tuple[Any, list[_Row]]]:
        """Some rows that nobody else has, and a connection to delete them with."""
        if self._locks:
            # Locked until the end of this transaction; a relay that dies lets go of them.
            with self._engine.begin() as connection:
                yield (
                    connection,
                    [_Row(*row) for row in connection.execute(self._due().with_for_update(skip_locked=True))],
                )
            return
        table, holder = self._table, uuid()
        with self._engine.begin() as connection:
            ids = self._due().with_only_columns(table.c.id).scalar_subquery()
            held = {"holder": holder, "held_until": time.time() + HOLD_SECONDS}
            connection.execute(table.update().where(table.c.id.in_(ids)).values(**held))
            mine = tables.sqlalchemy().select(table.c.id, table.c.content, table.c.attempts)
            found = connection.execute(mine.where(table.c.holder == holder).order_by(table.c.id))
            rows = [_Row(*row) for row in found]
        if not rows:
            yield None, []
            return
        # Nobody is kept from writing while the broker is asked.
        pending = _Pending(self._engine)
        yield pending, rows
        pending.carry_out()

    def _send(self, rows: list[_Row]) -> _Outcome:
        outcome = _Outcome()
        contents: list[tuple[_Row, Content]] = []
        for row in rows:
            try:
                contents.append((row, Content.load(row.content)))
            except Exception as exc:
                outcome.refused.append((row, f"it cannot be read: {exc}"))
        if not contents:
            return outcome
        try:
            publish(self._app, [content for _, content in contents])
        except Exception as exc:
            if len(contents) == 1 and isinstance(exc, OperationalError):
                outcome.away = exc
            else:
                self._send_singly(contents, outcome)
            return outcome
        outcome.sent += [row.id for row, _ in contents]
        return outcome

    def _send_singly(self, contents: list[tuple[_Row, Content]], outcome: _Outcome) -> None:
        """One of them may be what the broker does not take."""
        refused: list[tuple[_Row, str]] = []
        in_a_row = 0
        started = time.monotonic()
        for row, content in contents:
            try:
                publish(self._app, [content])
            except Exception as exc:
                refused.append((row, f"{type(exc).__name__}: {exc}"))
                in_a_row += 1
                if isinstance(exc, OperationalError) and in_a_row == min(REFUSED_IN_A_ROW, len(contents)):
                    # Nothing against these rows.
                    del refused[-in_a_row:]
                    outcome.away = exc
                    break
            else:
                outcome.sent.append(row.id)
                in_a_row = 0
            if time.monotonic() - started > HOLD_SECONDS / 2:
                break
        outcome.refused += refused

    def _conclude(self, connection: Any, rows: list[_Row], outcome: _Outcome) -> None:
        table = self._table
        if outcome.sent:
            connection.execute(table.delete().where(table.c.id.in_(outcome.sent)))
        for row, why in outcome.refused:
            logger.error("Row %d of the outbox cannot be sent (attempt %d): %s", row.id, row.attempts + 1, why)
            until = time.time() + min(2.0**row.attempts, LONGEST_HOLD_SECONDS)
            changed = {"attempts": row.attempts + 1, "error": why[:2000], "held_until": until, "holder": None}
            connection.execute(table.update().where(table.c.id == row.id).values(**changed))
        ended = {*outcome.sent, *(row.id for row, _ in outcome.refused)}
        left = [row.id for row in rows if row.id not in ended]
        if left and not self._locks:
            connection.execute(table.update().where(table.c.id.in_(left)).values(holder=None, held_until=None))

    # -- running

    def run(self) -> None:
        """Sends until it is stopped. Outages of database and broker are logged, and waited for."""
        wake = self._wake = os.pipe()
        os.set_blocking(wake[1], False)
        try:
            self._run(wake[0])
        finally:
            self._wake = None
            for descriptor in wake:
                os.close(descriptor)

    def _run(self, wake: int) -> None:
        pause = PAUSE_SECONDS[0]
        listener: _Listener | None = None
        while not self._stopping:
            try:
                if listener is None:
                    # Before the look: what is committed after it is heard of.
                    listener = _Listener(self._engine)
                    logger.info(
                        "The relay of the outbox %s",
                        "is woken by commits" if listener.hears else "looks from time to time",
                    )
                if (sent := self.drain()) > 0:
                    logger.info("Sent %d rows of the outbox", sent)
                pause = PAUSE_SECONDS[0]
                listener.wait(wake, float(self._app.conf.outbox_poll_seconds))
            except Exception as exc:
                logger.error("The outbox waits %.1f s: %s: %s", pause, type(exc).__name__, exc)
                if listener is not None:
                    listener.close()
                    listener = None
                select.select([wake], [], [], pause)
                pause = min(2 * pause, PAUSE_SECONDS[1])
        if listener is not None:
            listener.close()

    def stop(self, *_: Any) -> None:
        """Ends `run` after what it does right now. May be called by any thread, and is a signal handler."""
        self._stopping = True
        wake = self._wake
        if wake is not None:
            # Closed meanwhile: it has ended.
            with suppress(OSError):
                os.write(wake[1], b"x")


class _Pending:
    """Keeps statements for a transaction of their own."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._statements: list[Any] = []

    def execute(self, statement: Any) -> None:
        """Keeps it."""
        self._statements.append(statement)

    def carry_out(self) -> None:
        """All of them."""
        with self._engine.begin() as connection:
            for statement in self._statements:
                connection.execute(statement)


class _Listener:
    """Waits for PostgreSQL's `NOTIFY`, with the drivers that let us (psycopg, psycopg2); elsewhere for the time alone."""

    def __init__(self, engine: Any) -> None:
        self._connection: Any = None
        if engine.dialect.name != "postgresql":
            return
        connection = engine.raw_connection()
        driver = connection.driver_connection
        # It is ours from now on, and goes back to no pool.
        connection.detach()
        if not (hasattr(driver, "fileno") and hasattr(driver, "autocommit")):
            connection.close()
            return
        driver.rollback()
        driver.autocommit = True
        if hasattr(driver, "add_notify_handler"):
            # Else they are kept for somebody who asks.
            driver.add_notify_handler(_forget)
        from celeriac.app.outbox.session import CHANNEL

        driver.cursor().execute(f"LISTEN {CHANNEL}")
        self._connection = connection
        self._driver = driver

    @property
    def hears(self) -> bool:
        """Whether the database tells of commits."""
        return self._connection is not None

    def wait(self, wake: int, seconds: float) -> None:
        """Until something was committed, somebody wakes, or the time is over.

        Raises:
            Exception: The connection is broken.
        """
        if self._connection is None:
            select.select([wake], [], [], seconds)
            return
        select.select([wake, self._driver.fileno()], [], [], seconds)
        # Takes in what has come, and sees whether the connection still is one.
        self._driver.cursor().execute("SELECT 1")
        notifies = getattr(self._driver, "notifies", None)
        if isinstance(notifies, list):
            notifies.clear()

    def close(self) -> None:
        """Ends the connection."""
        if self._connection is not None:
            with suppress(Exception):
                self._connection.close()


def _forget(_: Any) -> None:
    pass
