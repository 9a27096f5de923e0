"""What is sent within an outbox follows the session's transaction."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import celeriac
from celeriac import chain, chord, group
from celeriac.app.outbox.relay import Relay
from celeriac.app.outbox.table import Content, outbox_table

from .conftest import Order, Shop


def test_nothing_is_published_before_a_relay_sends_it_after_the_commit(shop: Shop) -> None:
    with Session(shop.engine) as session, session.begin():
        session.add(Order(number=17))
        with celeriac.outbox(session, shop.app):
            result = shop.bill.delay(17)
            options = shop.bill.apply_async((18,), countdown=3600, headers={"mine": 1}, priority=5)
        assert shop.waiting() == 0
    assert (shop.waiting(), shop.rows(), shop.orders()) == (0, 2, 1)

    assert Relay(shop.app, shop.engine).drain() == 2

    assert (shop.waiting(), shop.rows()) == (2, 0)
    by_id = {headers["id"]: headers for headers in shop.taken()}
    assert by_id[result.id]["argsrepr"] == "(17,)"
    assert options.id not in by_id, "it is parked until it is due"


def test_a_rollback_sends_nothing(shop: Shop) -> None:
    def fail() -> None:
        with Session(shop.engine) as session, session.begin():
            session.add(Order(number=17))
            with celeriac.outbox(session, shop.app):
                shop.bill.delay(17)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with Session(shop.engine) as session:
        session.add(Order(number=18))
        with celeriac.outbox(session, shop.app):
            shop.bill.delay(18)
        # Closed without a commit.

    assert Relay(shop.app, shop.engine).drain() == 0
    assert (shop.waiting(), shop.rows(), shop.orders()) == (0, 0, 0)


def test_a_rollback_to_a_savepoint_takes_its_own_messages_back(shop: Shop) -> None:
    with Session(shop.engine) as session, session.begin():
        with celeriac.outbox(session, shop.app):
            kept = shop.bill.delay(1)
        savepoint = session.begin_nested()
        with celeriac.outbox(session, shop.app):
            shop.bill.delay(2)
        savepoint.rollback()
        with session.begin_nested(), celeriac.outbox(session, shop.app):
            also_kept = shop.bill.delay(3)

    Relay(shop.app, shop.engine).drain()

    assert {headers["id"] for headers in shop.taken()} == {kept.id, also_kept.id}


def test_what_is_sent_is_byte_for_byte_what_would_have_been_published(shop: Shop) -> None:
    from celeriac.app import send

    made = [
        send.build(shop.app, "shop.bill", (17, "\u00fc\u2603"), {}, task=shop.bill),
        send.build(shop.app, "shop.bill", (17,), {}, task=shop.bill, compression="gzip", countdown=60, priority=3),
        send.build(shop.app, "unknown", (17,), {"a": 1}, queue="other", expires=60),
    ]
    content = Content([("start_chord", ["g", 2, None])], made, results=True)

    read = Content.load(content.dump())

    assert (read.steps, read.results) == (content.steps, True)
    for before, after in zip(made, read.publications, strict=True):
        for name in ("headers", "properties", "body", "exchange", "routing_key", "due_ms", "declare"):
            assert getattr(after, name) == getattr(before, name), name
        assert list(after.headers) == list(before.headers)


def test_workflows_are_rows_of_their_own_and_run_to_their_end(shop: Shop) -> None:
    bill = shop.bill
    with Session(shop.engine) as session, session.begin(), celeriac.outbox(session, shop.app):
        flow = chain(bill.s(1), bill.s(2)).apply_async()
        many = group(bill.s(n) for n in range(3)).apply_async()
        joined = chord([bill.s(1), bill.s(2)], bill.s()).apply_async()
    assert shop.rows() == 3
    assert shop.waiting() == 0

    Relay(shop.app, shop.engine).drain()

    ids = {headers["id"] for headers in shop.taken()}
    assert len(ids) == 1 + 3 + 2
    assert flow.parent.id in ids
    assert {child.id for child in many} <= ids
    assert {child.id for child in joined.parent} <= ids


def test_a_chord_that_is_rolled_back_was_never_started(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    core = shop.app._engine.core

    class Watching:
        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            return getattr(core, name)

    shop.app._engine.in_front(lambda client: Watching())
    session = Session(shop.engine)
    with celeriac.outbox(session, shop.app):
        chord([shop.bill.s(1), shop.bill.s(2)], shop.bill.s()).apply_async()
    session.rollback()

    assert not {"start_chord", "guard_chords", "publish"} & set(asked), asked


def test_other_threads_and_what_comes_after_the_block_are_published_at_once(shop: Shop) -> None:
    with Session(shop.engine) as session, session.begin():
        with celeriac.outbox(session, shop.app):
            shop.bill.delay(1)
            thread = threading.Thread(target=shop.bill.delay, args=(2,))
            thread.start()
            thread.join(10)
        shop.bill.delay(3)
        assert shop.waiting() == 2

    assert shop.rows() == 1


def test_many_calls_and_scoped_sessions(shop: Shop) -> None:
    registry = scoped_session(sessionmaker(shop.engine))
    with celeriac.outbox(registry, shop.app):
        shop.bill.delay_many((n,) for n in range(1500))
    registry.commit()
    registry.remove()

    Relay(shop.app, shop.engine).drain()

    shop.arrived(1500)


def test_the_process_that_has_committed_publishes_at_once(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop()
    for number in range(5):
        with Session(shop.engine) as session, session.begin():
            session.add(Order(number=number))
            with celeriac.outbox(session, shop.app):
                shop.bill.delay(number)
            with session.begin_nested():
                pass
            assert shop.waiting() <= number, "a released savepoint is no commit"

    shop.arrived(5)


def test_it_works_with_a_database_in_memory(tmp_path: Path) -> None:
    engine = create_engine("sqlite://")
    celeriac.outbox.create(engine)
    shop = Shop(engine, tmp_path)
    with Session(engine) as session, session.begin(), celeriac.outbox(session, shop.app):
        shop.bill.delay(1)

    assert (shop.waiting(), shop.rows()) == (1, 0)
    shop.app.close()
    engine.dispose()


def test_an_asynchronous_session_has_an_outbox_too(shop: Shop, database: str) -> None:
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    async def program() -> list[str]:
        engine = create_async_engine(database.replace("sqlite:", "sqlite+aiosqlite:"))
        kept: list[str] = []
        async with AsyncSession(engine) as session:
            async with session.begin():
                session.add(Order(number=1))
                async with celeriac.outbox(session, shop.app):
                    kept.append((await shop.bill.adelay(1)).id)
                    kept.append(shop.bill.delay(2).id)
            async with celeriac.outbox(session, shop.app):
                await shop.bill.adelay(3)
            await session.rollback()
            async with celeriac.outbox(session, shop.app):
                kept.append((await shop.bill.adelay(4)).id)
                # In the block: what it has is written before.
                await session.commit()
        await engine.dispose()
        return kept

    kept = asyncio.run(program())
    assert shop.waiting() == 0
    Relay(shop.app, shop.engine).drain()
    assert sorted(headers["id"] for headers in shop.taken()) == sorted(kept)


def test_calls_with_a_key_get_it_when_they_are_sent_and_a_repeated_attempt_sends_nothing(shop: Shop) -> None:
    with Session(shop.engine) as session, session.begin(), celeriac.outbox(session, shop.app):
        first = shop.bill.apply_async((1,), idempotency_key="order-1")
        shop.bill.apply_async((1,), idempotency_key="order-1")
    with shop.engine.begin() as connection:
        rows = [dict(row) for row in connection.execute(shop.table.select()).mappings()]
    assert (len(rows), shop.waiting()) == (2, 0)

    Relay(shop.app, shop.engine).drain()
    # As if it had died before it could delete them.
    with shop.engine.begin() as connection:
        connection.execute(shop.table.insert(), rows)
    Relay(shop.app, shop.engine).drain()

    assert shop.rows() == 0
    assert [headers["id"] for headers in shop.taken()] == [first.id]
    with (
        Session(shop.engine) as session,
        celeriac.outbox(session, shop.app),
        pytest.raises(ValueError, match="debounce"),
    ):
        shop.bill.apply_async((1,), debounce=5.0)


def test_wrong_use_is_told_where_it_is(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="is no session of SQLAlchemy's"):
        celeriac.outbox(shop.engine, shop.app)
    with pytest.raises(TypeError, match="is no session of SQLAlchemy's"):
        shop.bill.delay_on_commit(17)


def test_the_table_can_be_in_the_applications_own_metadata() -> None:
    from sqlalchemy import MetaData

    metadata = MetaData()

    assert celeriac.outbox.table(metadata) is outbox_table(metadata)
    assert list(metadata.tables) == ["celeriac_outbox"]
    assert outbox_table(metadata, "other.outbox").schema == "other"


def test_on_commit_publishes_after_the_commit_and_needs_no_table(shop: Shop) -> None:
    with Session(shop.engine) as session, session.begin():
        session.add(Order(number=17))
        result = shop.bill.delay_on_commit(session, 17)
        shop.bill.apply_async_on_commit(session, (18,), queue="other")
        with session.begin_nested():
            kept = shop.bill.delay_on_commit(session, 19)
        assert shop.waiting() == 0

    assert {headers["id"] for headers in shop.taken()} == {result.id, kept.id}
    assert (shop.waiting(), shop.rows()) == (3, 0)


def test_on_commit_sends_nothing_that_was_rolled_back(shop: Shop) -> None:
    with Session(shop.engine) as session:
        shop.bill.delay_on_commit(session, 1)
        session.rollback()
        session.add(Order(number=2))
        shop.bill.delay_on_commit(session, 2)
        savepoint = session.begin_nested()
        shop.bill.delay_on_commit(session, 3)
        with session.begin_nested():
            shop.bill.delay_on_commit(session, 4)
        savepoint.rollback()
        session.commit()
        shop.bill.delay_on_commit(session, 5)
    with Session(shop.engine) as session:
        session.commit()

    assert [headers["argsrepr"] for headers in shop.taken()] == ["(2,)"]


def test_on_commit_works_with_an_asynchronous_session(shop: Shop, database: str) -> None:
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    async def program() -> None:
        engine = create_async_engine(database.replace("sqlite:", "sqlite+aiosqlite:"))
        async with AsyncSession(engine) as session:
            shop.bill.delay_on_commit(session, 1)
            await session.rollback()
            shop.bill.delay_on_commit(session, 2)
            await session.commit()
        await engine.dispose()

    asyncio.run(program())

    shop.arrived(1)


def test_an_event_is_sent_with_the_commit_or_not_at_all(shop: Shop) -> None:
    def emit(number: int, *, commits: bool) -> None:
        with Session(shop.engine) as session, session.begin() as transaction:
            session.add(Order(number=number))
            with celeriac.outbox(session, shop.app):
                shop.app.emit("order.created", number)
            if not commits:
                transaction.rollback()

    with shop.app.subscribe("order.*", timeout=30) as events:
        emit(1, commits=False)
        emit(2, commits=True)
        assert Relay(shop.app, shop.engine).drain() == 1
        assert next(events).data == 2
