"""The application of the interoperability tests. It runs on Celery and on celeriac: INTEROP_LIBRARY says on which."""

from __future__ import annotations

import importlib
import json
import os
import time
from pathlib import Path

LIBRARY = os.environ["INTEROP_LIBRARY"]
#: Where tasks leave notes, and clients tell tasks to go on.
FOLDER = Path(os.environ["INTEROP_FOLDER"])
PATIENCE = 20.0

library = importlib.import_module(LIBRARY)
exceptions = importlib.import_module(f"{LIBRARY}.exceptions")

app = library.Celery(
    "interop",
    broker=os.environ["INTEROP_BROKER"],
    backend=os.environ["INTEROP_BACKEND"],
)
app.conf.update(
    accept_content=["json", "pickle", "yaml", "msgpack"],
    broker_connection_retry_on_startup=True,
)
app.conf.update(json.loads(os.environ.get("INTEROP_SETTINGS", "{}")))


class CustomError(Exception):
    """With arguments of its own."""

    def __init__(self, code, detail):
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


class OddError(Exception):
    """Its constructor does not take what its `args` say."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


class Outer:
    """Holds a class whose qualified name has a dot."""

    class InnerError(ValueError):
        """Nested."""


def note(key, text):
    """Leaves a line under that name, atomically."""
    file = os.open(FOLDER / f"note-{key}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{json.dumps(text)}\n".encode())
    os.close(file)


def notes(key):
    """The lines left under that name."""
    path = FOLDER / f"note-{key}"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition, what):
    """Waits until something is true, and gives it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise TimeoutError(what)


def told_to_go_on(key):
    """Waits for the client."""
    wait_for((FOLDER / f"go-{key}").exists, f"go {key}")


@app.task(name="interop.add")
def add(x, y):
    return x + y


@app.task(name="interop.total")
def total(numbers):
    return sum(numbers)


@app.task(name="interop.chord_part")
def chord_part(number):
    note("chord_part", [number, LIBRARY])
    return number


@app.task(name="interop.chord_body")
def chord_body(numbers, chord):
    note("chord_body", [chord, LIBRARY])
    return [numbers, chord]


@app.task(name="interop.echo")
def echo(*args, **kwargs):
    return [list(args), kwargs]


@app.task(name="interop.typed")
def typed(**values):
    """What kind of thing arrived, and what it says of itself."""
    return {name: [type(value).__name__, repr(value)] for name, value in values.items()}


SEEN = [
    "id",
    "task",
    "retries",
    "eta",
    "expires",
    "root_id",
    "parent_id",
    "group",
    "group_index",
    "args",
    "kwargs",
    "argsrepr",
    "kwargsrepr",
    "lang",
    "origin",
    "reply_to",
    "correlation_id",
    "delivery_info",
    "timelimit",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
    "headers",
    "called_directly",
    "is_eager",
    "hostname",
    "callbacks",
    "errbacks",
    "chain",
    "chord",
    "utc",
    "shadow",
    "tenant",
]


@app.task(name="interop.request", bind=True)
def request(self, *args, **kwargs):
    """What the task is told about itself."""
    return {name: getattr(self.request, name, "absent") for name in SEEN}


@app.task(name="interop.default", bind=True)
def default(self, x, y=2, *, z=3):
    return [x, y, z]


@app.task(name="interop.quiet", ignore_result=True)
def quiet(key):
    note(key, "ran")
    return "nobody reads this"


@app.task(name="interop.noted")
def noted(value, key):
    note(key, value)
    return value


@app.task(name="interop.errback_old")
def errback_old(task_id, key):
    note(key, task_id)


@app.task(name="interop.errback_new")
def errback_new(request, exc, traceback, key):
    note(key, [request.id, type(exc).__name__, [repr(arg) for arg in exc.args], bool(traceback)])


