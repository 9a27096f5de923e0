"""Tasks whose events are compared. Runs on Celery and on celeriac."""

from __future__ import annotations

import importlib
import json
import os

LIBRARY = os.environ["INTEROP_LIBRARY"]
library = importlib.import_module(LIBRARY)
exceptions = importlib.import_module(f"{LIBRARY}.exceptions")

app = library.Celery("events", broker=os.environ["INTEROP_BROKER"], backend=os.environ["INTEROP_BACKEND"])
app.conf.update(task_send_sent_event=True, broker_connection_retry_on_startup=True, worker_prefetch_multiplier=1)
app.conf.update(json.loads(os.environ.get("INTEROP_SETTINGS", "{}")))


@app.task(name="events.add")
def add(x, y):
    return x + y


@app.task(name="events.boom")
def boom():
    raise ValueError("bad value", 42)


@app.task(name="events.again", bind=True)
def again(self):
    if not self.request.retries:
        raise self.retry(exc=KeyError("not yet"), countdown=0.1)
    return "done"


@app.task(name="events.no_reason", bind=True, max_retries=5)
def no_reason(self):
    if not self.request.retries:
        raise self.retry(countdown=0.1)
    return {"a": "ü" * 3}


@app.task(name="events.tells", bind=True)
def tells(self, detail):
    self.send_event("task-progress", detail=detail)


@app.task(name="events.quiet", send_events=False)
def quiet():
    return None


@app.task(name="events.ignored")
def ignored():
    raise exceptions.Ignore


@app.task(name="events.rejected", acks_late=True)
def rejected():
    raise exceptions.Reject("no thanks", requeue=False)


@app.task(name="events.rejected_early")
def rejected_early():
    raise exceptions.Reject("no thanks", requeue=False)


@app.task(name="events.long")
def long():
    return "x" * 5000
