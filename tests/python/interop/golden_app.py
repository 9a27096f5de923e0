"""The tasks that the captured messages name, for either library."""

from __future__ import annotations

import importlib
import os

app = importlib.import_module(os.environ["INTEROP_LIBRARY"]).Celery(
    "golden", broker=os.environ["INTEROP_BROKER"], backend=os.environ["INTEROP_BACKEND"]
)
app.conf.update(accept_content=["json", "pickle", "yaml", "msgpack"], broker_connection_retry_on_startup=True)


@app.task(name="demo.add")
def add(x, y):
    return x + y


@app.task(name="demo.total")
def total(numbers):
    return sum(numbers)


@app.task(name="demo.echo")
def echo(*args, **kwargs):
    return [list(map(sortable, args)), kwargs]


def sortable(value):
    """A set is no JSON."""
    return sorted(value) if isinstance(value, set) else value


@app.task(name="demo.callback")
def callback(value):
    return value


@app.task(name="demo.errback_old")
def errback_old(task_id):
    return task_id


@app.task(name="demo.errback_new")
def errback_new(request, exc, traceback):
    print("errback_new", request.id, repr(exc), bool(traceback), flush=True)


@app.task(name="demo.boom")
def boom(*_):
    raise ValueError("bad value", 42)


@app.task(name="demo.quiet", ignore_result=True)
def quiet():
    return "nobody sees this"
