"""HTTP tasks: the engine makes the calls; no child runs for them."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac import chain, chord, group
from celeriac.app.base import Celery
from celeriac.exceptions import (
    HttpConnectionError,
    HttpRedirect,
    HttpRefused,
    HttpResponseTooLarge,
    HttpStatusError,
    HttpTimeout,
    TaskRevokedError,
)

from ..servers.shared import Shared
from .conftest import Project, wait_until
from .http_receiver import Answer, Receiver, closed_port

#: Calls at the same time; 10000 in the full size.
MANY = int(os.environ.get("CELERIAC_HTTP_CALLS", "300"))
SETTINGS: dict[str, Any] = {"http_allow": ["127.0.0.0/8"], "http_backoff": 0.05, "http_backoff_max": 0.2}
TASKS = """
    @app.task(name="double")
    def double(answer):
        return answer["body"]["n"] * 2

    @app.task(name="body_of")
    def body_of(answers):
        return sorted(answer["body"]["n"] for answer in answers)

    @app.task(name="number")
    def number(n):
        return {"n": n}

    @app.task(name="failed")
    def failed(task_id):
        mark("failed", task_id)
    """


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(params=["embedded", "redis", "rabbitmq"])
def project(request: pytest.FixtureRequest, tmp_path: Path, shared: Shared) -> Iterator[Project]:
    """A project on each kind of broker."""
    if request.param == "embedded":
        made = Project(tmp_path)
    else:
        backend = shared.redis()
        made = Project(tmp_path, backend if request.param == "redis" else shared.rabbitmq(), backend)
    yield made
    made.close()


on_embedded = pytest.mark.parametrize("project", ["embedded"], indirect=True)


def started(project: Project, *options: str, **settings: Any) -> Any:
    project.write(TASKS, **{**SETTINGS, **settings})
    return project.start("-c", "1", *options)


def test_a_call_is_made_and_its_answer_is_the_result(project: Project, receiver: Receiver) -> None:
    worker = started(project)
    url = receiver.answer("/a-path", Answer(201, b'{"n": 1}', (("Content-Type", "application/json"), ("X-Is", "y"))))

    result = project.client.http_task(url + "?token=sesame", {"x": [1.5]}, {"Authorization": "Bearer sesame"})
    value = result.get(timeout=30)

    assert (value["status"], value["body"], value["encoding"]) == (201, {"n": 1}, "json")
    assert value["headers"]["x-is"] == "y"
    (received,) = receiver.received("/a-path")
    assert (received.method, received.path, json.loads(received.body)) == ("POST", "/a-path?token=sesame", {"x": [1.5]})
    assert received.headers["authorization"] == "Bearer sesame"
    assert received.headers["idempotency-key"] == result.id
    assert result.state == "SUCCESS"
    worker.wait_for(rf"celeriac\.http\[{result.id}\] succeeded")
    assert "sesame" not in worker.log
    assert "a-path" not in worker.log
    assert worker.stop() == 0


def test_failures_of_the_receiver_are_tried_again_and_refusals_are_not(project: Project, receiver: Receiver) -> None:
    started(project)
    flaky = project.client.http_task(receiver.answer("/flaky", 500, 503, 200))
    gone = project.client.http_task(receiver.answer("/gone", Answer(410, b"gone for good", ())))
    broken = project.client.http_task(receiver.answer("/broken", 502), retries=1)

    assert flaky.get(timeout=30)["status"] == 200
    assert len(receiver.received("/flaky")) == 3
    assert len({one.headers["idempotency-key"] for one in receiver.received("/flaky")}) == 1
    with pytest.raises(HttpStatusError, match="410 Gone") as raised:
        gone.get(timeout=30)
    assert (raised.value.status, raised.value.body) == (410, "gone for good")
    with pytest.raises(HttpStatusError, match="502"):
        broken.get(timeout=30)
    assert (len(receiver.received("/gone")), len(receiver.received("/broken"))) == (1, 2)


@on_embedded
def test_each_way_to_fail_has_an_exception_of_its_own(project: Project, receiver: Receiver) -> None:
    started(project, http_max_response_bytes=1000)
    call = project.client.http_task
    held = receiver.answer("/held", Answer(hold=True))
    elsewhere = Answer(302, b"", (("Location", receiver.url + "/secret"),))

    failures = {
        HttpTimeout: call(held, timeout=0.2, retries=0),
        HttpRedirect: call(receiver.answer("/moved", elsewhere)),
        HttpResponseTooLarge: call(receiver.answer("/large", Answer(body=b"x" * 1001))),
        HttpConnectionError: call(f"http://127.0.0.1:{closed_port()}/", retries=0),
        HttpRefused: call("http://10.0.0.1/?token=sesame"),
    }
    for kind, result in failures.items():
        with pytest.raises(kind) as raised:
            result.get(timeout=30)
        assert "sesame" not in str(raised.value)
    assert receiver.received("/secret") == []


@on_embedded
def test_private_addresses_are_refused_unless_they_are_allowed(project: Project, receiver: Receiver) -> None:
    worker = started(project, http_allow=[])
    port = receiver.url.rpartition(":")[2]
    hosts = ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]", "169.254.169.254"]

    for result in [project.client.http_task(f"http://{host}:{port}/secret", retries=0) for host in hosts]:
        with pytest.raises(HttpRefused):
            result.get(timeout=30)

    assert receiver.received() == []
    assert worker.stop() == 0


@on_embedded
def test_the_receiver_may_say_when_to_come_again(project: Project, receiver: Receiver) -> None:
    started(project, http_backoff=600, http_backoff_max=600, http_retry_after_max=3600)
    busy = Answer(429, b"", (("Retry-After", "700"),))
    result = project.client.http_task(receiver.answer("/busy", busy, 200))
    receiver.wait_for("/busy")
    wait_until(lambda: project.state(result.id) == "RETRY", "the retry is stored")

    parked = wait_until(lambda: project.queue("celeriac.http").get("parked"), "it is parked in the broker")
    assert parked == 1
    assert len(receiver.received("/busy")) == 1


@on_embedded
def test_calls_stand_in_chains_groups_and_chords(project: Project, receiver: Receiver) -> None:
    started(project)
    http_task, signature = project.client.http_task, project.client.signature
    three = Answer(200, b'{"n": 3}')
    url = receiver.answer("/three", three)

    steps = chain(signature("number", (7,)), http_task.s(url), signature("double"), app=project.client)
    assert steps.apply_async().get(timeout=30) == 6
    assert json.loads(receiver.received("/three")[0].body) == {"n": 7}
    header = [http_task.s(url, {"n": n}) for n in range(3)]
    assert chord(header, signature("body_of"), app=project.client).apply_async().get(timeout=30) == [3, 3, 3]
    answers = group(header, app=project.client).apply_async().get(timeout=30)
    assert [answer["body"]["n"] for answer in answers] == [3, 3, 3]

    broken = http_task.s(receiver.answer("/broken", 404)).set(link_error=signature("failed"))
    with pytest.raises(HttpStatusError, match="404"):
        (broken | signature("double")).apply_async().get(timeout=30)
    project.wait_for_mark("failed")


def test_a_call_is_aborted_when_it_is_revoked(project: Project, receiver: Receiver) -> None:
    worker = started(project)
    result = project.client.http_task(receiver.answer("/held", Answer(hold=True)), timeout=60)
    receiver.wait_for("/held")

    result.revoke(terminate=True)

    with pytest.raises(TaskRevokedError, match="terminated"):
        result.get(timeout=30)
    later = project.client.http_task(receiver.answer("/later"), countdown=2)
    later.revoke()
    worker.wait_for(f"flagged as revoked: {later.id}")
    with pytest.raises(TaskRevokedError):
        later.get(timeout=30)
    assert receiver.received("/later") == []


def test_a_call_is_made_again_when_its_worker_was_killed(project: Project, receiver: Receiver) -> None:
    worker = started(project, "-n", "one@here", worker_lease_seconds=2)
    result = project.client.http_task(receiver.answer("/held", Answer(hold=True), 200), timeout=60)
    receiver.wait_for("/held")

    worker.signal(signal.SIGKILL)
    worker.wait()
    project.start("-c", "1", "-n", "one@here")

    assert result.get(timeout=30)["status"] == 200
    first, second = receiver.received("/held")
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == result.id


def test_a_warm_stop_waits_for_calls(project: Project, receiver: Receiver) -> None:
    worker = started(project)
    result = project.client.http_task(receiver.answer("/held", Answer(hold=True)), timeout=60)
    receiver.wait_for("/held")

    worker.signal(signal.SIGTERM)
    worker.wait_for("Warm shutdown")
    receiver.let_go()

    assert worker.wait() == 0
    assert result.get(timeout=30)["status"] == 200


def test_a_worker_may_take_nothing_but_calls(project: Project, receiver: Receiver) -> None:
    worker = started(project, "-Q", "celeriac.http")
    ordinary = project.send("number", 1)

    assert project.client.http_task(receiver.answer("/a", 200)).get(timeout=30)["status"] == 200
    assert project.state(ordinary.id) == "PENDING"
    assert worker.stop() == 0


@on_embedded
@pytest.mark.parametrize(
    ("options", "settings"), [(("-Q", "celery"), {}), ((), {"worker_http_concurrency": 0})], ids=["-Q", "0"]
)
def test_a_worker_takes_no_calls_when_it_is_not_to(
    project: Project, receiver: Receiver, options: tuple[str, ...], settings: dict[str, Any]
) -> None:
    started(project, *options, **settings)
    result = project.client.http_task(receiver.answer("/a", 200))

    assert project.send("number", 1).get(timeout=30) == {"n": 1}
    assert project.queue("celeriac.http")["ready"] == 1
    started(project, "-Q", "celeriac.http")
    assert result.get(timeout=30)["status"] == 200


@on_embedded
def test_results_are_in_the_serializer_of_the_app(project: Project, receiver: Receiver) -> None:
    settings = {"result_serializer": "msgpack", "accept_content": ["json", "msgpack"]}
    pytest.importorskip("msgpack")
    project.client.conf.update(settings)
    started(project, **settings)

    assert project.client.http_task(receiver.answer("/a", 200)).get(timeout=30)["status"] == 200


@on_embedded
def test_monitors_are_told_of_calls_and_see_no_secret(project: Project, receiver: Receiver) -> None:
    started(project, "-E", worker_send_task_events=True)
    events: list[dict[str, Any]] = []
    done = threading.Event()

    def take(event: dict[str, Any]) -> None:
        events.append(event)
        if event["type"] == "task-succeeded":
            done.set()

    def listen(client: Celery) -> None:
        with client.connection_for_read() as connection:
            receiving = client.events.Receiver(connection, handlers={"*": take})
            ready.set()
            try:
                receiving.capture(limit=None, timeout=20, wakeup=False)
            except (TimeoutError, OSError, RuntimeError):
                pass

    ready = threading.Event()
    listener = Celery("listener", broker=project.url, set_as_current=False)
    threading.Thread(target=listen, args=(listener,), daemon=True).start()
    assert ready.wait(20)
    headers = {"Authorization": "Bearer sesame"}
    wait_until(
        lambda: (
            project.client.http_task(receiver.answer("/a", 200), "sesame", headers).get(timeout=30) and done.wait(1)
        ),
        "a call is told of",
    )

    kinds = [event["type"] for event in events if event["type"].startswith("task-")]
    assert {"task-received", "task-started", "task-succeeded"} <= set(kinds)
    received = next(event for event in events if event["type"] == "task-received")
    assert received["name"] == "celeriac.http"
    assert receiver.url in received["kwargs"]
    assert "sesame" not in str(events)


class Holder:
    """Accepts connections, reads what comes, and answers nothing until it is told to."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.held: list[socket.socket] = []
        self._open = True
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}/"

    def _accept(self) -> None:
        while self._open:
            try:
                self.held.append(self.listener.accept()[0])
            except OSError:
                return

    def answer_all(self) -> None:
        for connection in self.held:
            connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._open = False
        self.listener.close()
        for connection in self.held:
            connection.close()


@on_embedded
def test_many_calls_are_in_flight_in_one_worker(project: Project, figure: Callable[[str], None]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < MANY + 500:
        pytest.skip(f"this system allows {hard} files")
    holder = Holder()
    worker = started(project, worker_http_concurrency=MANY)
    try:
        calls = [project.client.http_task.s(holder.url, timeout=600) for _ in range(MANY)]
        began = time.monotonic()
        results = project.client.send_many(calls)
        wait_until(lambda: len(holder.held) >= MANY, f"{MANY} calls in flight", 120)
        reached = time.monotonic() - began
        # The children are as free as before.
        assert project.send("number", 1).get(timeout=30) == {"n": 1}
        memory = _pss(worker.pid)
        holder.answer_all()
        for result in results:
            assert result.get(timeout=120)["status"] == 204
        figure(f"{MANY} HTTP calls in flight after {reached:.1f} s; the worker's own process had {memory} MB")
        assert worker.stop() == 0
    finally:
        holder.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) // 1024


@on_embedded
def test_too_few_files_are_told_of(project: Project) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    worker = started(project, worker_http_concurrency=hard)

    worker.wait_for(r"may open \d+ files: \d+ calls are made at the same time")
