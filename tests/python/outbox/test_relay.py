"""Relays: each message at least once, whoever is killed when; once, if nobody is."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

import celeriac
from celeriac.app.outbox import relay as relays
from celeriac.app.outbox.relay import Relay
from celeriac.bin import checks
from celeriac.exceptions import OperationalError

from ..integration.conftest import PYTHON_PATH, WorkerProcess, wait_until
from .conftest import Order, Shop

#: Writers that are killed. Many more find out more, and take longer.
KILLS = int(os.environ.get("OUTBOX_KILLS", "3"))


class Programs:
    """Programs beside the test, with the app of `conftest` in a module `shop`."""

    def __init__(self, shop: Shop, folder: Path, database: str) -> None:
        self.folder = folder
        self.database = database
        self.started: list[WorkerProcess] = []
        (folder / "shop.py").write_text(
            dedent(f"""
            from celeriac import Celery
            app = Celery("shop", broker={shop.app.conf.broker_url!r}, backend={shop.app.conf.broker_url!r})
            app.conf.outbox_poll_seconds = 300

            @app.task(name="shop.bill")
            def bill(number):
                return number
            """)
        )
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([PYTHON_PATH, str(folder)]),
            "DATABASE": database,
        }

    def start(self, *command: str) -> WorkerProcess:
        program = WorkerProcess([sys.executable, *command], self.folder, self.environment)
        self.started.append(program)
        return program

    def script(self, text: str) -> subprocess.CompletedProcess[str]:
        """Runs a program to its end."""
        command = [sys.executable, "-c", dedent(text)]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def close(self) -> None:
        for program in self.started:
            program.kill()


@pytest.fixture
def programs(shop: Shop, tmp_path: Path, database: str) -> Iterator[Programs]:
    made = Programs(shop, tmp_path, database)
    yield made
    made.close()


def fill(shop: Shop, count: int) -> set[str]:
    """Rows of so many calls; their ids."""
    ids = set()
    for first in range(0, count, 50):
        with Session(shop.engine) as session, session.begin(), celeriac.outbox(session, shop.app):
            ids |= {shop.bill.delay(number).id for number in range(first, min(first + 50, count))}
    return ids


def test_several_relays_at_the_same_time_send_each_once(shop: Shop) -> None:
    ids = fill(shop, 400)
    sent: list[int] = []
    start = threading.Barrier(3)

    def run() -> None:
        relay = Relay(shop.app, shop.engine)
        start.wait(10)
        sent.append(relay.drain())

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    # One that found all that was left in the hands of the others is done; they may still have been at it.
    assert sum(sent) == 400
    assert shop.rows() == 0
    found = [headers["id"] for headers in shop.taken()]
    assert len(found) == 400
    assert set(found) == ids


def test_relays_in_processes_of_their_own_send_each_once(shop: Shop, programs: Programs) -> None:
    ids = fill(shop, 300)
    command = ("-m", "celeriac", "-A", "shop", "outbox-relay", "--url", programs.database, "-l", "INFO")

    running = [programs.start(*command) for _ in range(2)]
    for program in running:
        program.wait_for("The relay of the outbox")
    shop.arrived(300)

    assert {headers["id"] for headers in shop.taken()} == ids
    for program in running:
        assert program.stop() == 0, program.log


def test_what_a_killed_process_has_committed_is_sent_by_a_relay(shop: Shop, programs: Programs) -> None:
    done = programs.script("""
        import os, signal, celeriac
        from shop import app, bill
        from sqlalchemy import create_engine, text
        from sqlalchemy.orm import Session
        app.conf.outbox_direct = False
        with Session(create_engine(os.environ["DATABASE"])) as session, session.begin():
            session.execute(text("INSERT INTO orders VALUES (17)"))
            with celeriac.outbox(session):
                print(bill.delay(17).id, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (shop.orders(), shop.waiting()) == (1, 0)

    assert Relay(shop.app, shop.engine).drain() == 1

    assert [headers["id"] for headers in shop.taken()] == done.stdout.split()


def test_a_relay_that_is_killed_after_publishing_leads_to_the_same_message_again(
    shop: Shop, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task_id,) = fill(shop, 1)
    done = programs.script("""
        import os, signal
        from shop import app
        from celeriac.app.outbox import relay
        publish, relay.HOLD_SECONDS = relay.publish, 0.5
        def publish_and_die(*given):
            publish(*given)
            os.kill(os.getpid(), signal.SIGKILL)
        relay.publish = publish_and_die
        relay.Relay.of_url(app, os.environ["DATABASE"]).drain()
        """)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (shop.waiting(), shop.rows()) == (1, 1)

    relay = Relay(shop.app, shop.engine)
    wait_until(lambda: relay.drain() == 1, "the row is free again")

    assert shop.rows() == 0
    assert [headers["id"] for headers in shop.taken()] == [task_id, task_id]


def test_writers_that_are_killed_at_any_moment_lose_nothing_and_send_nothing_uncommitted(
    shop: Shop, programs: Programs
) -> None:
    chance = random.Random(7)
    for turn in range(KILLS):
        writer = programs.start(
            "-c",
            dedent(f"""
            import os, sys, celeriac
            from shop import app, bill
            from sqlalchemy import create_engine, text
            from sqlalchemy.orm import Session
            engine = create_engine(os.environ["DATABASE"])
            for number in range({turn} * 100_000, {turn} * 100_000 + 100_000):
                with Session(engine) as session, session.begin():
                    session.execute(text(f"INSERT INTO orders VALUES ({{number}})"))
                    with celeriac.outbox(session):
                        bill.delay(number)
                    if number % 3 == 2:
                        session.rollback()
                if number % 100 == 10:
                    print("wrote", file=sys.stderr, flush=True)
            """),
        )
        writer.wait_for("wrote")
        time.sleep(chance.random() / 10)  # at any moment: nothing depends on which
        writer.kill()

    # On SQLite a killed sender's rows are held for a while.
    with shop.engine.begin() as connection:
        connection.execute(shop.table.update().values(held_until=None, holder=None))
    relay = Relay(shop.app, shop.engine)
    relay.drain()

    assert shop.rows() == 0
    with Session(shop.engine) as session:
        committed = set(session.scalars(select(Order.number)))
    sent: set[int] = set()
    while some := shop.app.client.consume(["celery"], "test@here"):
        deliveries = some.claim(1000, 1.0)
        sent |= {int(delivery.headers["argsrepr"].strip("(,)")) for delivery in deliveries}
        some.settle([delivery.claim for delivery in deliveries], "ack")
        some.close()
        if not deliveries:
            break
    assert len(committed) >= 5 * KILLS
    assert sent == committed


def test_one_that_cannot_be_sent_does_not_hold_up_the_others(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = fill(shop, 2)
    with shop.engine.begin() as connection:
        row = {"app": "shop", "created_at": time.time()}
        connection.execute(insert(shop.table).values(content='{"v": 99}', **row))
    bad = fill(shop, 1)
    last = fill(shop, 2)
    publish = relays.publish

    def refuse(app: Any, contents: Any, *timeout: Any) -> None:
        if any(one.headers["id"] in bad for content in contents for one in content.publications):
            raise OperationalError("no such exchange")
        publish(app, contents, *timeout)

    monkeypatch.setattr(relays, "publish", refuse)

    assert Relay(shop.app, shop.engine).drain() == 4

    assert {headers["id"] for headers in shop.taken()} == first | last
    with shop.engine.begin() as connection:
        left = connection.execute(select(shop.table.c.attempts, shop.table.c.error, shop.table.c.held_until)).all()
    assert [(attempts, error) for attempts, error, _ in left] == [
        (1, "it cannot be read: the row was written by another version of celeriac"),
        (1, "OperationalError: no such exchange"),
    ]
    assert all(until > time.time() for _, _, until in left)
    assert "cannot be sent (attempt 1)" in caplog.text


def test_rows_of_other_apps_are_left_alone(shop: Shop) -> None:
    fill(shop, 1)
    shop.app.main = "another"

    assert Relay(shop.app, shop.engine).drain() == 0
    assert shop.rows() == 1


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_relay_waits_for_a_broker_that_is_away(
    shop: Shop, own_redis: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    server = own_redis()
    shop.app.conf.broker_url = server.url()
    shop.app.disconnect()
    fill(shop, 5)
    server.stop(hard=True)
    relay = Relay(shop.app, shop.engine)
    thread = threading.Thread(target=relay.run)
    thread.start()
    try:
        wait_until(lambda: "The outbox waits" in caplog.text, "it has tried")
        with shop.engine.begin() as connection:
            assert connection.execute(select(shop.table.c.attempts)).scalars().all() == [0] * 5
        server.start()
        shop.arrived(5)
    finally:
        relay.stop()
        thread.join(30)
    assert not thread.is_alive()


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_worker_sends_the_outbox_too_and_is_woken_by_a_commit(programs: Programs, shop: Shop, pool: str) -> None:
    command = (
        "-m",
        "celeriac",
        "-A",
        "shop",
        "worker",
        "-c",
        "1",
        "-P",
        pool,
        "-l",
        "INFO",
        "--outbox",
        programs.database,
    )
    hears = not programs.database.startswith("sqlite")
    if not hears:
        # Nobody rings: what it finds when it starts is what it sends.
        (waits,) = fill(shop, 1)
    worker = programs.start(*command)
    worker.wait_for(r" ready\.$")
    worker.wait_for("The relay of the outbox is woken" if hears else "The relay of the outbox looks")

    if hears:
        # It looks every five minutes, if nobody wakes it.
        for _ in range(3):
            (waits,) = fill(shop, 1)
            assert shop.app.AsyncResult(waits).get(timeout=30) == 0, worker.log
    else:
        assert shop.app.AsyncResult(waits).get(timeout=30) == 0, worker.log
    assert worker.stop() == 0, worker.log


def test_doctor_tells_of_rows_that_nobody_sends(shop: Shop, database: str) -> None:
    shop.app.conf.outbox_url = database

    def found() -> list[tuple[str, str]]:
        return [(one.level, one.text.replace(database, "it")) for one in checks.outbox(shop.app)]

    assert found() == [("ok", "it is reached, 0 rows wait")]
    fill(shop, 2)
    with shop.engine.begin() as connection:
        connection.execute(shop.table.update().values(created_at=time.time() - 3600.2, error="no"))
    assert found() == [
        ("warning", "2 rows of it were refused"),
        ("warning", "2 rows of it wait, the oldest for 3600 s"),
    ]
    shop.table.drop(shop.engine)
    ((level, text),) = found()
    assert level == "error"
    assert "cannot be read" in text


def test_the_command_makes_the_table_and_sends_what_is_there(programs: Programs, shop: Shop) -> None:
    shop.table.drop(shop.engine)
    command = ["-m", "celeriac", "-A", "shop", "outbox-relay", "--once"]

    refused = subprocess.run(
        [sys.executable, *command],
        cwd=programs.folder,
        env=programs.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    done = subprocess.run(
        [sys.executable, *command, "--create-table", "--url", programs.database],
        cwd=programs.folder,
        env=programs.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert refused.returncode != 0
    assert "no database is named" in refused.stderr
    assert (done.returncode, done.stdout) == (0, "0 sent\n"), done.stderr
    assert shop.rows() == 0
