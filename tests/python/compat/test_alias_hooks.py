"""What libraries patch is called where Celery calls it, and nothing is led astray when they misbehave."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Aliased = Callable[..., str]

#: An app in memory with a worker in a thread; `patch` runs before the worker's first task.
BEGIN = """
import json
from celery import Celery, signals
from celery.contrib.testing.worker import start_worker
import celery.app.trace as trace

app = Celery("hooks", broker="memory://", backend="memory://")
said = []

@app.task(bind=True)
def add(self, x, y):
    said.append(["run", self.request.id is not None, self.request.called_directly])
    return x + y

@app.task
def fail():
    raise ValueError("no")

def ran(task, *args):
    with start_worker(app, perform_ping_check=False):
        return task.delay(*args).get(timeout=10, propagate=False)
"""


def test_a_wrapped_build_tracer_is_around_every_run(aliased: Aliased) -> None:
    out = aliased(
        BEGIN
        + """
original = trace.build_tracer

def build(name, task, *args, **kwargs):
    said.append(["build", name, kwargs["app"] is app])
    run = task.run
    task.run = lambda *a, **k: (said.append(["inside"]), run(*a, **k))[1]
    inner = original(name, task, *args, **kwargs)

    def traced(*args, **kwargs):
        task_id, given, named, request = args
        said.append(["before", task_id == request["id"], list(given), named, request.get("headers")])
        try:
            return inner(*args, **kwargs)
        finally:
            said.append(["after"])

    return traced

trace.build_tracer = build
signals.task_postrun.connect(lambda **_: said.append(["postrun"]), weak=False)
with start_worker(app, perform_ping_check=False):
    for number in (3, 4):
        assert add.apply_async((2, number), headers={"x": "y"}).get(timeout=10) == 2 + number
    assert repr(fail.delay().get(timeout=10, propagate=False)) == "ValueError('no')"
print(json.dumps(said))
"""
    )

    said = json.loads(out)
    steps = [["inside"], ["run", True, False], ["postrun"], ["after"]]
    # One tracer for each task, made when its first request comes.
    assert said[:11] == [
        ["build", "hooks.add", True],
        ["before", True, [2, 3], {}, {"x": "y"}],
        *steps,
        ["before", True, [2, 4], {}, {"x": "y"}],
        *steps,
    ]
    assert [step[0] for step in said[11:]] == ["build", "before", "inside", "postrun", "after"]


def test_an_eager_call_is_traced_too(aliased: Aliased) -> None:
    aliased(
        BEGIN
        + """
original = trace.build_tracer

def build(name, task, *args, **kwargs):
    inner = original(name, task, *args, **kwargs)
    return lambda *args, **kwargs: (said.append([kwargs, args[3].get("is_eager")]), inner(*args, **kwargs))[1]

trace.build_tracer = build
assert add.apply((2, 3)).get() == 5
assert said[0] == [{}, True], said
app.conf.task_always_eager = True
assert add.delay(2, 4).get() == 6
# What a test of a library does: it calls the tracer by itself.
assert original("x", add, app=app)("id", (1, 1), {}, request={}).retval == 2
"""
    )


def test_a_wrapper_that_raises_afterwards_changes_nothing_and_one_that_runs_nothing_fails_the_task(
    aliased: Aliased,
) -> None:
    aliased(
        BEGIN
        + """
original = trace.build_tracer

def build(name, task, *args, **kwargs):
    inner = original(name, task, *args, **kwargs)

    def traced(*args, **kwargs):
        if args[1][0] == 1:
            return None
        inner(*args, **kwargs)
        raise OSError("broken wrapper")

    return traced

trace.build_tracer = build
assert ran(add, 2, 3) == 5
answer = ran(add, 1, 3)
assert isinstance(answer, RuntimeError) and "did not run" in str(answer), answer
"""
    )


def test_a_patched_call_of_tasks_is_called_with_the_request_that_runs(aliased: Aliased) -> None:
    aliased(
        BEGIN
        + """
from celery import Task

