"""How one task is run: hooks and signals in Celery's order, exceptions, messages that cannot be read."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from celeriac import signals
from celeriac.app.task import Task
from celeriac.exceptions import Ignore, Reject, SoftTimeLimitExceeded

LINK = {"args": [], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}


@contextmanager
def listening(*names: str) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Collects what these signals pass."""
    heard: list[tuple[str, dict[str, Any]]] = []
    connected = []
    for name in names:

        def receiver(*, signal: Any, sender: Any, _name: str = name, **passed: Any) -> None:
            heard.append((_name, {"sender": sender, **passed}))

        getattr(signals, name).connect(receiver, weak=False)
        connected.append((name, receiver))
    try:
        yield heard
    finally:
        for name, receiver in connected:
            getattr(signals, name).disconnect(receiver)


class Recording(Task):
    """Writes down which hooks are called, with what."""

    calls: list[tuple[Any, ...]]

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        self.calls.append(("before_start", task_id, list(args), kwargs))

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        self.calls.append(("on_success", retval, task_id, list(args), kwargs))

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.calls.append(("on_failure", repr(exc), task_id, "Traceback" in str(einfo)))

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.calls.append(("on_retry", repr(exc), task_id))

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.calls.append(("after_return", status, task_id))


ID = "11111111-2222-3333-4444-555555555555"


def test_hooks_and_signals_of_a_success_come_in_celerys_order(bench: Any) -> None:
    calls: list[Any] = []

    @bench.app.task(name="t", base=Recording, calls=calls)
    def task(x: int) -> int:
        calls.append("run")
        return x + 1

    with listening("task_prerun", "task_success", "task_postrun") as heard:
        answer = bench.run("t", (1,))

    assert answer.kind == "success"
    assert calls == [
        ("before_start", ID, [1], {}),
        "run",
        ("on_success", 2, ID, [1], {}),
        ("after_return", "SUCCESS", ID),
    ]
    assert [name for name, _ in heard] == ["task_prerun", "task_success", "task_postrun"]
    by_name = dict(heard)
    sender = bench.app.tasks["t"]
    assert all(passed["sender"] is sender for passed in by_name.values())
    assert by_name["task_prerun"] == {"sender": sender, "task_id": ID, "task": sender, "args": [1], "kwargs": {}}
    assert by_name["task_success"]["result"] == 2
    assert by_name["task_success"]["runtime"] == answer.runtime
    assert by_name["task_postrun"]["retval"] == 2
    assert by_name["task_postrun"]["state"] == "SUCCESS"


def test_hooks_and_signals_of_a_failure_come_in_celerys_order(bench: Any) -> None:
    calls: list[Any] = []

    @bench.app.task(name="t", base=Recording, calls=calls)
    def task() -> None:
        raise KeyError("k")

    with listening("task_prerun", "task_failure", "task_success", "task_postrun") as heard:
        answer = bench.run("t")

    assert answer.kind == "failure"
    assert [call[0] for call in calls] == ["before_start", "on_failure", "after_return"]
    assert calls[1] == ("on_failure", "KeyError('k')", ID, True)
    assert calls[2] == ("after_return", "FAILURE", ID)
    assert [name for name, _ in heard] == ["task_prerun", "task_failure", "task_postrun"]
    failure = heard[1][1]
    assert set(failure) == {"sender", "task_id", "exception", "args", "kwargs", "traceback", "einfo"}
    assert isinstance(failure["exception"], KeyError)
    assert heard[2][1]["state"] == "FAILURE"


def test_hooks_and_signals_of_a_retry_come_in_celerys_order(bench: Any) -> None:
    calls: list[Any] = []

    @bench.app.task(name="t", base=Recording, calls=calls, bind=True)
    def task(self: Any) -> None:
        raise self.retry(exc=ValueError("again"), countdown=5)

    with listening("task_retry", "task_failure", "task_postrun") as heard:
        answer = bench.run("t")

    assert answer.kind == "retry"
    assert [call[0] for call in calls] == ["before_start", "on_retry"]
    assert [name for name, _ in heard] == ["task_retry", "task_postrun"]
    assert heard[0][1]["request"].id == ID
    assert str(heard[0][1]["reason"]) == "Retry in 5s: ValueError('again')"
    [again] = answer.publications
    assert again.headers["id"] == ID
    assert again.headers["retries"] == 1
    assert again.headers["parent_id"] == ID
    assert again.due_ms is not None
    assert again.routing_key == "celery"


