"""`migrate`: from the embedded broker to Redis to RabbitMQ and back, with nothing changed, lost or doubled."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celery
from celeriac.bin.connect import client_for
from celeriac.bin.migrate import BATCH

from .command_lines import CommandLines
from .conftest import Project, wait_until

COUNT = 2000


@pytest.fixture
def shell(project: Project) -> CommandLines:
    project.write("")
    return CommandLines(project.folder)


def fill(project: Project, count: int) -> None:
    app = project.client
    for number in range(count):
        app.send_task(
            "mail" if number % 4 == 0 else "add",
            (number, "ü" * (number % 7)),
            {"nested": {"list": [1, 2.5, None, True]}},
            priority=(None, 3, 6, 9)[number % 4],
            headers={"tenant": f"t{number % 3}", "number": number},
            expires=86400.0 if number % 5 == 0 else None,
        )


def drain(url: str, queue: str = "celery") -> dict[str, dict[str, Any]]:
    """Takes all messages away: by id."""
    client = client_for(Celery("drain", broker=url, set_as_current=False), url)
    consumer = client.consume([queue], "drain@test")
    found = {}
    while taken := consumer.claim(500, 1.0):
        for one in taken:
            assert one.headers is not None
            task_id = one.headers["id"]
            assert task_id not in found, "it came twice"
            found[task_id] = {
                "headers": one.headers,
                "properties": {**one.properties, "priority": one.properties.get("priority") or 0},
                "body": base64.b64encode(one.body).decode(),
            }
        consumer.settle([one.claim for one in taken], "ack")
    consumer.close()
    client.close()
    return found


def peek(url: str) -> dict[str, dict[str, Any]]:
    """The same, and gives them back."""
    client = client_for(Celery("peek", broker=url, set_as_current=False), url)
    consumer = client.consume(["celery"], "peek@test")
    found = {}
    while taken := consumer.claim(500, 1.0):
        for one in taken:
            assert one.headers is not None
            properties = {**one.properties, "priority": one.properties.get("priority") or 0}
            body = base64.b64encode(one.body).decode()
            found[one.headers["id"]] = {"headers": one.headers, "properties": properties, "body": body}
    consumer.close()
    client.close()
    return found


def test_thousands_of_messages_go_from_broker_to_broker_unchanged(
    project: Project, shell: CommandLines, redis_url: str, rabbitmq_url: str, tmp_path: Path
) -> None:
    fill(project, COUNT)
    sent = peek(project.url)
    back = f"sqlite:///{tmp_path / 'back.db'}"
    assert len(sent) == COUNT

    for source, destination in ((project.url, redis_url), (redis_url, rabbitmq_url), (rabbitmq_url, back)):
        done = shell.run("-A", "tasks", "migrate", "-a", source, destination)
        assert (done.returncode, done.stdout) == (0, f"Moved {COUNT} messages.\n"), done.stderr
        assert drain(source) == {}

    arrived = drain(back)
    assert arrived.keys() == sent.keys()
    assert arrived == sent


def test_without_acknowledgement_the_source_keeps_its_messages_in_order(
    project: Project, shell: CommandLines, redis_url: str
) -> None:
    fill(project, 30)
    before = list(peek(project.url))

    done = shell.run("-A", "tasks", "migrate", project.url, redis_url)

    assert done.stdout == "Copied 30 messages.\n"
    assert "give -a" in done.stderr
    assert list(peek(project.url)) == before
    assert sorted(drain(redis_url)) == sorted(before)


def test_only_tasks_and_queues_that_are_named_are_moved(project: Project, shell: CommandLines, redis_url: str) -> None:
    fill(project, 20)

    done = shell.run("-A", "tasks", "migrate", "-a", "-T", "mail", "-Q", "celery:letters", project.url, redis_url)

    assert done.stdout == "Moved 5 messages.\n"
    assert "Left 15 messages of other tasks" in done.stderr
    assert {one["headers"]["task"] for one in drain(project.url).values()} == {"add"}
    assert len(drain(redis_url, "letters")) == 5


def test_a_limit_is_kept(project: Project, shell: CommandLines, redis_url: str) -> None:
    fill(project, 300)

    assert (
        shell.run("-A", "tasks", "migrate", "-a", "-n", "250", project.url, redis_url).stdout == "Moved 250 messages.\n"
    )

    assert project.queue()["ready"] == 50
    assert len(drain(redis_url)) == 250


def test_tasks_that_wait_for_their_time_move_along(project: Project, shell: CommandLines, redis_url: str) -> None:
    later = project.send("add", 1, countdown=3600)
    assert project.queue()["parked"] == 1

    copied = shell.run("-A", "tasks", "migrate", project.url, redis_url)
    moved = shell.run("-A", "tasks", "migrate", "-a", project.url, redis_url)

    assert copied.stdout == "Copied 0 messages.\n"
    assert "Left 1 messages that wait for their time" in copied.stderr
    assert moved.stdout == "Moved 1 messages.\n"
    [one] = drain(redis_url).values()
    assert one["headers"]["id"] == later.id
    assert one["headers"]["eta"]


def test_a_destination_that_fails_loses_nothing(project: Project, shell: CommandLines) -> None:
    fill(project, 10)

    done = shell.run("-A", "tasks", "migrate", "-a", project.url, "redis://127.0.0.1:1/0")

    assert done.returncode == 1
    assert "cannot reach" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(drain(project.url)) == 10
    assert json.dumps(project.queue())


def test_a_source_cannot_be_its_own_destination(project: Project, shell: CommandLines) -> None:
    done = shell.run("-A", "tasks", "migrate", project.url, project.url)

    assert done.returncode == 2
    assert "are the same broker" in done.stderr


@pytest.mark.parametrize("direction", ["away from the file", "into the file"])
def test_a_migration_that_is_killed_again_and_again_loses_nothing(
    direction: str, project: Project, shell: CommandLines, redis_url: str
) -> None:
    kills, count = 4, 1500
    fill(project, count)
    wanted = set(peek(project.url))
    source, destination = project.url, redis_url
    if direction == "into the file":
        assert shell.run("-A", "tasks", "migrate", "-a", source, destination).returncode == 0
        source, destination = destination, source
    counter = client_for(Celery("count", broker=destination, set_as_current=False), destination)

    def arrived() -> int:
        return sum(queue["ready"] for queue in counter.queues())

    for _ in range(kills):
        kill_when_it_moves(shell.begin("-A", "tasks", "migrate", "-a", source, destination), arrived)
    done = shell.run("-A", "tasks", "migrate", "-a", source, destination)
    counter.close()

    assert done.returncode == 0, done.stderr
    ids = drain_ids(destination)
    assert set(ids) == wanted
    assert len(ids) - count <= kills * BATCH, "at the most one batch for each kill is there twice"
    assert drain_ids(source) == []


def kill_when_it_moves(process: subprocess.Popen[str], arrived: Callable[[], int]) -> None:
    before = arrived()
    wait_until(lambda: arrived() > before or process.poll() is not None, "some arrived")
    process.kill()
    process.communicate()


def drain_ids(url: str) -> list[str]:
    """Takes all messages away: their ids, however often each is there."""
    client = client_for(Celery("ids", broker=url, set_as_current=False), url)
    consumer = client.consume(["celery"], "ids@test")
    ids = []
    while taken := consumer.claim(500, 1.0):
        ids += [one.headers["id"] for one in taken if one.headers]
        consumer.settle([one.claim for one in taken], "ack")
    consumer.close()
    client.close()
    return ids