@app.task(name="interop.boom")
def boom(kind="value"):
    if kind == "value":
        raise ValueError("bad value", 42)
    if kind == "custom":
        raise CustomError(7, {"why": ["because", None]})
    if kind == "odd":
        raise OddError("a", "b")
    if kind == "nested":
        raise Outer.InnerError("inside")
    if kind == "other":
        from interop_elsewhere import ElsewhereError

        raise ElsewhereError("far away")
    if kind == "unserializable":
        raise CustomError(object, {1, 2})
    if kind == "cause":
        try:
            {}["missing"]
        except KeyError as exc:
            raise CustomError(1, "outer") from exc
    if kind == "key":
        raise KeyError("no such key")
    if kind == "os":
        raise FileNotFoundError(2, "No such file or directory", "/nowhere")
    if kind == "unicode":
        raise ValueError("snow \u2603 and \U0001f600")
    if kind == "no arguments":
        raise RuntimeError
    if kind == "exit":
        raise SystemExit(3)
    raise AssertionError(kind)


@app.task(name="interop.unserializable")
def unserializable():
    return object()


@app.task(name="interop.returns")
def returns(what):
    from interop_values import VALUES

    return VALUES[what]


@app.task(name="interop.retried", bind=True, max_retries=3)
def retried(self, times, countdown=0.1):
    if self.request.retries < times:
        raise self.retry(exc=ValueError("not yet", self.request.retries), countdown=countdown)
    return [self.request.retries, self.request.parent_id == self.request.id, self.request.root_id == self.request.id]


@app.task(name="interop.retried_changed", bind=True, max_retries=3)
def retried_changed(self, n, key=None):
    if self.request.retries < 2:
        raise self.retry(args=(n + 1,), kwargs={"key": f"{key}!"}, countdown=0)
    return [n, key]


@app.task(name="interop.exhausted", bind=True, max_retries=1, default_retry_delay=0)
def exhausted(self, with_exc):
    raise self.retry(exc=CustomError(9, "again") if with_exc else None)


@app.task(name="interop.auto", bind=True, autoretry_for=(KeyError,), max_retries=3, default_retry_delay=0)
def auto(self, times):
    if self.request.retries < times:
        raise KeyError("flaky")
    return self.request.retries


@app.task(name="interop.retries_for_long", bind=True, max_retries=3)
def retries_for_long(self):
    raise self.retry(exc=ValueError("later"), countdown=600)


@app.task(name="interop.progress", bind=True)
def progress(self, key):
    self.update_state(state="PROGRESS", meta={"current": 3, "total": 10, "text": "caf\u00e9"})
    told_to_go_on(key)
    return "done"


@app.task(name="interop.tracked", track_started=True)
def tracked(key):
    told_to_go_on(key)
    return "ok"


@app.task(name="interop.ignored", bind=True)
def ignored(self, key):
    self.update_state(state="KEPT", meta={"kept": True})
    note(key, "ran")
    raise exceptions.Ignore


@app.task(name="interop.rejected")
def rejected():
    raise exceptions.Reject("no thanks", requeue=False)


@app.task(name="interop.rejected_late", acks_late=True)
def rejected_late():
    raise exceptions.Reject("no thanks", requeue=False)


@app.task(name="interop.requeued_late", bind=True, acks_late=True)
def requeued_late(self, key):
    note(key, self.request.delivery_info.get("redelivered"))
    if len(notes(key)) < 2:
        raise exceptions.Reject("again", requeue=True)
    return len(notes(key))


@app.task(name="interop.late", acks_late=True)
def late(x):
    return x


@app.task(name="interop.late_boom", acks_late=True)
def late_boom():
    raise ValueError("late")


@app.task(name="interop.sleepy")
def sleepy(seconds, key=None):
    if key:
        note(key, "began")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.05)
    return seconds


@app.task(name="interop.catches")
def catches(seconds):
    try:
        sleepy.run(seconds)
    except exceptions.SoftTimeLimitExceeded:
        return "caught"


@app.task(name="interop.spawns", bind=True)
def spawns(self):
    child = add.delay(1, 1)
    return [child.id, child.parent.id == self.request.id if child.parent else None]


@app.task(name="interop.late_noted", bind=True, acks_late=True)
def late_noted(self, number, key):
    """Takes a moment, so that no worker has them all."""
    time.sleep(0.004)
    note(key, [number, LIBRARY])
    return number
