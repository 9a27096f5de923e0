"""A broker that accepts connections and never answers, or is not there: calls end at their deadline."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from celeriac import Celery
from celeriac.exceptions import OperationalError

#: Seconds that a call may take.
LIMIT = 1.0
#: A machine that is busy may take longer to notice; a call without a deadline would take for ever.
PATIENCE = 15.0


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts and says nothing."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    for one in held:
        one.close()


@pytest.fixture
def nobody() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def refused(app: Celery) -> tuple[str, float]:
    """What `delay` says, and how long it took for that."""

    @app.task(name="unit.add")
    def add(x, y):
        return x + y

    start = time.monotonic()
    with pytest.raises(OperationalError) as raised:
        add.delay(1, 2)
    took = time.monotonic() - start

    async def later() -> None:
        with pytest.raises(OperationalError):
            await asyncio.wait_for(add.adelay(1, 2), PATIENCE)
        with pytest.raises(OperationalError):
            await asyncio.wait_for(add.adelay_many([(1, 2)] * 5), PATIENCE)

    asyncio.run(later())
    return str(raised.value), took


@pytest.mark.parametrize("url", ["redis://:secret@127.0.0.1:{}/0", "amqp://user:secret@127.0.0.1:{}//"])
def test_a_call_to_a_silent_broker_ends_at_its_deadline(url: str, silent: int) -> None:
    with Celery("silent", broker=url.format(silent), broker_connection_timeout=LIMIT) as app:
        text, took = refused(app)

    assert took < PATIENCE
    assert f"127.0.0.1:{silent}" in text
    assert "secret" not in text


@pytest.mark.parametrize("url", ["redis://:secret@127.0.0.1:{}/0", "amqp://user:secret@127.0.0.1:{}//"])
def test_a_call_to_a_broker_that_is_away_says_how_often_it_was_tried(url: str, nobody: int) -> None:
    with Celery("away", broker=url.format(nobody)) as app:
        text, took = refused(app)

    assert took < PATIENCE
    assert f"127.0.0.1:{nobody}" in text
    assert "tried 4 times" in text
    assert "secret" not in text


@pytest.mark.parametrize("backend", ["redis://127.0.0.1:{}/0", "rpc://"])
def test_a_silent_reply_queue_does_not_hang_a_call_either(backend: str, silent: int) -> None:
    url = f"amqp://guest:guest@127.0.0.1:{silent}//"
    with Celery("silent", broker=url, backend=backend.format(silent), broker_connection_timeout=LIMIT) as app:
        _, took = refused(app)

    assert took < PATIENCE