def test_a_hook_that_raises_does_not_change_the_outcome(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Task):
        def on_success(self, *args: Any) -> None:
            raise RuntimeError("broken hook")

    @bench.app.task(name="t", base=Broken)
    def task() -> int:
        return 1

    answer = bench.run("t")

    assert (answer.kind, answer.record["status"]) == ("success", "SUCCESS")
    assert "broken hook" in caplog.text


def test_a_before_start_that_raises_fails_the_task(bench: Any) -> None:
    class Broken(Task):
        def before_start(self, *args: Any) -> None:
            raise RuntimeError("not now")

    @bench.app.task(name="t", base=Broken)
    def task() -> int:
        raise AssertionError("must not run")

    assert bench.run("t").record["result"]["exc_message"] == ["not now"]


def test_the_request_is_what_the_message_says(bench: Any) -> None:
    seen: dict[str, Any] = {}

    @bench.app.task(name="t", bind=True)
    def task(self: Any, x: int, y: int = 0) -> None:
        request = self.request
        seen.update(
            {name: getattr(request, name) for name in (
                "id", "args", "kwargs", "retries", "root_id", "parent_id", "hostname", "delivery_info",
                "correlation_id", "reply_to", "called_directly", "is_eager", "timelimit", "origin",
            )},
            custom=request.headers,
        )  # fmt: skip

    bench.run(
        "t",
        (1,),
        {"y": 2},
        headers={"retries": 2, "parent_id": "p", "root_id": "r", "timelimit": [10, 5], "x-tenant": "acme"},
        exchange="ex",
        routing_key="rk",
        redelivered=True,
    )

    assert seen == {
        "id": ID,
        "args": [1],
        "kwargs": {"y": 2},
        "retries": 2,
        "root_id": "r",
        "parent_id": "p",
        "hostname": "w1@worker.example",
        "delivery_info": {"exchange": "ex", "routing_key": "rk", "priority": 0, "redelivered": True},
        "correlation_id": ID,
        "reply_to": "reply",
        "called_directly": False,
        "is_eager": False,
        "timelimit": [10, 5],
        "origin": "gen1@client.example",
        "custom": {"x-tenant": "acme"},
    }
    assert bench.app.tasks["t"].request.id is None, "the request is gone when the task has ended"


def test_current_task_is_the_one_that_runs(bench: Any) -> None:
    @bench.app.task(name="t")
    def task() -> Any:
        return bench.app.current_worker_task.name

    assert bench.run("t").record["result"] == "t"
    assert bench.app.current_worker_task is None


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"not json", "decoded"),
        (b"[[], {}]", "not [args, kwargs, embed] but a list of 2"),
        (b'"text"', "not [args, kwargs, embed] but a text"),
        (b"null", "but null"),
        (b"[[], null, {}]", "kwargs is not a mapping but null"),
        (b"[[], [1], {}]", "kwargs is not a mapping but a list of 1"),
        (b'[{"a": 1}, {}, {}]', "args is not a list but an object"),
        (b"[[], {}, 5]", "embed is not a mapping"),
        (b"", "but bytes"),
    ],
)
def test_a_body_that_is_not_a_task_is_malformed(body: bytes, says: str, bench: Any) -> None:
    @bench.app.task(name="t")
    def task() -> None:
        raise AssertionError("must not run")

    answer = bench.run("t", body=body)

    assert answer.kind == "malformed"
    assert says in answer.summary
    assert answer.record["result"]["exc_type"] == "InvalidTaskError", "whoever waits for it learns of it"


def test_a_content_type_that_is_not_accepted_is_refused_before_it_is_decoded(bench: Any) -> None:
    @bench.app.task(name="t")
    def task() -> None:
        raise AssertionError("must not run")

    answer = bench.run(
        "t", body=b"cos\nsystem\n(S'false'\ntR.", properties={"content_type": "application/x-python-serialize"}
    )

    assert answer.kind == "disallowed"
    assert "application/x-python-serialize" in answer.summary


