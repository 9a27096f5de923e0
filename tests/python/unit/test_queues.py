"""Defaults of queues: how they are read, and what messages take from them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from celeriac import Backoff, Celery, Queue, QueueDefaults
from celeriac.app.options import worker_options
from celeriac.exceptions import ImproperlyConfigured


def app(**settings: object) -> Celery:
    made = Celery("queues", broker="memory://", backend="memory://", set_as_current=False)
    made.conf.update(**settings)
    return made


def test_a_setting_wins_over_what_the_queue_itself_says() -> None:
    queues = [Queue("a", defaults={"priority": 1}), Queue("b", defaults=QueueDefaults(priority=2)), Queue("c")]
    found = app(
        task_queues=queues, task_queue_defaults={"a": {"priority": 3}, "d": {"expires": 5}}
    ).router.queues.defaults

    assert {name: one.send_options for name, one in found.items()} == {
        "a": {"priority": 3},
        "b": {"priority": 2},
        "d": {"expires": 5},
    }
    assert app().router.queues.defaults == {}


def test_a_message_takes_what_neither_call_nor_task_says_from_its_queue() -> None:
    made = app(task_queue_defaults={"images": {"priority": 5, "expires": 60}, "celery": {"priority": 1}})

    @made.task(name="plain")
    def plain() -> None: ...

    @made.task(name="urgent", priority=9)
    def urgent() -> None: ...

    def sent(task: object, **options: object) -> tuple[object, bool]:
        publication = task.s().set(**options).compose().publication  # type: ignore[attr-defined]
        return publication.properties.get("priority"), publication.headers["expires"] is not None

    assert sent(plain) == (1, False)
    assert sent(plain, queue="images") == (5, True)
    assert sent(plain, queue="images", priority=0) == (0, True)
    assert sent(urgent, queue="images") == (9, True)
    assert sent(plain, queue="other") == (None, False)


def test_wrong_defaults_are_told_when_they_are_read() -> None:
    with pytest.raises(ImproperlyConfigured, match="retries is not known; there are priority, "):
        app(task_queue_defaults={"a": {"retries": 3}}).router
    with pytest.raises(ImproperlyConfigured, match="backoff and no max_retries"):
        QueueDefaults(backoff=3)
    with pytest.raises(ImproperlyConfigured, match="keep_successes of a queue is a whole number"):
        QueueDefaults(keep_successes=-1)
    with pytest.raises(ImproperlyConfigured, match="base above 1"):
        Backoff.exponential(base=1)


def test_delays_grow_up_to_the_longest_and_are_drawn_evenly() -> None:
    exc = ValueError()
    exact = Backoff.exponential(base=2, max=10, jitter=False)
    drawn = Backoff.exponential(base=2, max=10)
    assert [exact(attempt, exc) for attempt in (1, 2, 3, 4, 10_000)] == [2, 4, 8, 10, 10]
    assert all(0 <= drawn(3, exc) <= 8 for _ in range(100))
    assert len({drawn(3, exc) for _ in range(10)}) > 1
    assert QueueDefaults(max_retries=1).delay(1, exc) == 0
    assert QueueDefaults(max_retries=1, backoff=7).delay(3, exc) == 7
    assert QueueDefaults(max_retries=1, backoff=lambda attempt, exc: attempt - 5).delay(1, exc) == 0


def test_a_worker_is_told_what_tasks_and_queues_ask_for() -> None:
    made = app(
        task_queue_defaults={"mail": QueueDefaults(keep_for=timedelta(minutes=1), dead_letter=True, time_limit=5)}
    )

    @made.task(name="kept", keep_successes=3, result_expires=10, dead_letter=False)
    def kept() -> None: ...

    made.finalize()
    options = worker_options(made, node="n@h")

    assert options["queue_defaults"]["mail"] == {
        "dead_letter": True,
        "keep_successes": None,
        "keep_failures": None,
        "result_expires_ms": 60_000,
        "time_limit": 5,
        "soft_time_limit": None,
    }
    assert {
        name: options["tasks"]["kept"][name] for name in ("keep_successes", "result_expires_ms", "dead_letter")
    } == {
        "keep_successes": 3,
        "result_expires_ms": 10_000,
        "dead_letter": False,
    }
    remote = Celery("remote", broker="amqp://localhost//", backend="rpc://", set_as_current=False)
    remote.conf.task_queue_defaults = {"mail": {"keep_failures": 1}}
    with pytest.raises(ImproperlyConfigured, match="mail limits how many results are kept"):
        worker_options(remote, node="n@h")
