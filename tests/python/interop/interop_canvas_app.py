"""The tasks of the canvas tests, on Celery and on celeriac alike."""

from __future__ import annotations

import os

from interop_app import CustomError, app, library, note, notes, wait_for

__all__ = ["CustomError", "app", "library", "note", "notes", "wait_for"]

canvas = __import__(f"{os.environ['INTEROP_LIBRARY']}.canvas", fromlist=["chain"])


@app.task(name="canvas.node")
def node(*given, tag):
    """What it got, under its name: the result of a workflow shows the way of everything in it."""
    return [tag, list(given)]


@app.task(name="canvas.add")
def add(x, y):
    return x + y


@app.task(name="canvas.total")
def total(numbers, more=0):
    return sum(numbers) + more


@app.task(name="canvas.noop")
def noop(*given):
    return None


@app.task(name="canvas.fails")
def fails(*given, code=7):
    raise CustomError(code, "on purpose")


@app.task(name="canvas.quiet", ignore_result=True)
def quiet(*given, key=None):
    if key:
        note(key, list(given))
    return "not kept"


@app.task(name="canvas.noted")
def noted(*given, key):
    note(key, list(given))
    return list(given)


@app.task(name="canvas.errback_new")
def errback_new(request, exc, traceback, key):
    note(key, ["new", type(exc).__name__, str(exc)])


@app.task(name="canvas.errback_old")
def errback_old(task_id, key):
    note(key, ["old", bool(task_id)])


@app.task(name="canvas.lineage", bind=True)
def lineage(self, *given, tag):
    """Who it is in its workflow."""
    request = self.request
    return [tag, request.root_id, request.parent_id, request.group, request.group_index, list(given)]


@app.task(name="canvas.replaced", bind=True)
def replaced(self, kind, *given):
    """Puts something else in its place."""
    made = {
        "task": lambda: add.s(40, 2),
        "chain": lambda: add.s(1, 2) | add.s(3),
        "group": lambda: canvas.group(add.s(number, 1) for number in range(3)),
        "chord": lambda: canvas.chord([add.s(number, 1) for number in range(3)], total.s()),
        "fails": lambda: fails.si(),
        "nested": lambda: replaced.si("task"),
    }[kind]()
    raise self.replace(made)


@app.task(name="canvas.joins_later", bind=True)
def joins_later(self, number):
    """Adds a part to the chord that it is in."""
    if number == 1:
        self.add_to_chord(add.s(100, 100))
    return number


@app.task(name="canvas.retried", bind=True, max_retries=2, default_retry_delay=0)
def retried(self, *given, tag):
    """Works at the second try."""
    if self.request.retries < 1:
        raise self.retry(countdown=0)
    return [tag, self.request.retries, list(given)]
