"""`celeriac._core.Client` over every store: threads, forks, signals, an asyncio loop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac import Exchange, Queue, _core
from celeriac.exceptions import EncodeError, ImproperlyConfigured, OperationalError


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{uuid.uuid4().hex}" if request.param == "memory" else f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def client(url: str) -> Iterator[_core.Client]:
    client = _core.Client(url, url, {})
    yield client
    client.close()


def publication(number: int = 0, queue: str = "q") -> _core.Publication:
    headers = {"task": "t", "id": str(number)}
    properties = {"content_type": "application/json", "content_encoding": "utf-8", "correlation_id": str(number)}
    return _core.Publication(headers, properties, b"[[], {}, {}]", routing_key=queue)


def record(task_id: str, state: str = "SUCCESS", body: bytes = b"{}") -> _core.ResultRecord:
    return _core.ResultRecord(task_id, state, body, "application/json")


def ready(client: _core.Client, queue: str = "q") -> int:
    return sum(row["ready"] for row in client.queues() if row["name"] == queue)


def test_options_of_connections_are_read_and_errors_name_them(url: str) -> None:
    queue = Queue("a", Exchange("media", "topic"), "a.#", max_priority=3).declaration()
    options: dict[str, Any] = {
        "connect_timeout": 2.0,
        "backend_connect_timeout": 1,
        "transport_options": {"visibility_timeout": 5, "nested": {"x": [1, None, True]}},
        "backend_transport_options": {"global_keyprefix": "p"},
        "tls": {"ca_certs": "/a.pem", "certfile": "/c.pem", "keyfile": "/k.pem", "verify": "certificate"},
        "backend_tls": {"verify": "nothing"},
        "topology": {
            "queues": {"a": queue},
            "default_queue": "a",
            "missing_queue_type": "quorum",
            "max_priority": None,
        },
        "heartbeat": None,
        "result_content_type": "application/json",
        "result_expires_ms": 1000,
        "result_persistent": True,
        "reply_queue": "mine",
    }

    _core.Client(url, url, options).publish([publication()])

    for name, wrong, says in (
        ("tls", {"verify": "often"}, "'verify'|\"verify\""),
        ("backend_tls", {"cert": "x"}, "cert"),
        ("topology", {"queues": {"a": 5}}, "topology"),
        ("heartbeat", -1, "heartbeat"),
        ("transport_options", 7, "transport_options"),
    ):
        with pytest.raises(ImproperlyConfigured, match=says):
            _core.Client(url, url, {**options, name: wrong})


def test_a_declaration_travels_with_its_message() -> None:
    queue = Queue("a", Exchange("media", "topic"), "a.#", max_length=3, consumer_arguments={"x-priority": 1})

    carried = _core.Publication({}, {}, b"", routing_key="a.1", declare=queue.declaration())

    assert carried.declare == queue.declaration()
    assert _core.Publication({}, {}, b"", routing_key="a.1").declare is None
    with pytest.raises(ValueError, match="durable|invalid type"):
        _core.Publication({}, {}, b"", routing_key="a", declare={"durable": "perhaps"})


def test_a_publication_gives_back_what_it_was_made_of() -> None:
    headers = {"task": "t", "eta": None, "timelimit": [None, 1.5], "é": "\udcff"}
    properties = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "correlation_id": "1",
        "reply_to": "r",
        "delivery_mode": 1,
        "priority": 3,
        "expiration": "1500",
        "user_id": {"a": [1]},
    }
    made = _core.Publication(headers, properties, b"\xff", exchange="x", routing_key="k", due_ms=7)

    assert made.headers == headers
    assert list(made.headers) == list(headers)
    assert made.properties == properties
    assert (made.body, made.exchange, made.routing_key, made.due_ms) == (b"\xff", "x", "k", 7)
    with pytest.raises(AttributeError):
        made.body = b""


@pytest.mark.parametrize(
    "properties", [{"expiration": "soon"}, {"priority": 300}, {"content_type": 5}, {"other": object()}]
)
def test_properties_that_cannot_be_sent_are_refused(properties: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError, EncodeError)):
        _core.Publication({}, properties, b"", routing_key="k")


def test_a_batch_is_published_and_purged(client: _core.Client) -> None:
    client.publish([publication(n) for n in range(5)])

    assert ready(client) == 5
    assert client.purge("q") == 5
    assert ready(client) == 0


def test_results_are_stored_read_waited_for_and_forgotten(client: _core.Client) -> None:
    client.store([record("a"), record("b", "STARTED")])

    found = client.read(["a", "b", "c"])
    assert [r and (r.task_id, r.state, r.record, r.content_type) for r in found] == [
        ("a", "SUCCESS", b"{}", "application/json"),
        ("b", "STARTED", b"{}", "application/json"),
        None,
    ]
    assert [r.task_id for r in client.wait(["a", "b"], 5)] == ["a"]
    client.forget(["a"])
    assert client.read(["a"]) == [None]


def test_a_wait_that_runs_out_raises_the_builtin_timeout(client: _core.Client) -> None:
    with pytest.raises(TimeoutError):
        client.wait(["never"], 0.01)
    assert client.wait_change("never", None, None, 0.01) is None
    with pytest.raises(ValueError, match="NaN"):
        client.wait(["never"], float("nan"))


def test_a_change_is_what_differs(client: _core.Client) -> None:
    client.store([record("a", "PROGRESS", b"1")])
    first = client.wait_change("a", None, None, 5)
    assert first is not None
    assert first.record == b"1"

    threading.Timer(0.02, lambda: client.store([record("a", "PROGRESS", b"2")])).start()

    second = client.wait_change("a", first.state, first.record, 5)
    assert second is not None
    assert second.record == b"2"


@pytest.mark.parametrize("wrong", ["nonsense://x", "kafka://localhost", ""])
def test_a_url_that_nobody_speaks_is_a_configuration_error(wrong: str) -> None:
    with pytest.raises(ImproperlyConfigured):
        _core.Client(wrong, None, {}).publish([publication()], 1)


def test_an_unknown_option_is_named(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="speed"):
        _core.Client(url, None, {"speed": 11})


def test_without_a_backend_asking_for_results_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="no result backend"):
        _core.Client(url, None, {}).read(["a"])


def test_a_closed_client_refuses(url: str) -> None:
    client = _core.Client(url, None, {})
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.publish([publication()])


def test_sixteen_threads_publish_together(client: _core.Client) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for n in range(50):
                client.publish([publication(n)])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert failures == []
    assert ready(client) == 800


def test_a_signal_handler_that_raises_ends_a_wait(client: _core.Client) -> None:
    class Stop(Exception):
        pass

    def handler(number: int, frame: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Stop):
            client.wait(["never"], 60)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_other_threads_run_during_a_wait(client: _core.Client) -> None:
    threading.Timer(0.02, lambda: client.store([record("a")])).start()

    assert [r.task_id for r in client.wait(["a"], 30)] == ["a"]


def in_forked_child(check: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        try:
            check()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_is_told_to_make_its_own_client(client: _core.Client, url: str) -> None:
    client.publish([publication()])
    parent = os.getpid()
    completions = _core.Completions()

    def check() -> None:
        for use in (
            lambda: client.publish([publication()]),
            lambda: client.wait(["a"], 1),
            client.close,
            completions.fileno,
            completions.drain,
        ):
            with pytest.raises(RuntimeError) as caught:
                use()
            assert str(parent) in str(caught.value)
            assert str(os.getpid()) in str(caught.value)
            assert "make a new one" in str(caught.value)
        own = _core.Client(url, url, {})
        own.publish([publication()])
        own.store([record("a")])
        assert own.wait(["a"], 5)
        own.close()
        _core.shutdown_runtime()

    assert in_forked_child(check) == 0
    client.publish([publication()])


def test_dropping_the_parents_objects_in_a_forked_child_is_safe(url: str) -> None:
    holder = [_core.Client(url, url, {}), _core.Completions()]
    holder[0].publish([publication()])
    wait_later = holder[0].wait_later
    wait_later(["never"], None, holder[1], 1)
    del wait_later

    def check() -> None:
        holder.clear()
        import gc

        gc.collect()

    assert in_forked_child(check) == 0


def test_a_child_forked_while_others_publish_can_publish(client: _core.Client, url: str) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            client.publish([publication()])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            own = f"memory://{uuid.uuid4().hex}"
            assert in_forked_child(lambda own=own: _core.Client(own, None, {}).publish([publication()])) == 0  # type: ignore[misc]
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def test_the_runtime_starts_again_after_it_was_stopped(client: _core.Client) -> None:
    client.publish([publication()])
    _core.shutdown_runtime()
    client.publish([publication()])
    assert ready(client) == 2


def test_stopping_the_runtime_ends_waits_of_other_threads(client: _core.Client) -> None:
    raised: list[BaseException] = []

    def work() -> None:
        try:
            client.wait(["never"], 60)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 30
    while thread.is_alive() and time.monotonic() < deadline:
        _core.shutdown_runtime()
    thread.join(1)

    assert len(raised) == 1
    assert isinstance(raised[0], RuntimeError)


class Loop:
    """What an asyncio face of the client does with `Completions`."""

    def __init__(self) -> None:
        self.completions = _core.Completions()
        self.futures: dict[int, asyncio.Future[Any]] = {}
        self.wakeups = 0
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(self.completions.fileno(), self.drain)

    def drain(self) -> None:
        self.wakeups += 1
        for token, result in self.completions.drain():
            future = self.futures.pop(token)
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

    def call(self, method: Callable[..., None], *args: Any) -> asyncio.Future[Any]:
        token = len(self.futures) + self.wakeups * 1_000_000
        while token in self.futures:
            token += 1
        self.futures[token] = self.loop.create_future()
        method(*args, self.completions, token)
        return self.futures[token]

    def close(self) -> None:
        self.loop.remove_reader(self.completions.fileno())
        self.completions.close()


def test_a_thousand_concurrent_calls_complete_on_one_loop(client: _core.Client) -> None:
    async def main() -> None:
        loop = Loop()
        waits = [loop.call(client.wait_later, [f"id-{n}"], 60) for n in range(500)]
        publishes = [loop.call(client.publish_later, [publication(n)], None, None, False) for n in range(500)]
        assert await asyncio.gather(*publishes) == [None] * 500
        await loop.call(client.read_later, ["id-0"])
        client.store([record(f"id-{n}") for n in range(500)])
        results = await asyncio.gather(*waits)
        assert [r[0].task_id for r in results] == [f"id-{n}" for n in range(500)]
        with pytest.raises(TimeoutError):
            await loop.call(client.wait_later, ["never"], 0.01)
        loop.close()

    asyncio.run(asyncio.wait_for(main(), 60))
    assert ready(client) == 500


def test_errors_of_async_calls_come_as_instances(url: str) -> None:
    async def main() -> None:
        loop = Loop()
        with pytest.raises(ImproperlyConfigured):
            await loop.call(_core.Client("nonsense://", None, {}).publish_later, [publication()], 1, None, False)
        loop.close()

    asyncio.run(asyncio.wait_for(main(), 60))
    assert issubclass(OperationalError, Exception)


def test_completions_that_were_closed_stay_quiet(client: _core.Client) -> None:
    completions = _core.Completions()
    completions.close()
    client.publish_later([publication()], None, None, False, completions, 1)
    deadline = time.monotonic() + 30
    while ready(client) < 1 and time.monotonic() < deadline:
        pass
    assert completions.drain() == []


LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("begin immediate")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[_core.Client]:
    """A client of a file that another process has locked."""
    path = tmp_path / "locked.db"
    client = _core.Client(f"sqlite:///{path}", f"sqlite:///{path}", {})
    client.publish([publication()])
    command = [sys.executable, "-c", LOCKER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as locker:
        assert locker.stdout is not None
        assert locker.stdout.readline() == b"locked\n"
        yield client
    client.close()


def test_a_locked_file_is_an_operational_error_at_the_deadline_of_the_call(locked: _core.Client) -> None:
    with pytest.raises(OperationalError, match=r"within 0\.25s.*locked"):
        locked.publish([publication()], 0.25)


def test_a_locked_file_does_not_keep_signals_away(locked: _core.Client) -> None:
    class Stop(Exception):
        pass

    def handler(number: int, frame: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Stop):
            locked.publish([publication()], 60)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_directory_that_is_not_there_is_an_operational_error(tmp_path: Path) -> None:
    with pytest.raises(OperationalError, match="does not exist"):
        _core.Client(f"sqlite:///{tmp_path}/missing/x.db", None, {}).publish([publication()])
