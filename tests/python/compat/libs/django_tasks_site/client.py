"""What a view would do; prints what it saw as JSON."""

import asyncio
import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
import django

django.setup()

from django.db import transaction
from jobs.tasks import add, later, ordered, refuse, whoami

try:
    from django.tasks import default_task_backend
    from django.tasks.exceptions import InvalidTask as InvalidTaskError
    from django.tasks.exceptions import TaskResultDoesNotExist
    from django.tasks.signals import task_enqueued
except ImportError:
    from django_tasks import default_task_backend
    from django_tasks.exceptions import InvalidTaskError, TaskResultDoesNotExist
    from django_tasks.signals import task_enqueued

from celeriac.django import app


def finished(result):
    """Waits for it."""
    deadline = time.monotonic() + 30
    while not result.is_finished:
        if time.monotonic() > deadline:
            raise SystemExit(f"{result.task.module_path} is {result.status}")
        time.sleep(0.02)
        result.refresh()
    return result


def prepare():
    """Before there is a worker: what waits is put in order."""
    saw, sent = {}, []
    task_enqueued.connect(lambda sender, task_result, **_: sent.append(task_result.id), weak=False)
    for priority in (-100, 0, 100):
        ordered.using(priority=priority).enqueue(str(priority))
    ordered.using(run_after=datetime.now(UTC) + timedelta(hours=1)).enqueue("never")
    saw["enqueued"] = len(sent)
    waits = add.enqueue(1)
    saw["waits"] = [waits.status, default_task_backend.get_result(waits.id).status, waits.enqueued_at is not None]
    with transaction.atomic():
        held = add.using(backend="careful").enqueue(2)
        saw["in the transaction"] = held.enqueued_at is None
        try:
            with transaction.atomic():
                lost = add.using(backend="careful").enqueue(3)
                raise KeyError
        except KeyError:
            pass
    saw["committed"] = held.enqueued_at is not None
    saw["rolled back"] = lost.enqueued_at is None
    try:
        default_task_backend.get_result(lost.id)
    except TaskResultDoesNotExist:
        saw["never sent"] = True
    try:
        add.using(queue_name="nowhere")
    except InvalidTaskError:
        saw["unknown queue"] = True
    saw["ids"] = {"waits": waits.id, "held": held.id}
    return saw


def check(ids):
    """While a worker runs."""
    saw = {name: finished(default_task_backend.get_result(task_id)).return_value for name, task_id in ids.items()}
    result = finished(add.enqueue(2, y=3))
    saw["add"] = result.return_value
    saw["arguments"] = [result.args, result.kwargs]
    saw["times"] = result.enqueued_at <= result.started_at <= result.finished_at
    saw["workers"] = result.worker_ids
    me = finished(whoami.enqueue())
    saw["context"] = me.return_value == [me.id, "RUNNING", 1, "jobs.tasks.whoami"]
    failed = finished(refuse.enqueue("no stock"))
    [error] = failed.errors
    saw["failed"] = [failed.status, error.exception_class.__name__, "no stock" in error.traceback]
    saw["coroutine"] = finished(later.enqueue(0.01)).return_value

    async def in_a_view():
        result = await add.aenqueue(20)
        while not result.is_finished:
            await asyncio.sleep(0.02)
            await result.arefresh()
        return result.return_value

    saw["async"] = asyncio.run(asyncio.wait_for(in_a_view(), 30))
    saw["as Celery has it"] = app.AsyncResult(result.id).get(timeout=10)
    return saw


def views():
    """The views, by Django's own clients: no worker runs, what it would store is stored here."""
    from django.test import AsyncClient, Client

    from celeriac.result.record import build_record

    def store(task_id, state, info=None):
        app.client.store([build_record(app, task_id, state, info)])

    def events(chunks):
        lines = "".join(chunk.decode() for chunk in chunks).splitlines()
        return [json.loads(line[6:]).get("state", "end") for line in lines if line.startswith("data: ")]

    store("a", "PROGRESS", {"done": 1, "total": 2})
    client, stranger = Client(headers={"X-Who": "owner"}), Client()
    saw = {
        "progress": client.get("/tasks/a").json()["progress"]["done"],
        "stranger": stranger.get("/tasks/a").status_code,
    }
    saw["methods"] = [client.put("/tasks/a").status_code, client.get("/tasks/a/cancel").status_code]
    saw["without a token"] = Client(enforce_csrf_checks=True, headers={"X-Who": "owner"}).delete("/tasks/a").status_code
    saw["cancel"] = [client.delete("/tasks/a").status_code, client.post("/tasks/a/cancel").status_code]
    streaming = client.get("/tasks/a/events")
    chunks = iter(streaming.streaming_content)
    first = next(chunks)
    store("a", "SUCCESS", 5)
    saw["threads"] = [streaming.headers["Content-Type"], events([first, *chunks])]

    async def in_a_loop():
        store("b", "STARTED")
        response = await AsyncClient().get("/tasks/events?id=a&id=b", headers={"X-Who": "owner"})
        assert response.status_code == 200, response.content
        got = []
        async for chunk in response.streaming_content:
            got.append(chunk)
            if len(got) == 1:
                await asyncio.to_thread(store, "b", "FAILURE", ValueError("x"))
        return events(got)

    saw["loop"] = asyncio.run(asyncio.wait_for(in_a_loop(), 30))
    return saw


if sys.argv[1] == "views":
    print(json.dumps(views()))
else:
    print(json.dumps(prepare() if sys.argv[1] == "prepare" else check(json.loads(sys.argv[2]))))
