"""Webhooks: a receiver learns how a task ended, signed, and again until it has answered."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac.webhooks import WebhookVerificationError, verify

from ..servers.shared import Shared
from .conftest import Project, wait_until
from .http_receiver import Answer, Received, Receiver

SECRET, OLD, CUSTOMER = "whsec_bmV3LW5ldy1uZXc=", "old", "customer"
SETTINGS: dict[str, Any] = {
    "http_allow": ["127.0.0.1"],
    "webhook_secrets": {"": [SECRET, OLD], "acme": CUSTOMER},
    "webhook_retry_schedule": [0.1, 0.1, 0.1],
}
TASKS = """
    @app.task(name="add")
    def add(x, y):
        return x + y

    @app.task(name="fail")
    def fail():
        raise KeyError("nothing")

    @app.task(name="retry", bind=True, max_retries=1, default_retry_delay=0)
    def retry(self):
        raise self.retry(exc=ValueError("again"))

    @app.task(name="own", webhook=(here / "url").read_text() if (here / "url").exists() else None)
    def own():
        return "own"

    @app.task(name="replaced", bind=True)
    def replaced(self):
        raise self.replace(add.s(20, 22))

    @app.task(name="odd")
    def odd():
        return float("nan")

    @app.task(name="wait")
    def wait():
        mark("waiting")
        time.sleep(60)

    @app.task(name="die")
    def die():
        os.kill(os.getpid(), signal.SIGKILL)
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


def content(received: Received, *secrets: str) -> Any:
    return verify(received.body, received.headers, secrets or [SECRET])


def dead(project: Project) -> list[dict[str, Any]]:
    return [letter for letter in project.client.client.dead_letters() if letter["queue"] == "celeriac.webhooks"]


def test_success_and_final_failure_are_told_and_signed(project: Project, receiver: Receiver) -> None:
    worker = started(project)
    url = receiver.answer("/hook", 200)

    sums = project.send("add", 1, 2, webhook=url)
    (told,) = receiver.wait_for("/hook")
    assert content(told)["type"] == "task.succeeded"
    assert content(told, OLD)["data"] == {"task_id": sums.id, "task": "add", "state": "SUCCESS", "result": 3}
    assert told.headers["webhook-id"] == f"msg_{sums.id}"
    assert told.headers["content-type"] == "application/json"
    with pytest.raises(WebhookVerificationError, match="no signature fits"):
        content(told, CUSTOMER)

    failed = project.send("retry", webhook={"url": url, "secret": "acme", "on": "failure", "headers": {"X-A": "b"}})
    told = receiver.wait_for("/hook", 2)[1]
    data = content(told, CUSTOMER)["data"]
    assert (data["task_id"], data["state"]) == (failed.id, "FAILURE")
    assert data["error"] == {"type": "ValueError", "message": "again"}
    assert told.headers["x-a"] == "b"
    assert worker.stop() == 0
    # Not for the retry, nor a second time.
    assert len(receiver.received("/hook")) == 2
    assert project.client.client.dead_letters() == []


def test_a_receiver_that_fails_is_called_again_with_the_same_id(project: Project, receiver: Receiver) -> None:
    started(project)
    flaky = receiver.answer("/flaky", 500, 429, 200)

    project.send("add", 1, 2, webhook=flaky)

    first, second, third = receiver.wait_for("/flaky", 3)
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == third.headers["webhook-id"]
    assert first.body == second.body == third.body
    assert content(third)["data"]["result"] == 3


def test_what_cannot_be_delivered_becomes_a_dead_letter_with_its_reason(project: Project, receiver: Receiver) -> None:
    started(project)
    gone = receiver.answer("/gone", 410)
    elsewhere = Answer(302, b"", (("Location", receiver.url + "/secret"),))

    project.send("add", 1, 2, webhook=gone + "?token=sesame")
    project.send("add", 1, 2, webhook=receiver.answer("/moved", elsewhere))
    project.send("add", 1, 2, webhook=receiver.answer("/down", 503))
    project.send("add", 1, 2, webhook="http://169.254.169.254/latest/meta-data")
    project.send("add", 1, 2, webhook={"url": gone, "secret": "nobody"})

    letters = wait_until(lambda: found if len(found := dead(project)) == 5 else None, "5 dead letters")
    reasons = " ".join(letter["detail"] for letter in letters)
    for word in ("410 Gone", "302 Found, and redirects are not followed", "503", "link-local", "no secret called"):
        assert word in reasons
    assert "sesame" not in reasons
    assert [len(receiver.received(path)) for path in ("/gone", "/moved", "/down", "/secret")] == [1, 1, 4, 0]


def test_it_is_delivered_again_when_the_worker_was_killed_in_between(project: Project, receiver: Receiver) -> None:
    worker = started(project, "-n", "one@here", worker_lease_seconds=2)
    project.send("add", 1, 2, webhook=receiver.answer("/held", Answer(hold=True), 200))
    receiver.wait_for("/held")

    worker.signal(signal.SIGKILL)
    worker.wait()
    project.start("-c", "1", "-n", "one@here")

    first, second = receiver.wait_for("/held", 2)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body