def test_a_message_without_a_content_type_is_malformed(bench: Any) -> None:
    @bench.app.task(name="t")
    def task() -> None:
        raise AssertionError("must not run")

    assert bench.run("t", properties={"content_type": None}).kind == "malformed"


def test_a_compressed_body_is_opened(bench: Any) -> None:
    @bench.app.task(name="t")
    def task(x: str) -> int:
        return len(x)

    body = zlib.compress(json.dumps([["x" * 5000], {}, {}]).encode())

    answer = bench.run("t", body=body, headers={"compression": "application/x-gzip"})

    assert answer.record["result"] == 5000


@pytest.mark.parametrize("embed", [b"{}", b"null"])
def test_embed_may_be_empty(embed: bytes, bench: Any) -> None:
    @bench.app.task(name="t")
    def task(x: int) -> int:
        return x

    assert bench.run("t", body=b"[[1], {}, " + embed + b"]").record["result"] == 1


def test_arguments_of_protocol_1_below_headers_of_protocol_2_are_read(bench: Any) -> None:
    @bench.app.task(name="t")
    def task(x: int, y: int) -> int:
        return x - y

    answer = bench.run("t", body=json.dumps({"args": [5], "kwargs": {"y": 2}, "retries": 9}).encode())

    assert answer.record["result"] == 3


def test_arguments_that_do_not_fit_fail_the_task(bench: Any) -> None:
    @bench.app.task(name="t")
    def task(x: int) -> int:
        return x

    answer = bench.run("t", (1, 2))

    assert answer.kind == "failure"
    assert answer.record["result"]["exc_type"] == "TypeError"


@pytest.mark.parametrize(
    ("task_ignores", "header", "stored"),
    [(False, False, True), (False, True, False), (True, None, False), (True, False, True), (False, None, True)],
)
def test_the_header_decides_before_the_task_whether_a_result_is_stored(
    task_ignores: bool, header: bool | None, stored: bool, bench: Any
) -> None:
    @bench.app.task(name="t", ignore_result=task_ignores)
    def task() -> int:
        return 1

    answer = bench.run("t", headers={"ignore_result": header})

    assert answer.kind == "success"
    assert bool(answer.results) is stored


def test_errors_of_ignored_tasks_are_stored_on_request(bench: Any) -> None:
    @bench.app.task(name="quiet", ignore_result=True)
    def quiet() -> None:
        raise ValueError

    @bench.app.task(name="loud", ignore_result=True, store_errors_even_if_ignored=True)
    def loud() -> None:
        raise ValueError

    assert bench.run("quiet", headers={"ignore_result": True}).results == []
    assert bench.run("loud", headers={"ignore_result": True}).record["status"] == "FAILURE"


