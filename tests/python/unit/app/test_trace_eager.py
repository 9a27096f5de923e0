"""Eager mode against what Celery does, and the order of hooks."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celery, Task, chain, chord, group, signals
from celeriac.exceptions import AlwaysEagerIgnored, Reject, Retry

ROWS = json.loads((Path(__file__).parents[3] / "golden/eager/cases.json").read_text())["rows"]
#: Sent all the same; and what Celery cannot do eagerly, and we can.
ELSEWHERE = ("send_task", "replaced")


@pytest.mark.parametrize(
    "row", [row for row in ROWS if not any(word in row["call"] for word in ELSEWHERE)], ids=lambda row: row["call"]
)
def test_an_eager_call_gives_what_celery_gives(row: dict[str, Any], register) -> None:
    app = Celery("capture", broker="memory://", **row["settings"])
    names = {**vars(register(app)), "app": app, "chain": chain, "group": group, "chord": chord}

    @app.task(name="demo.total")
    def total(numbers):
        return sum(numbers)

    names["total"] = total

    if "raises" in row:
        with pytest.raises(Exception) as caught:  # noqa: PT011 -- its class is compared below
            eval(row["call"], names)
        name, _, text = row["raises"].partition(": ")
        assert type(caught.value).__name__ == name.rpartition(".")[2]
        assert str(caught.value) == text
        return
    result = eval(row["call"], names)

    assert type(result).__name__ == row["returned"]
    if "states" in row:
        assert [member.state for member in result] == row["states"]
        assert repr(result.get()) == row["result"]
        return
    assert result.state == row["state"]
    if "object at" not in row["result"]:
        assert repr(result.result) == row["result"]
    assert (result.traceback is not None) == row["has_traceback"]


def test_send_task_sends_although_eager_and_warns(register, tmp_path) -> None:
    url = f"memory://{tmp_path.name}"
    with Celery("capture", broker=url, backend=url, task_always_eager=True) as app:
        with pytest.warns(AlwaysEagerIgnored):
            result = app.send_task("demo.add", (1, 1))

        assert result.state == "PENDING"
        assert app.client.queues()[0]["ready"] == 1


class Recorder:
    """A base class whose hooks write down that they were called."""

    def __init__(self, app: Celery) -> None:
        self.calls = calls = []

        class Recording(app.Task):
            def before_start(self, task_id, args, kwargs):
                calls.append(("before_start", args))

            def on_success(self, retval, task_id, args, kwargs):
                calls.append(("on_success", retval))

            def on_failure(self, exc, task_id, args, kwargs, einfo):
                calls.append(("on_failure", repr(exc)))

            def on_retry(self, exc, task_id, args, kwargs, einfo):
                calls.append(("on_retry", repr(exc)))

            def after_return(self, status, retval, task_id, args, kwargs, einfo):
                calls.append(("after_return", status))

        self.base = Recording


def test_hooks_come_in_order(app: Celery) -> None:
    recorder = Recorder(app)

    @app.task(base=recorder.base)
    def half(n):
        return 8 // n

    half.apply((2,))
    half.apply((0,))

    assert recorder.calls == [
        ("before_start", (2,)),
        ("on_success", 4),
        ("after_return", "SUCCESS"),
        ("before_start", (0,)),
        ("on_failure", "ZeroDivisionError('integer division or modulo by zero')"),
        ("after_return", "FAILURE"),
    ]


def test_hooks_are_told_of_an_exception_as_in_a_worker(app: Celery) -> None:
    told: list[Any] = []

    class Telling(Task):
        def on_failure(self, exc, task_id, args, kwargs, einfo):
            told.append((einfo.exception is exc, einfo.type, "fails" in einfo.traceback, str(einfo) == einfo.traceback))

    @app.task(base=Telling)
    def fails():
        raise KeyError("x")

    result = fails.apply()

    assert told == [(True, KeyError, True, True)]
    assert result.traceback.endswith("KeyError: 'x'\n")


def test_a_retry_tells_its_hook_and_runs_again(app: Celery) -> None:
    recorder = Recorder(app)

    @app.task(base=recorder.base, bind=True, max_retries=2)
    def flaky(self):
        if self.request.retries < 1:
            raise self.retry(exc=ValueError("again"))
        return "done"

    assert flaky.apply().get() == "done"
    assert [name for name, _ in recorder.calls] == [
        "before_start",
        "on_retry",
        "before_start",
        "on_success",
        "after_return",
    ]


def test_a_retry_is_raised_at_the_call_when_exceptions_are(app: Celery) -> None:
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    runs = []

    @app.task(bind=True, max_retries=3)
    def fails(self: Task[..., Any]) -> None:
        runs.append(self.request.retries)
        raise self.retry(exc=ValueError("again"))

    with pytest.raises(Retry):
        fails.delay()
    assert runs == [0]


def test_autoretry_gives_up_after_max_retries_with_the_last_exception(app: Celery) -> None:
    runs: list[int] = []

    @app.task(bind=True, autoretry_for=(KeyError,), max_retries=3, retry_backoff=True)
    def flaky(self):
        runs.append(self.request.retries)
        raise KeyError("always")

    result = flaky.apply()

    assert runs == [0, 1, 2, 3]
    assert repr(result.result) == "KeyError('always')"
    assert result.state == "FAILURE"


def test_autoretry_lets_pass_what_it_is_told_to(app: Celery) -> None:
    @app.task(autoretry_for=(LookupError,), dont_autoretry_for=(KeyError,))
    def flaky(kind):
        raise {"key": KeyError, "value": ValueError, "reject": Reject}[kind]("x")

    assert flaky.apply(("key",)).state == "FAILURE"
    assert flaky.apply(("value",)).state == "FAILURE"
    assert flaky.apply(("reject",)).state == "REJECTED"


def test_async_tasks_run_with_and_without_a_loop(app: Celery) -> None:
    @app.task(bind=True, autoretry_for=(KeyError,))
    async def add(self, x, y):
        await asyncio.sleep(0)
        if not self.request.retries:
            raise KeyError("first")
        return x + y

    async def inside() -> Any:
        return add.apply((1, 2)).get(disable_sync_subtasks=False)

    assert add.apply((1, 2)).get() == 3
    assert asyncio.run(inside()) == 3


def test_a_class_with_its_own_call_is_entered(app: Celery) -> None:
    entered: list[str] = []

    class InContext(app.Task):
        def __call__(self, *args, **kwargs):
            entered.append("yes")
            return self.run(*args, **kwargs)

    @app.task(base=InContext)
    def add(x, y):
        return x + y

    assert add.apply((1, 2)).get() == 3
    assert add(1, 2) == 3
    assert entered == ["yes", "yes"]


def test_signals_tell_of_the_run(app: Celery) -> None:
    seen: list[str] = []

    def note(signal, **_):
        seen.append(signal.name)

    @app.task
    def half(n):
        return 8 // n

    wanted = (signals.task_prerun, signals.task_success, signals.task_failure, signals.task_postrun)
    for signal in wanted:
        signal.connect(note, sender=half)
    half.apply((2,))
    half.apply((0,))
    for signal in wanted:
        signal.disconnect(note, sender=half)

    assert seen == ["task_prerun", "task_success", "task_postrun", "task_prerun", "task_failure", "task_postrun"]


def test_error_links_of_both_kinds_are_called(app: Celery) -> None:
    seen: list[Any] = []

    @app.task
    def boom():
        raise ValueError("x")

    @app.task
    def old_style(task_id):
        seen.append(task_id)

    @app.task
    def new_style(request, exc, traceback):
        seen.append((request.id, repr(exc), traceback is not None))

    boom.apply(task_id="t1", link_error=[old_style.s(), new_style.s()])

    assert seen == ["t1", ("t1", "ValueError('x')", True)]


def test_a_direct_call_raises_the_exception_of_its_retry(app: Celery) -> None:
    @app.task(bind=True)
    def flaky(self, exc=None):
        assert self.request.called_directly
        raise self.retry(exc=exc)

    with pytest.raises(ValueError, match="mine"):
        flaky(ValueError("mine"))
    with pytest.raises(Retry):
        flaky()