call = Task.__call__
Task.__call__ = lambda self, *args, **kwargs: (said.append(["call", self.request.id is not None]), call(self, *args, **kwargs))[1]
assert ran(add, 2, 3) == 5
assert said == [["call", True], ["run", True, False]], said
"""
    )


def test_a_class_of_ones_own_that_calls_the_base_keeps_its_request(aliased: Aliased) -> None:
    aliased(
        BEGIN
        + """
from celery import Task
from celery.app.trace import task_has_custom

class Own(Task):
    def __call__(self, *args, **kwargs):
        said.append("call")
        return super().__call__(*args, **kwargs)

@app.task(base=Own, bind=True)
def own(self, depth):
    said.append([self.request.id is not None, self.request.called_directly])
    return own(depth - 1) if depth else self.request.id is None

assert task_has_custom(own, "__call__") and not task_has_custom(add, "__call__")
# What it calls by itself is a call of its own.
assert ran(own, 1) is True
assert said == ["call", [True, False], "call", [False, True]], said
"""
    )


def test_sending_goes_through_what_was_put_in_place_of_apply_async_and_send_task(aliased: Aliased) -> None:
    aliased(
        BEGIN
        + """
from celery import Task

def noted(function):
    def call(self, *args, **kwargs):
        kwargs["headers"] = {**(kwargs.get("headers") or {}), "trace": "t"}
        return function(self, *args, **kwargs)
    return call

Task.apply_async = noted(Task.apply_async)
Celery.send_task = noted(Celery.send_task)

@app.task(bind=True, max_retries=1)
def headers(self, *_):
    if self.request.retries == 0 and self.request.args == ["again"]:
        raise self.retry(countdown=0)
    return self.request.headers

@app.task(bind=True)
def collect(self, before):
    return [before, self.request.headers]

with start_worker(app, perform_ping_check=False):
    # The second step is sent by the worker.
    assert (headers.s() | collect.s()).delay().get(timeout=10) == [{"trace": "t"}, {"trace": "t"}]
    for result in (headers.delay(), headers.s().apply_async(), app.send_task(headers.name), headers.delay("again")):
        assert result.get(timeout=10) == {"trace": "t"}, result.get()
"""
    )


def test_the_end_of_a_child_is_what_billiards_loop_would_have(aliased: Aliased) -> None:
    aliased("""
import sys, types
from celeriac.worker.patched import end_of_child

class Worker:
    outq = None
    def workloop(self):
        assert self.maxtasks == 0
        said.append("original")
        return self.anything(1, x=2)

said = []
Worker.workloop.__module__ = "billiard.pool"
sys.modules["billiard.pool"] = types.SimpleNamespace(Worker=Worker)
end_of_child()
assert said == []
original = Worker.workloop

def patched(*args, **kwargs):
    try:
        return original(*args, **kwargs)
    finally:
        said.append("flushed")

Worker.workloop = patched
end_of_child()
assert said == ["original", "flushed"]
""")


def test_what_is_put_around_kombus_publish_is_around_ours(celery_python: Callable[..., Any]) -> None:
    out = celery_python("""
import celeriac.compat; celeriac.compat.install()
import json
import kombu
from kombu import Producer
from celery import Celery

assert kombu.__version__.startswith("5.")
said = []
original = Producer.publish

def publish(self, *args, **kwargs):
    said.append([kwargs["headers"]["task"], kwargs["headers"]["id"], kwargs["routing_key"], kwargs["exchange"],
                 self.connection.transport.driver_type])
    return original(self, *args, **kwargs)

Producer.publish = publish
app = Celery("a", broker="memory://", backend="memory://")
result = app.send_task("x", queue="own")
assert said == [["x", result.id, "own", "", "memory"]], said
assert [q["ready"] for q in app.client.queues() if q["name"] == "own"] == [1], app.client.queues()

def broken(self, *args, **kwargs):
    return self.what_no_producer_has

Producer.publish = broken
other = Celery("b", broker="sqlite:///b.db")
other.send_task("x", queue="own")
assert [q["ready"] for q in other.client.queues() if q["name"] == "own"] == [1]
Producer.publish = original
assert type(Celery("c", broker="memory://").client).__name__ == "Client"
print("done")
""")

    assert out == "done\n"
