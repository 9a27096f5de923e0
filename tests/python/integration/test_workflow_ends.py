"""Workflows end, in a result or in an error, whatever becomes of their members."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest

from celeriac import chain, chord, group
from celeriac._core import Publication
from celeriac.exceptions import ChordError, InvalidTaskError, NotRegistered, Reject, TaskRevokedError, WorkerLostError

from .conftest import wait_until

TASKS = """
    from celeriac.exceptions import Reject

    @app.task(name="add")
    def add(x, y):
        return x + y

    @app.task(name="collect")
    def collect(values):
        mark("collect")
        return sum(values)

    @app.task(name="hang")
    def hang(*args):
        mark("hang")
        time.sleep(60)

    @app.task(name="reject")
    def reject(*args):
        mark("reject")
        raise Reject("not me", requeue=True)

    @app.task(name="ignore")
    def ignore(*args):
        raise Ignore("nothing of it")

    @app.task(name="die", acks_late=True, reject_on_worker_lost=True)
    def die(*args):
        mark("die")
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(name="errback")
    def errback(request, exc, traceback):
        mark("errback", f"{type(exc).__name__} ")
    """


@pytest.fixture
def worker(project: Any) -> Any:
    project.write(TASKS)
    return project.start("-c", "2")


def signature(project: Any, name: str, *args: Any, **options: Any) -> Any:
    return project.client.signature(name, args=args, **options)


def wait_until_begun(project: Any) -> None:
    """Waits until a member of a workflow is marked as begun, which stands for its early acknowledgement."""

    def marked() -> bool:
        with closing(sqlite3.connect(project.folder / "queue.db")) as store:
            return bool(store.execute("SELECT 1 FROM claimed WHERE begun = 2").fetchall())

    wait_until(marked, "it is marked")


def error_of(result: Any) -> Any:
    """What the body of a chord ended with; `get` would raise what its first failed part did."""
    wait_until(lambda: result.state in ("FAILURE", "SUCCESS"), "the chord has ended")
    return result.result


def test_a_chain_fails_when_the_whole_worker_of_a_step_is_killed(project: Any, worker: Any) -> None:
    steps = [signature(project, "add", 1, 1), signature(project, "hang"), signature(project, "add", 1)]
    result = chain(*steps, app=project.client).apply_async(link_error=signature(project, "errback"))
    project.wait_for_mark("hang")
    wait_until_begun(project)

    worker.kill()
    project.start("-c", "2")

    with pytest.raises(WorkerLostError, match="the whole worker that ran it is gone"):
        result.get(timeout=30)
    assert result.parent.state == "FAILURE"
    assert result.parent.parent.get(timeout=30) == 2
    assert project.marks("hang") == "x", "what was acknowledged early runs once"
    wait_until(lambda: project.queue()["ready"] == project.queue()["claimed"] == 0, "nothing is left")


def test_a_chord_fails_when_the_whole_worker_of_a_part_is_killed(project: Any, worker: Any) -> None:
    header = group(signature(project, "add", 1, 1), signature(project, "hang"), app=project.client)
    body = signature(project, "collect").on_error(signature(project, "errback"))
    result = chord(header, app=project.client)(body)
    project.wait_for_mark("hang")
    wait_until_begun(project)

    worker.kill()
    project.start("-c", "2")

    error = error_of(result)
    assert isinstance(error, ChordError)
    assert "the whole worker that ran it is gone" in str(error)
    assert project.wait_for_mark("errback", "ChordError ") == "ChordError "
    assert (project.marks("hang"), project.marks("collect")) == ("x", "")


def test_an_unknown_task_fails_what_follows_it(project: Any, worker: Any) -> None:
    unknown = signature(project, "nobody knows", link_error=signature(project, "errback"))

    chained = chain(unknown, signature(project, "add", 1), app=project.client).apply_async()
    header = [signature(project, "nobody knows"), signature(project, "add", 1, 1)]
    joined = chord(header, app=project.client)(signature(project, "collect"))

    with pytest.raises(NotRegistered):
        chained.get(timeout=30)
    assert "never registered" in str(error_of(joined))
    assert project.wait_for_mark("errback", "NotRegistered ") == "NotRegistered "


def test_an_expired_step_revokes_what_follows_it(project: Any, worker: Any) -> None:
    expired = signature(project, "add", 1, 1, expires=0.001, countdown=0.5)

    chained = chain(expired, signature(project, "add", 1), app=project.client).apply_async()
    joined = chord([expired.clone(), signature(project, "add", 1, 1)], app=project.client)(
        signature(project, "collect")
    )

    with pytest.raises(TaskRevokedError, match="expired"):
        chained.get(timeout=30)
    assert chained.state == "REVOKED"
    assert "raised TaskRevokedError('expired')" in str(error_of(joined))


def test_a_step_that_gives_itself_back_fails_what_follows_it(project: Any, worker: Any) -> None:
    result = chain(signature(project, "reject"), signature(project, "add", 1), app=project.client).apply_async()

    with pytest.raises(Reject, match="not me"):
        result.get(timeout=30)
    assert project.marks("reject") == "x"


def test_a_step_that_wants_to_be_ignored_fails_what_follows_it(project: Any, worker: Any) -> None:
    chained = chain(signature(project, "ignore"), signature(project, "add", 1), app=project.client).apply_async()
    header = [signature(project, "ignore"), signature(project, "add", 1, 1)]
    joined = chord(header, app=project.client)(signature(project, "collect"))

    assert "raised Ignore" in str(error_of(joined))
    wait_until(lambda: chained.state == "FAILURE", "the chain has failed")
    assert chained.parent.state == "PENDING"


def test_a_step_that_kills_its_process_too_often_fails_what_follows_it(project: Any, worker: Any) -> None:
    result = chain(signature(project, "die"), signature(project, "add", 1), app=project.client).apply_async()

    with pytest.raises(WorkerLostError):
        result.get(timeout=30)
    assert project.marks("die") == "xxx"
    wait_until(lambda: project.queue()["dead"] == 1, "a dead letter")


@pytest.mark.parametrize("content_type", ["application/json", "application/x-python-serialize"])
def test_whoever_waits_for_a_refused_message_learns_of_it(content_type: str, project: Any, worker: Any) -> None:
    head = {"task": "add", "id": "refused-1", "root_id": "refused-1", "retries": 0}
    properties = {"content_type": content_type, "content_encoding": "utf-8"}
    project.client.client.publish([Publication(head, properties, b"garbage", routing_key="celery")])

    with pytest.raises(InvalidTaskError):
        project.client.AsyncResult("refused-1").get(timeout=30)


def test_a_chord_whose_messages_were_purged_ends_with_an_error(project: Any) -> None:
    project.write(TASKS, result_chord_lost_after=1.0)
    header = [signature(project, "add", 1, number) for number in range(3)]
    result = chord(header, app=project.client)(signature(project, "collect"))
    assert project.client.client.purge("celery") == 3

    project.start("-c", "1")

    with pytest.raises(ChordError, match=r"3 of its 3 parts \(index 0, 1, 2\) have not ended"):
        result.get(timeout=30)
    assert project.marks("collect") == ""
