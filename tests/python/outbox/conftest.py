"""A database on SQLite and on a real PostgreSQL, an app with a broker in a file, and what waits there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import celeriac
from celeriac.app.base import Celery
from celeriac.app.outbox.table import outbox_table

from ..integration.conftest import wait_until
from ..servers.shared import Shared


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    number: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, shared: Shared) -> str:
    """URL of an empty database."""
    return f"sqlite:///{tmp_path / 'shop.db'}" if request.param == "sqlite" else shared.postgres()


@pytest.fixture
def engine(database: str) -> Iterator[Any]:
    made = create_engine(database)
    Base.metadata.create_all(made)
    celeriac.outbox.create(made)
    yield made
    made.dispose()


class Shop:
    """An app, and what is in its broker and in the database."""

    def __init__(self, engine: Any, folder: Path) -> None:
        self.engine = engine
        url = f"sqlite:///{folder / 'queue.db'}"
        self.app = Celery("shop", broker=url, backend=url, set_as_current=False)

        @self.app.task(name="shop.bill")
        def bill(number: int, *more: Any) -> int:
            return number

        self.bill = bill
        self.table = outbox_table()

    def waiting(self) -> int:
        """Messages in the broker."""
        return sum(queue["ready"] + queue.get("parked", 0) for queue in self.app.client.queues())

    def rows(self) -> int:
        """Rows in the outbox."""
        with Session(self.engine) as session:
            return session.scalar(select(func.count()).select_from(self.table)) or 0

    def orders(self) -> int:
        with Session(self.engine) as session:
            return session.scalar(select(func.count()).select_from(Order)) or 0

    def arrived(self, count: int) -> None:
        """Waits until the broker has that many messages, and the outbox none."""
        wait_until(lambda: self.waiting() == count and self.rows() == 0, f"{count} messages sent")

    def taken(self) -> list[dict[str, Any]]:
        """Headers of what is in the broker; it is given back."""
        consumer = self.app.client.consume(["celery"], "test@here")
        found = [delivery.headers or {} for delivery in consumer.claim(1000, 5.0)]
        consumer.close()
        return found


@pytest.fixture
def make_shop(engine: Any, tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    made: list[Shop] = []

    def make(**settings: Any) -> Shop:
        shop = Shop(engine, tmp_path)
        shop.app.conf.update(settings)
        made.append(shop)
        return shop

    yield make
    for shop in made:
        shop.app.close()


@pytest.fixture
def shop(make_shop: Callable[..., Shop]) -> Shop:
    """Its messages stay in the outbox until a relay is asked."""
    return make_shop(outbox_direct=False)
