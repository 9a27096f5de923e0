"""Middleware in workers: around tasks of every pool, and told of what tasks themselves cannot tell."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Project, wait_until

TASKS = """
    import contextvars, json
    from celeriac.middleware import Middleware

    here_now = contextvars.ContextVar("here_now", default=None)

    class Writer(Middleware):
        def say(self, hook, run, *more):
            mark("seen", json.dumps([self.__class__.__name__, hook, run.task.name, run.id, run.state, *more]) + chr(10))

    class Plain(Writer):
        def before_task(self, run):
            if run.args == ["refused"]:
                raise ValueError("refused by a hook")
            run.data[self] = here_now.set(run.id)
            self.say("before_task", run)
        def after_task(self, run):
            here_now.reset(run.data[self])
            self.say("after_task", run, run.result)
            if run.args == ["bad hook"]:
                raise ValueError("a hook raised")
        def on_retry(self, run, exception):
            self.say("on_retry", run, repr(exception))
        def on_failure(self, run, exception):
            self.say("on_failure", run, type(exception).__name__)
        def on_dead_letter(self, run, exception):
            self.say("on_dead_letter", run, str(exception))
        def after_publish(self, call, exception):
            mark("published", call.name + " ")

    class Later(Writer):
        async def before_task(self, run):
            await asyncio.sleep(0)
            self.say("before_task", run)
        async def after_task(self, run):
            await asyncio.sleep(0)
            self.say("after_task", run, run.result)
        async def on_failure(self, run, exception):
            await asyncio.sleep(0)
            self.say("on_failure", run, type(exception).__name__)

    app.add_middleware(Plain, Later)

    def work(self, what):
        if what == "retry" and not self.request.retries:
            raise self.retry(exc=KeyError("again"), countdown=0)
        if what == "fail":
            raise OSError("failed")
        if what == "ignore":
            raise Ignore
        if what == "reject":
            raise Reject("not wanted", requeue=False)
        if what == "send":
            return plain.delay("sent").id
        return here_now.get() == self.request.id

    @app.task(bind=True, acks_late=True)
    def plain(self, what):
        return work(self, what)

    @app.task(bind=True, acks_late=True)
    async def later(self, what):
        await asyncio.sleep(0)
        return work(self, what)

    @app.task
    def slow():
        time.sleep(30)
"""

ENDED = {"ok": "SUCCESS", "retry": "SUCCESS", "fail": "FAILURE", "bad hook": "SUCCESS", "refused": "FAILURE"}


def seen(project: Project, task_id: str) -> list[list[Any]]:
    lines = [json.loads(line) for line in project.marks("seen").splitlines()]
    return [[name, hook, *more] for name, hook, _, one, *more in lines if one == task_id]


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio", "solo", "gevent"])
def test_hooks_run_around_plain_tasks_and_coroutines_on_every_pool(project: Project, pool: str) -> None:
    project.write(TASKS)
    worker = project.start("-P", pool, "-c", "1" if pool in {"prefork", "solo"} else "4")

    for name in ("tasks.plain", "tasks.later"):
        ids = {what: project.send(name, what) for what in ENDED}
        for what, state in ENDED.items():
            ids[what].get(timeout=30, propagate=False)
            assert ids[what].state == state, what
        last = {what: result.id for what, result in ids.items()}
        wait_until(lambda last=last: len(seen(project, last["retry"])) >= 8, "the hooks of the last try")

        assert ids["ok"].result is True, "what a plain hook sets in a context variable, the task sees"
        assert seen(project, last["ok"]) == [
            ["Plain", "before_task", "STARTED"],
            ["Later", "before_task", "STARTED"],
            ["Later", "after_task", "SUCCESS", True],
            ["Plain", "after_task", "SUCCESS", True],
        ]
        assert seen(project, last["fail"])[2:] == [
            ["Later", "on_failure", "FAILURE", "OSError"],
            ["Plain", "on_failure", "FAILURE", "OSError"],
            ["Later", "after_task", "FAILURE", None],
            ["Plain", "after_task", "FAILURE", None],
        ]
        tries = seen(project, last["retry"])
        assert [entry[:3] for entry in tries[:5]] == [
            ["Plain", "before_task", "STARTED"],
            ["Later", "before_task", "STARTED"],
            ["Plain", "on_retry", "RETRY"],
            ["Later", "after_task", "RETRY"],
            ["Plain", "after_task", "RETRY"],
        ]
        assert tries[2][3] == "KeyError('again')"
        assert [entry[1] for entry in tries[5:]] == ["before_task", "before_task", "after_task", "after_task"]
        assert ids["refused"].result.args == ("refused by a hook",)
        assert seen(project, last["refused"]) == []
    assert "Hook after_task of middleware Plain raised" in worker.log
    assert worker.stop() == 0


def test_hooks_are_told_of_dead_letters_and_of_what_is_ignored(project: Project) -> None:
    project.write(TASKS)
    project.start("-c", "1")

    rejected, ignored = project.send("tasks.plain", "reject"), project.send("tasks.plain", "ignore")
    wait_until(lambda: len(seen(project, ignored.id)) == 4, "all hooks")

    assert [entry[:3] for entry in seen(project, rejected.id)[2:]] == [
        ["Plain", "on_dead_letter", "REJECTED"],
        ["Later", "after_task", "REJECTED"],
        ["Plain", "after_task", "REJECTED"],
    ]
    assert [entry[:3] for entry in seen(project, ignored.id)[2:]] == [
        ["Later", "after_task", "IGNORED"],
        ["Plain", "after_task", "IGNORED"],
    ]
    wait_until(lambda: project.queue().get("dead") == 1, "the dead letter")


def test_a_task_that_is_killed_at_its_limit_is_told_of_as_a_failure(project: Project) -> None:
    project.write(TASKS)
    project.start("-c", "1")

    result = project.send("tasks.slow", time_limit=0.3)
    result.get(timeout=30, propagate=False)

    assert seen(project, result.id) == [
        ["Plain", "before_task", "STARTED"],
        ["Later", "before_task", "STARTED"],
        ["Later", "on_failure", "FAILURE", "TimeLimitExceeded"],
        ["Plain", "on_failure", "FAILURE", "TimeLimitExceeded"],
    ]


def test_what_a_task_sends_passes_the_middleware_in_its_worker(project: Project) -> None:
    project.write(TASKS)
    project.start("-c", "1")

    sent = project.send("tasks.plain", "send").get(timeout=30)
    assert project.client.AsyncResult(sent).get(timeout=30) is True
    retried = project.send("tasks.plain", "retry")
    retried.get(timeout=30)

    assert project.marks("published") == "tasks.plain tasks.plain "


@pytest.mark.parametrize("pool", ["prefork", "gevent", "asyncio"])
def test_hooks_of_publishing_may_be_coroutines_within_tasks(project: Project, pool: str) -> None:
    project.write("""
        from celeriac.middleware import Middleware

        class Later(Middleware):
            async def before_publish(self, call):
                await asyncio.sleep(0.001)
                call.headers["seen"] = "yes"

        app.add_middleware(Later)

        @app.task(bind=True)
        def last(self):
            return self.request.seen

        @app.task
        def plain():
            return last.delay().id

        @app.task
        async def awaits():
            return (await last.adelay()).id
        """)
    project.start("-P", pool, "-c", "2")

    for name in ("tasks.plain", "tasks.awaits"):
        sent = project.send(name).get(timeout=30)
        assert project.client.AsyncResult(sent).get(timeout=30) == "yes"
