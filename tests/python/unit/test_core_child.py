"""`celeriac._core.Child`, with the supervisor's end of the socket played by the test."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celeriac import _core

from .conftest import signal_once_told


def text(value: bytes | str) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<I", len(raw)) + raw


def option(value: float | None) -> bytes:
    return b"\0" if value is None else b"\1" + struct.pack("<Q", int(value * 1e9))


class Supervisor:
    """Speaks the frames of `src/worker/pool/process/frame.rs`."""

    def __init__(self) -> None:
        self.socket, self.childs = socket.socketpair()
        self.socket.settimeout(30)

    def child(self) -> _core.Child:
        child = _core.Child(self.childs.detach())
        assert self.read() == ("R", b"")
        return child

    def send(self, kind: str, payload: bytes = b"") -> None:
        self.socket.sendall(struct.pack("<I", len(payload)) + kind.encode() + payload)

    def execute(
        self,
        tag: int,
        mode: bytes = b"\0",
        soft: float | None = None,
        hard: float | None = None,
        redelivered: bool = False,
        body: bytes = b"[[], {}, {}]",
        headers: bytes | None = None,
        content_type: str = "application/json",
    ) -> None:
        headers = json.dumps({"task": "t", "id": f"id-{tag}"}).encode() if headers is None else headers
        message = text(content_type) + text("utf-8") + b"\1" + text(f"id-{tag}") + b"\1" + text("r") + b"\2"
        message += b"\1\5" + b"\0" + text("") + text(headers) + text(body)
        flags = bytes([int(redelivered)])
        self.send(
            "E",
            struct.pack("<Q", tag) + mode + flags + option(soft) + option(hard) + text("x") + text("k") + message,
        )

    def tags(self, kind: str, *tags: int) -> None:
        self.send(kind, struct.pack(f"<{len(tags)}Q", *tags))

    def read(self) -> tuple[str, bytes]:
        head = self.read_exactly(5)
        return chr(head[4]), self.read_exactly(struct.unpack("<I", head[:4])[0])

    def read_exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            assert piece, "the child closed its socket"
            data += piece
        return data


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    supervisor = Supervisor()
    yield supervisor
    supervisor.send("S")
    supervisor.socket.close()


def respond(child: _core.Child, tag: int, **changes: Any) -> None:
    values = {"kind": "success", "results": [], "publications": [], "summary": "None", "runtime": 0.5} | changes
    child.respond(tag, *values.values())


def test_a_request_arrives_whole(supervisor: Supervisor) -> None:
    child = supervisor.child()

    supervisor.execute(7, soft=1.5, hard=3.0, redelivered=True, body=b"\xff\x00")

    got = child.receive(30)
    assert got is not None
    assert (got.tag, got.mode, got.detail, got.limit) == (7, "run", "", None)
    assert got.headers == {"task": "t", "id": "id-7"}
    assert got.properties == {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "correlation_id": "id-7",
        "reply_to": "r",
        "delivery_mode": 2,
        "priority": 5,
    }
    assert (got.body, got.exchange, got.routing_key, got.redelivered) == (b"\xff\x00", "x", "k", True)
    assert (got.soft_limit, got.hard_limit) == (1.5, 3.0)
    respond(child, 7)


#: How Celery ends a body that nothing follows.
PLAIN = b', {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'


def request(supervisor: Supervisor, body: bytes, headers: bytes, **more: Any) -> dict[str, Any] | None:
    """The fields of a request, without those that are None because no header has them."""
    child = supervisor.child()
    supervisor.execute(7, body=body, headers=headers, **more)
    got = child.receive(30)
    assert got is not None
    fields = got.request(None, "node@host")
    respond(child, 7)
    return fields and {name: value for name, value in fields.items() if value is not None}


EMBED = {"callbacks": ["c"], "errbacks": None, "chain": ["n"], "chord": None}
FORGED = {"task": "t", "retries": None, "headers": {"x": 1}, "_tag": 9, "hostname": "h", "chain": ["f"], "own": 1.5}


@pytest.mark.parametrize(
    ("body", "follows"),
    [
        (json.dumps([[1], {"x": 2}, EMBED]).encode(), {"callbacks": ["c"], "chain": ["n"]}),
        (b'[[1], {"x": 2}' + PLAIN, {}),
        (b'[ [1] ,\n{"x": 2} ' + PLAIN, {}),
    ],
)
def test_a_request_has_what_the_message_and_the_worker_say(
    supervisor: Supervisor, body: bytes, follows: dict[str, Any]
) -> None:
    fields = request(supervisor, body, json.dumps(FORGED).encode(), redelivered=True)

    properties = {"content_type": "application/json", "content_encoding": "utf-8", "correlation_id": "id-7"}
    assert fields == {
        "task": "t",
        "own": 1.5,
        "retries": 0,
        "args": [1],
        "kwargs": {"x": 2},
        **follows,
        "delivery_info": {"exchange": "x", "routing_key": "k", "priority": 5, "redelivered": True},
        "properties": {**properties, "reply_to": "r", "delivery_mode": 2, "priority": 5},
        "reply_to": "r",
        "correlation_id": "id-7",
        "hostname": "node@host",
        "called_directly": False,
        "_tag": 7,
        "_follow_ups": [],
    }


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b"[[], {}]", b"[[], {}, {}, {}]", b"[{}, {}, {}]", b"[[], [], {}]", b"[[], {}, 5]",
     b'{"args": [], "kwargs": {}}', b"[[], {}, {}] 1", b"\xff", b"[[], {}, {}" + PLAIN, b"[[]" + PLAIN, PLAIN,
     b"[[], []" + PLAIN, b"[{}, {}" + PLAIN, b"[[, {}" + PLAIN, b"[[], {}}" + PLAIN],
)  # fmt: skip
def test_a_body_of_another_form_is_left_to_others(supervisor: Supervisor, body: bytes) -> None:
    assert request(supervisor, body, b'{"task": "t"}') is None


@pytest.mark.parametrize("headers", [b"", b"[]", b"{", b'{"task": "t"} 1', b'{"compression": "gzip"}', b"\xff"])
def test_headers_of_another_form_are_left_to_others(supervisor: Supervisor, headers: bytes) -> None:
    assert request(supervisor, b"[[], {}" + PLAIN, headers) is None


def test_a_body_of_another_type_is_left_to_others(supervisor: Supervisor) -> None:
    assert request(supervisor, b"[[], {}, {}]", b'{"task": "t"}', content_type="application/x-yaml") is None


def test_requests_share_nothing(supervisor: Supervisor) -> None:
    child = supervisor.child()
    fields = []
    for tag, headers in ((1, b'{"task": "t", "own": [], "stamps": {}}'), (2, b'{"task": "u"}')):
        supervisor.execute(tag, headers=headers)
        got = child.receive(30)
        assert got is not None
        fields.append(got.request(None, "n"))
        respond(child, tag)
    first, second = fields
    assert first is not None
    assert second is not None
    assert (second["task"], second["stamps"], "own" in second) == ("u", None, False)
    assert not any(first[name] is second[name] for name in ("_follow_ups", "args", "kwargs", "properties"))


@pytest.mark.parametrize(
    ("code", "mode", "detail", "limit"),
    [
        (b"\1" + struct.pack("<d", 2.5), "timed_out", "", 2.5),
        (b"\2" + text("signal 9 (SIGKILL)"), "lost", "signal 9 (SIGKILL)", None),
        (b"\3" + text("expired"), "revoked", "expired", None),
        (b"\4", "unknown", "", None),
    ],
)
def test_a_request_that_cannot_run_says_why(
    supervisor: Supervisor, code: bytes, mode: str, detail: str, limit: float | None
) -> None:
    child = supervisor.child()
    supervisor.execute(1, code)
    got = child.receive(30)
    assert got is not None
    assert (got.mode, got.detail, got.limit) == (mode, detail, limit)
    respond(child, 1)


def test_an_answer_carries_records_and_messages(supervisor: Supervisor) -> None:
    child = supervisor.child()
    supervisor.execute(3)
    assert child.receive(30) is not None

    record = _core.ResultRecord("id-3", "SUCCESS", b"{}", "application/json", 1000)
    follow = _core.Publication({"task": "u"}, {"content_type": "a/b"}, b"B", routing_key="next", due_ms=9)
    child.update(3, _core.ResultRecord("id-3", "PROGRESS", b"half", "application/json"))
    respond(child, 3, results=[record], publications=[follow], summary="ok")

    kind, update = supervisor.read()
    assert kind == "U"
    assert update.startswith(struct.pack("<Q", 3) + text("id-3") + text("PROGRESS") + text(b"half"))
    kind, outcome = supervisor.read()
    assert kind == "O"
    assert outcome.startswith(struct.pack("<QB", 3, 0) + option(0.5) + text("ok"))
    assert text("id-3") + text("SUCCESS") + text(b"{}") in outcome
    assert outcome.endswith(text('{"task": "u"}') + text(b"B"))


def test_an_unknown_kind_of_answer_is_refused(supervisor: Supervisor) -> None:
    with pytest.raises(ValueError, match="splendid"):
        respond(supervisor.child(), 1, kind="splendid")


def test_requests_come_in_order_and_then_the_stop(supervisor: Supervisor) -> None:
    child = supervisor.child()
    for tag in range(100):
        supervisor.execute(tag)
    supervisor.send("S")

    for tag in range(100):
        got = child.receive(30)
        assert got is not None
        assert got.tag == tag
        respond(child, tag)
    assert child.receive() is None
    assert child.stopping


def test_a_time_out_is_none_without_stopping(supervisor: Supervisor) -> None:
    child = supervisor.child()
    assert child.receive(0) is None
    assert child.receive(0.01) is None
    assert not child.stopping


def is_readable(child: _core.Child, timeout: float) -> bool:
    return bool(select.select([child.fileno()], [], [], timeout)[0])


def test_the_descriptor_is_readable_exactly_while_there_is_something(supervisor: Supervisor) -> None:
    child = supervisor.child()
    assert not is_readable(child, 0)
    supervisor.execute(1)
    supervisor.execute(2)

    assert is_readable(child, 30)
    for tag in (1, 2):
        assert child.receive(30) is not None
        respond(child, tag)
    assert not is_readable(child, 0)
    supervisor.send("S")
    assert is_readable(child, 30)
    assert child.receive(0) is None
    assert is_readable(child, 0)


def test_what_has_not_been_received_is_given_back(supervisor: Supervisor) -> None:
    child = supervisor.child()
    for tag in (1, 2, 3, 4):
        supervisor.execute(tag)
    first = child.receive(30)
    assert first is not None

    supervisor.tags("C", 1, 2, 3, 99)

    kind, returned = supervisor.read()
    assert (kind, returned) == ("B", struct.pack("<2Q", 2, 3))
    respond(child, 1)
    fourth = child.receive(30)
    assert fourth is not None
    assert fourth.tag == 4
    respond(child, 4)
    assert not is_readable(child, 0)


def test_giving_back_everything_makes_the_descriptor_quiet(supervisor: Supervisor) -> None:
    child = supervisor.child()
    supervisor.execute(1)
    assert is_readable(child, 30)
    supervisor.tags("C", 1)
    assert supervisor.read() == ("B", struct.pack("<Q", 1))
    assert not is_readable(child, 0)
    assert child.receive(0) is None


def test_a_soft_limit_belongs_to_its_request(supervisor: Supervisor) -> None:
    child = supervisor.child()
    supervisor.execute(1)
    supervisor.execute(2)
    assert child.receive(30) is not None

    # Asked at once: the frame may still be on its way.
    supervisor.tags("L", 1)
    assert child.soft_limit_passed(1)
    assert not child.soft_limit_passed(2)
    respond(child, 1)
    assert not child.soft_limit_passed(1)
    assert child.receive(30) is not None
    assert not child.soft_limit_passed(2)
    respond(child, 2)


def test_a_signal_ends_a_wait_when_its_handler_raises(supervisor: Supervisor) -> None:
    class Raised(Exception):
        pass

    def handler(number: int, frame: object) -> None:
        raise Raised

    child = supervisor.child()
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        waits = signal_once_told(signal.SIGUSR1)
        with pytest.raises(Raised):
            _ = waits.set(), child.receive()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_large_answer_does_not_stall_while_a_large_request_arrives(supervisor: Supervisor) -> None:
    child = supervisor.child()
    large = b"x" * 5_000_000
    supervisor.execute(1)
    assert child.receive(30) is not None
    sender = threading.Thread(target=supervisor.execute, args=(2,), kwargs={"body": large})
    sender.start()

    answers: list[tuple[str, bytes]] = []
    reader = threading.Thread(target=lambda: answers.append(supervisor.read()))
    reader.start()
    respond(child, 1, results=[_core.ResultRecord("a", "SUCCESS", large, "a/b")])
    second = child.receive(30)
    sender.join(30)
    reader.join(30)

    assert second is not None
    assert second.body == large
    assert len(answers[0][1]) > len(large)
    respond(child, 2)


def run_child(body: Callable[[_core.Child], None], play: Callable[[Supervisor], None]) -> int:
    """Runs `body` in a forked process with `play` as its supervisor; gives its exit code."""
    supervisor = Supervisor()
    pid = os.fork()
    if pid == 0:
        supervisor.socket.close()
        signal.alarm(30)
        try:
            body(_core.Child(supervisor.childs.detach()))
        finally:
            os._exit(3)
    supervisor.childs.close()
    assert supervisor.read() == ("R", b"")
    with supervisor.socket:
        play(supervisor)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_an_idle_child_is_told_to_stop_when_the_supervisor_is_gone() -> None:
    def body(child: _core.Child) -> None:
        assert child.receive() is None
        assert child.stopping
        os._exit(17)

    assert run_child(body, lambda supervisor: supervisor.socket.close()) == 17


def test_a_busy_child_ends_at_once_when_the_supervisor_is_gone() -> None:
    def body(child: _core.Child) -> None:
        child.receive()
        child.update(1, _core.ResultRecord("a", "STARTED", b"", ""))
        time.sleep(60)

    def play(supervisor: Supervisor) -> None:
        supervisor.execute(1)
        assert supervisor.read()[0] == "U"
        supervisor.socket.close()

    assert run_child(body, play) == 69


def test_nonsense_from_the_supervisor_stops_an_idle_child() -> None:
    def body(child: _core.Child) -> None:
        child.receive()
        os._exit(17 if child.stopping else 18)

    assert run_child(body, lambda supervisor: supervisor.send("?", b"abc")) == 17


def test_a_forked_process_may_not_use_the_childs_socket(supervisor: Supervisor) -> None:
    child = supervisor.child()
    pid = os.fork()
    if pid == 0:
        try:
            child.receive(0)
        except RuntimeError as error:
            os._exit(0 if "was made in process" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_descriptor_that_is_no_number_of_one_is_refused() -> None:
    with pytest.raises((ValueError, OSError)):
        _core.Child(-1)