def test_nothing_is_stored_without_a_result_backend(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(result_backend="disabled")

    @bench.app.task(name="t", track_started=True)
    def task() -> int:
        return 1

    answer = bench.run("t")

    assert (answer.kind, answer.results, bench.channel.updates) == ("success", [], [])


def test_started_is_stored_when_it_is_tracked(bench: Any) -> None:
    @bench.app.task(name="t", track_started=True)
    def task() -> int:
        return 1

    bench.run("t")

    [(_, record)] = bench.channel.updates
    document = json.loads(record.record)
    assert document["status"] == "STARTED"
    assert document["result"] == {"pid": os.getpid(), "hostname": "w1@worker.example"}
    assert document["date_done"] is None


@pytest.mark.parametrize(
    ("exc", "kind"),
    [(Ignore(), "ignored"), (Reject("r"), "rejected"), (Reject("r", requeue=True), "requeued")],
)
def test_predicates_steer_the_message(exc: Exception, kind: str, bench: Any) -> None:
    calls: list[Any] = []

    @bench.app.task(name="t", base=Recording, calls=calls)
    def task() -> None:
        raise exc

    with listening("task_postrun") as heard:
        answer = bench.run("t")

    assert answer.kind == kind
    assert [call[0] for call in calls] == ["before_start"]
    assert heard[0][1]["state"] == ("IGNORED" if kind == "ignored" else "REJECTED")


def test_a_failure_drops_what_was_to_follow_a_success(bench: Any) -> None:
    @bench.app.task(name="t")
    def task() -> object:
        return object()

    answer = bench.run("t", embed={"callbacks": [{**LINK, "task": "t"}]})

    assert answer.kind == "failure"
    assert answer.publications == []


def test_a_new_error_link_is_called_with_request_exception_and_traceback(bench: Any) -> None:
    called: list[Any] = []

    @bench.app.task(name="t")
    def task() -> None:
        raise ValueError("x")

    @bench.app.task(name="errback")
    def errback(request: Any, exc: BaseException, traceback: str) -> None:
        called.append((request.id, repr(exc), "ValueError: x" in traceback))

    answer = bench.run("t", embed={"errbacks": [{**LINK, "task": "errback"}]})

    assert called == [(ID, "ValueError('x')", True)]
    assert answer.publications == []


def test_an_error_link_that_raises_is_logged_and_no_more(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    @bench.app.task(name="t")
    def task() -> None:
        raise ValueError("first")

    @bench.app.task(name="errback")
    def errback(request: Any, exc: BaseException, traceback: str) -> None:
        raise ValueError("second")

    answer = bench.run("t", embed={"errbacks": [{**LINK, "task": "errback"}]})

    assert answer.record["result"]["exc_message"] == ["first"]
    assert "second" in caplog.text


def test_error_links_are_called_for_lost_tasks(bench: Any) -> None:
    @bench.app.task(name="t")
    def task() -> None:
        raise AssertionError("must not run")

    link = {**LINK, "task": "unknown.elsewhere"}
    answer = bench.run("t", embed={"errbacks": [link]}, mode="lost", detail="exitcode 1")

    [publication] = answer.publications
    assert publication.headers["task"] == "unknown.elsewhere"
    assert answer.record["result"]["exc_message"] == ["Worker exited prematurely: exitcode 1 Job: 1."]


def test_hooks_and_signals_of_a_hard_limit_are_called(bench: Any) -> None:
    calls: list[Any] = []

    @bench.app.task(name="t", base=Recording, calls=calls)
    def task() -> None:
        raise AssertionError("must not run")

    with listening("task_failure", "task_prerun") as heard:
        answer = bench.run("t", mode="timed_out", limit=2.5)

    assert answer.kind == "failure"
    assert answer.record["result"]["exc_message"] == [2.5]
    assert [call[0] for call in calls] == ["on_failure", "after_return"]
    assert [name for name, _ in heard] == ["task_failure"]


def test_a_revoked_task_calls_nothing_and_leaves_its_signal_to_the_worker(bench: Any) -> None:
    calls: list[Any] = []

    @bench.app.task(name="t", base=Recording, calls=calls)
    def task() -> None:
        raise AssertionError("must not run")

    with listening("task_revoked", "task_failure") as heard:
        answer = bench.run("t", mode="revoked", detail="expired")

    assert answer.kind == "revoked"
    assert calls == []
    assert heard == []


def test_a_message_that_cannot_be_read_can_still_be_concluded(bench: Any) -> None:
    @bench.app.task(name="t")
    def task() -> None:
        """Never runs."""

    answer = bench.run("t", body=b"garbage", mode="lost", detail="signal 9 (SIGKILL)")

    assert answer.record["result"]["exc_type"] == "WorkerLostError"


def test_an_error_in_our_own_code_fails_the_request_and_not_the_child(
    bench: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @bench.app.task(name="t")
    def task() -> int:
        return 1

    with listening("task_internal_error") as heard:
        monkeypatch.setattr(bench.tracer.records, "success", lambda *_: 1 / 0)
        monkeypatch.setattr(bench.tracer.concluder, "fail", lambda *_, **__: 1 / 0)
        answer = bench.run("t")
    monkeypatch.undo()

    assert answer.kind == "failure"
    assert answer.record["result"]["exc_type"] == "ZeroDivisionError"
    assert [name for name, _ in heard] == ["task_internal_error"]
    assert "INTERNAL ERROR" in caplog.text
    assert bench.run("t").kind == "success"


def test_a_task_that_ends_its_process_does_so(bench: Any) -> None:
    @bench.app.task(name="t")
    def task() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        bench.tracer.trace(bench.message("t"))

    assert bench.channel.answers == []
    assert bench.limit.running is None


def test_a_result_over_the_limit_fails_the_task(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(result_max_bytes=1000)

    @bench.app.task(name="t")
    def task(n: int) -> str:
        return "x" * n

    assert bench.run("t", (100,)).kind == "success"
    answer = bench.run("t", (5000,))

    assert answer.kind == "failure"
    assert answer.record["result"]["exc_type"] == "ResultTooLarge"
    assert "result_max_bytes" in answer.record["result"]["exc_message"][0]


def test_an_exception_whose_repr_raises_is_stored(bench: Any) -> None:
    class Nasty(Exception):
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

        __str__ = __repr__

    @bench.app.task(name="t")
    def task() -> None:
        raise Nasty("x")

    answer = bench.run("t")

    assert answer.kind == "failure"
    assert answer.record["result"]["exc_type"].endswith("Nasty")


# -- async tasks


def test_an_async_task_runs_to_its_end(bench: Any) -> None:
    @bench.app.task(name="t")
    async def task(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    assert bench.run("t", (1,)).record["result"] == 2


def test_async_tasks_share_one_loop(bench: Any) -> None:
    @bench.app.task(name="t")
    async def task() -> int:
        return id(asyncio.get_running_loop())

    assert bench.run("t").record["result"] == bench.run("t").record["result"]


def test_an_async_task_knows_its_request_and_can_retry(bench: Any) -> None:
    @bench.app.task(name="t", bind=True)
    async def task(self: Any) -> None:
        await asyncio.sleep(0)
        raise self.retry(exc=ValueError("again"), countdown=1)

    answer = bench.run("t")

    assert answer.kind == "retry"
    assert answer.publications[0].headers["id"] == ID


def test_an_async_task_that_cancels_itself_fails(bench: Any) -> None:
    @bench.app.task(name="t")
    async def task() -> None:
        raise asyncio.CancelledError

    assert bench.run("t").kind == "failure"


# -- the soft time limit


@contextmanager
def soft_limit(bench: Any, tag: int, seconds: float) -> Iterator[None]:
    """Sends SIGUSR1 for a request a while after it began, as the supervisor does."""

    def passed(signum: int, frame: Any) -> None:
        bench.channel.passed.add(tag)
        os.kill(os.getpid(), signal.SIGUSR1)

    old = signal.signal(signal.SIGUSR1, bench.limit.on_signal)
    old_alarm = signal.signal(signal.SIGALRM, passed)

    def begun(**kwargs: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)

    signals.task_prerun.connect(begun)
    try:
        yield
    finally:
        signals.task_prerun.disconnect(begun)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGUSR1, old)
        signal.signal(signal.SIGALRM, old_alarm)


def test_the_soft_limit_is_raised_in_the_task(bench: Any) -> None:
    @bench.app.task(name="t")
    def task() -> None:
        time.sleep(30)

    with soft_limit(bench, 7, 0.2):
        answer = bench.run("t", tag=7)

    assert answer.record["result"] == {
        "exc_type": "SoftTimeLimitExceeded",
        "exc_message": [],
        "exc_module": "billiard.exceptions",
    }


def test_a_task_may_catch_the_soft_limit(bench: Any) -> None:
    @bench.app.task(name="t")
    def task() -> str:
        try:
            time.sleep(30)
        except SoftTimeLimitExceeded:
            return "cleaned up"
        return "not reached"

    with soft_limit(bench, 7, 0.2):
        assert bench.run("t", tag=7).record["result"] == "cleaned up"


def test_a_signal_for_an_earlier_request_changes_nothing(bench: Any) -> None:
    @bench.app.task(name="t")
    def task() -> int:
        os.kill(os.getpid(), signal.SIGUSR1)
        return 1

    old = signal.signal(signal.SIGUSR1, bench.limit.on_signal)
    try:
        bench.channel.passed.add(6)
        assert bench.run("t", tag=7).kind == "success"
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_the_soft_limit_is_raised_at_the_await_of_an_async_task(bench: Any) -> None:
    cleaned: list[str] = []

    @bench.app.task(name="t")
    async def task() -> None:
        try:
            await asyncio.sleep(30)
        except SoftTimeLimitExceeded:
            cleaned.append("caught at the await")
            raise

    with soft_limit(bench, 7, 0.2):
        answer = bench.run("t", tag=7)

    assert cleaned == ["caught at the await"]
    assert answer.record["result"]["exc_type"] == "SoftTimeLimitExceeded"


def test_the_soft_limit_is_raised_in_code_of_an_async_task_that_blocks_its_loop(bench: Any) -> None:
    @bench.app.task(name="t")
    async def task() -> str:
        try:
            time.sleep(30)
        except SoftTimeLimitExceeded:
            await asyncio.sleep(0)
            return "caught"
        return "not reached"

    with soft_limit(bench, 7, 0.2):
        assert bench.run("t", tag=7).record["result"] == "caught"
    assert bench.run("t", body=b"[[], {}, {}]", mode="lost", detail="x").kind == "failure"


# -- log lines


def test_log_lines_have_celerys_wording(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    @bench.app.task(name="good")
    def good() -> str:
        return "value"

    @bench.app.task(name="bad")
    def bad() -> None:
        raise ValueError("x")

    @bench.app.task(name="known", throws=(KeyError,))
    def known() -> None:
        raise KeyError("y")

    @bench.app.task(name="again", bind=True)
    def again(self: Any) -> None:
        raise self.retry(countdown=3)

    @bench.app.task(name="ignored")
    def ignored() -> None:
        raise Ignore

    @bench.app.task(name="rejected")
    def rejected() -> None:
        raise Reject("no thanks")

    caplog.set_level(logging.INFO, logger="celery.app.trace")
    answer = bench.run("good")
    for name in ("bad", "known", "again", "ignored", "rejected"):
        bench.run(name)

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", f"Task good[{ID}] succeeded in {answer.runtime}s: 'value'"),
        ("ERROR", f"Task bad[{ID}] raised unexpected: ValueError('x')"),
        ("INFO", f"Task known[{ID}] raised expected: KeyError('y')"),
        ("INFO", f"Task again[{ID}] retry: Retry in 3s"),
        ("INFO", f"Task ignored[{ID}] ignored"),
        ("WARNING", f"Task rejected[{ID}] reject requeue=False: no thanks"),
    ]
    assert all(record.name == "celery.app.trace" for record in caplog.records)


def test_frames_of_a_failed_task_are_not_kept(bench: Any) -> None:
    import weakref

    class Big:
        """Something that a task holds when it fails."""

    references = []

    @bench.app.task(name="t")
    def task() -> None:
        big = Big()
        references.append(weakref.ref(big))
        raise ValueError

    bench.run("t")

    assert references[0]() is None, "freed by reference count, with no collection"


def test_a_serializer_registered_for_json_reads_and_writes_here_too(bench: Any) -> None:
    from celeriac.serialization import registry

    def encode(obj: Any) -> bytes:
        return b"own" + json.dumps(obj).encode()

    def decode(data: Any) -> Any:
        return json.loads(data[len("own") :])

    before = dict(registry._codecs), dict(registry._names)
    registry.register("json", encode, decode, "application/json")
    try:

        @bench.app.task(name="doubled")
        def doubled(x: int) -> int:
            return x * 2

        message = bench.message("doubled", body=encode([[4], {}, {}]))
        bench.tracer.trace(message)
        record = bench.channel.answers[0].results[0].record
    finally:
        registry._codecs.clear()
        registry._codecs.update(before[0])
        registry._names.clear()
        registry._names.update(before[1])
    assert bench.channel.answers[0].kind == "success"
    assert record.startswith(b"own")
    assert json.loads(record[3:])["result"] == 8


def test_what_a_task_leaves_on_the_stacks_is_gone_with_it(bench: Any) -> None:
    from celeriac._state import get_current_task, push_current_task

    @bench.app.task(name="careless", bind=True)
    def careless(self: Any) -> None:
        self.push_request(id="left")
        push_current_task(self)

    bench.tracer.trace(bench.message("careless"))
    assert bench.channel.answers[0].kind == "success"
    assert len(careless.request_stack) == 0
    assert get_current_task() is None
