"""The table of the outbox, and what its rows say."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from functools import cache
from typing import Any, NamedTuple

from celeriac._core import Publication
from celeriac.exceptions import ImproperlyConfigured

__all__ = ["NAME", "Content", "Step", "create", "outbox_table", "sqlalchemy"]

NAME = "celeriac_outbox"

#: What has to be done before messages are sent: a method of the client's, and its arguments.
Step = tuple[str, list[Any]]


def sqlalchemy() -> Any:
    """The library.

    Raises:
        ImproperlyConfigured: It is not installed.
    """
    try:
        import sqlalchemy as library
    except ImportError as exc:
        raise ImproperlyConfigured("the outbox needs SQLAlchemy 2: pip install 'celeriac[sqlalchemy]'") from exc
    if int(library.__version__.split(".")[0]) < 2:
        raise ImproperlyConfigured(f"the outbox needs SQLAlchemy 2, and this is {library.__version__}")
    return library


def outbox_table(metadata: Any = None, name: str = NAME) -> Any:
    """The table, in the metadata of an application: for its migrations. In metadata of its own unless one is given.

    Example:
        >>> outbox_table(Base.metadata)  # before Alembic looks at it

    Args:
        metadata: SQLAlchemy's `MetaData`.
        name: As the setting `outbox_table` says; `schema.name` is understood.
    """
    return _known(name) if metadata is None else _made(metadata, name)


@cache
def _known(name: str) -> Any:
    return _made(sqlalchemy().MetaData(), name)


def _made(metadata: Any, name: str) -> Any:
    library = sqlalchemy()
    schema, _, plain = name.rpartition(".")
    if (f"{schema}.{plain}" if schema else plain) in metadata.tables:
        return metadata.tables[f"{schema}.{plain}" if schema else plain]
    from sqlalchemy.dialects import mysql

    number = library.BigInteger().with_variant(library.Integer(), "sqlite")
    return library.Table(
        plain,
        metadata,
        # Given by the database, in about the order in which they were written.
        library.Column("id", number, primary_key=True, autoincrement=True),
        # Name of the app; a relay sends those of its own. Written once.
        library.Column("app", library.String(200), nullable=False, index=True),
        # What is published, as `Content` writes it. Written once.
        library.Column("content", library.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb"), nullable=False),
        # Seconds since the epoch. Written once; for people and alarms.
        library.Column("created_at", library.Double(), nullable=False),
        # Written by a relay whose broker refused this row, and took others.
        library.Column("attempts", library.Integer(), nullable=False, default=0, server_default="0"),
        library.Column("error", library.Text()),
        # Not to be looked at before then (seconds since the epoch): it was refused, or a relay on SQLite holds it. One
        # that dies leaves it, and another goes on when the time is over.
        library.Column("held_until", library.Double()),
        # Which relay holds it, on SQLite.
        library.Column("holder", library.String(36)),
        schema=schema or None,
    )


def create(engine: Any, name: str = NAME) -> None:
    """Makes the table, unless it is there. `engine`: of SQLAlchemy, or a connection."""
    outbox_table(name=name).create(engine, checkfirst=True)


class Content(NamedTuple):
    """What one call has to send, all of it or nothing."""

    steps: list[Step]
    publications: list[Publication]
    #: Whether anybody wants their results.
    results: bool
    #: The key that the one message has to get, as the engine takes it; None without one.
    key: tuple[Any, ...] | None = None

    def dump(self) -> str:
        """As text: JSON that people can read where the bodies are text."""
        messages = [_plain(publication) for publication in self.publications]
        content = {"v": 1, "steps": self.steps, "messages": messages, "results": self.results}
        return json.dumps(content if self.key is None else {**content, "key": self.key})

    @classmethod
    def load(cls, text: str) -> Content:
        """What was dumped.

        Raises:
            ValueError: It is not that, or of a version to come.
        """
        found = json.loads(text)
        if not isinstance(found, dict) or found.get("v") != 1:
            raise ValueError("the row was written by another version of celeriac")
        steps = [(name, given) for name, given in found["steps"]]
        key = tuple(found["key"]) if "key" in found else None
        return cls(steps, [_publication(message) for message in found["messages"]], bool(found["results"]), key)


def _plain(publication: Publication) -> dict[str, Any]:
    body = publication.body
    try:
        written = {"body": body.decode()}
    except UnicodeDecodeError:
        written = {"body64": b64encode(body).decode()}
    return {
        "headers": publication.headers,
        "properties": publication.properties,
        **written,
        "exchange": publication.exchange,
        "routing_key": publication.routing_key,
        "due_ms": publication.due_ms,
        "declare": publication.declare,
    }


def _publication(message: dict[str, Any]) -> Publication:
    body = message["body"].encode() if "body" in message else b64decode(message["body64"])
    return Publication(
        message["headers"],
        message["properties"],
        body,
        exchange=message["exchange"],
        routing_key=message["routing_key"],
        due_ms=message["due_ms"],
        declare=message["declare"],
    )