@on_embedded
def test_a_receiver_that_hangs_is_given_up_and_called_again(project: Project, receiver: Receiver) -> None:
    started(project)
    hangs = receiver.answer("/hangs", Answer(hold=True), 200)

    project.send("add", 1, 2, webhook={"url": hangs, "timeout": 0.3})

    assert len(receiver.wait_for("/hangs", 2)) == 2


@on_embedded
def test_revoked_expired_and_lost_tasks_have_failed(project: Project, receiver: Receiver) -> None:
    started(project)
    url = receiver.answer("/hook", 200)
    ends = {
        project.send("add", 1, 2, webhook=url, expires=-1).id: ("REVOKED", "TaskRevokedError", "expired"),
        project.send("die", webhook=url).id: ("FAILURE", "WorkerLostError", "SIGKILL"),
        project.send("nobody", webhook=url).id: ("FAILURE", "NotRegistered", "nobody"),
    }
    running = project.send("wait", webhook=url)
    project.wait_for_mark("waiting")
    running.revoke(terminate=True)
    ends[running.id] = ("REVOKED", "TaskRevokedError", "terminated")

    told = {content(one)["data"]["task_id"]: content(one) for one in receiver.wait_for("/hook", 4)}
    assert told.keys() == ends.keys()
    for task_id, (state, error, word) in ends.items():
        data = told[task_id]["data"]
        assert (told[task_id]["type"], data["state"], data["error"]["type"]) == ("task.failed", state, error)
        assert word in data["error"]["message"]


@on_embedded
def test_a_task_or_an_app_may_have_a_webhook_and_a_call_none(project: Project, receiver: Receiver) -> None:
    (project.folder / "url").write_text(receiver.answer("/own", 200))
    started(project, task_webhook={"url": receiver.answer("/app", 200), "on": ["failure"]})

    project.send("own")
    project.send("fail", webhook=False).get(timeout=30, propagate=False)
    project.send("add", 1, 2).get(timeout=30)
    failed = project.send("fail")

    (own,) = receiver.wait_for("/own")
    (app,) = receiver.wait_for("/app")
    assert content(own)["data"]["result"] == "own"
    assert content(app)["data"]["task_id"] == failed.id


@on_embedded
def test_the_last_step_of_a_workflow_and_what_replaces_a_task_may_have_one(
    project: Project, receiver: Receiver
) -> None:
    started(project)
    add = project.client.signature("add", (1, 2))

    last = (add | project.client.signature("add", (3,)).set(webhook=receiver.answer("/last", 200))).apply_async()
    replaced = project.send("replaced", webhook=receiver.answer("/replaced", 200))

    (told,) = receiver.wait_for("/last")
    assert (content(told)["data"]["task_id"], content(told)["data"]["result"]) == (last.id, 6)
    (told,) = receiver.wait_for("/replaced")
    assert (content(told)["data"]["task_id"], content(told)["data"]["result"]) == (replaced.id, 42)


@on_embedded
def test_a_result_that_is_no_json_is_shown(project: Project, receiver: Receiver) -> None:
    started(project)
    project.send("odd", webhook=receiver.answer("/hook", 200))
    (told,) = receiver.wait_for("/hook")
    assert (content(told)["data"]["result"], content(told)["data"]["result_repr"]) == (None, "nan")


@on_embedded
def test_an_http_task_may_have_a_webhook(project: Project, receiver: Receiver) -> None:
    started(project)
    result = project.client.http_task(receiver.answer("/a", 200), webhook=receiver.answer("/hook", 200))

    assert result.get(timeout=30)["status"] == 200
    (told,) = receiver.wait_for("/hook")
    assert content(told)["data"]["task_id"] == result.id
    assert (content(told)["data"]["task"], content(told)["data"]["result"]["status"]) == ("celeriac.http", 200)


@on_embedded
def test_no_secret_is_in_a_message_or_a_log(project: Project, receiver: Receiver) -> None:
    worker = started(
        project, "-n", "a@x", "-Q", "celery", "-l", "DEBUG", webhook_secrets={"": "sesame-new", "acme": "sesame-old"}
    )
    project.send("add", 1, 2, webhook={"url": receiver.url + "/hook?token=sesame-url", "secret": "acme"}).get(
        timeout=30
    )
    waiting = wait_until(lambda: project.queue("celeriac.webhooks").get("ready"), "the webhook waits")
    assert waiting == 1
    project.start("-n", "b@x", "-c", "1", "-Q", "celeriac.webhooks")
    (told,) = receiver.wait_for("/hook")

    assert content(told, "sesame-old")["data"]["result"] == 3
    assert "sesame" not in worker.log + project.workers[-1].log
    shown = project.client.control.inspect(timeout=5).conf()
    assert shown
    assert "sesame" not in json.dumps(shown)
