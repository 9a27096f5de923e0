"""A project as it is written for Celery, in its own words: run by Celery's worker and by ours, unchanged.

SHOP_BROKER and SHOP_BACKEND say where; SHOP_FOLDER is where hooks and signals leave lines.
"""

import json
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

from celery import Celery, Task, beat, chain, current_app, current_task, group, shared_task, signals
from celery.app import trace as tracing
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.schedules import crontab, schedule
from celery.utils.log import get_task_logger
from kombu import Exchange, Queue, binding
from kombu.serialization import register
from kombu.utils.json import register_type

FOLDER = Path(os.environ["SHOP_FOLDER"])
logger = get_task_logger(__name__)


def note(*words):
    """One line, whole, from any process."""
    file = os.open(FOLDER / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{json.dumps(words, default=repr)}\n".encode())
    os.close(file)


class Money:
    """A type of the project's own, on the wire as JSON."""

    def __init__(self, cents):
        self.cents = cents


register_type(Money, "shop-money", lambda money: money.cents, Money)
register(
    "reversed",
    lambda value: json.dumps(value)[::-1],
    lambda text: json.loads((text if isinstance(text, str) else bytes(text).decode())[::-1]),
    content_type="application/x-reversed",
    content_encoding="utf-8",
)


class Web:
    """As a web framework's application: tasks run in its context."""

    depth = 0

    @contextmanager
    def app_context(self):
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1


web = Web()


class ContextTask(Task):
    """The pattern of Flask's documentation."""

    def __call__(self, *args, **kwargs):
        with web.app_context():
            return self.run(*args, **kwargs)


app = Celery("shop", task_cls=ContextTask)


class Own(schedule):
    """A schedule of the project's own."""

    def is_due(self, last_run_at):
        return super().is_due(last_run_at)


class Config:
    broker_url = os.environ["SHOP_BROKER"]
    result_backend = os.environ["SHOP_BACKEND"]
    broker_connection_retry_on_startup = True
    accept_content = ["json", "reversed"]
    task_default_queue = "shop"
    task_queues = (
        Queue("shop", Exchange("shop"), routing_key="shop"),
        Queue("orders", Exchange("events", type="topic"), routing_key="order.#", max_priority=5),
        Queue("audit", [binding(Exchange("events", type="topic"), routing_key="order.cancelled")]),
    )
    task_routes = {"shop.orders.*": {"queue": "orders", "routing_key": "order.paid"}}
    task_annotations = {"shop.annotated": {"max_retries": 7}}
    task_track_started = True
    beat_schedule = {
        "nightly": {"task": "shop.add", "schedule": crontab(hour=3, minute=30), "args": (1, 2)},
        "own": {"task": "shop.tock", "schedule": Own(0.5), "args": (beat.BeatLazyFunc(lambda: "lazy"),)},
        "often": {"task": "shop.tick", "schedule": 0.5, "options": {"queue": "shop"}},
    }


app.config_from_object(Config)


class Tenant(ContextTask):
    """Says on every message whose it is, as libraries for tenants do."""

    def apply_async(self, args=None, kwargs=None, headers=None, **options):
        return super().apply_async(args, kwargs, headers={"tenant": "acme", **(headers or {})}, **options)


class Base(ContextTask):
    """With every hook there is."""

    def before_start(self, task_id, args, kwargs):
        note("before_start", self.name, task_id, self.request.id == task_id)

    def on_success(self, retval, task_id, args, kwargs):
        note("on_success", self.name, task_id, retval)

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        note("on_failure", self.name, task_id, repr(exc), bool(einfo.traceback))

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        note("on_retry", self.name, task_id, repr(exc))

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        note("after_return", self.name, task_id, status)


@app.task(name="shop.add")
def add(x, y):
    return x + y


@app.task(name="shop.context")
def context():
    return web.depth


@app.task(name="shop.hooked", base=Base, bind=True, max_retries=2)
def hooked(self, how):
    if how == "fail":
        raise KeyError("hooked")
    if how == "retry" and self.request.retries < 2:
        raise self.retry(exc=OSError("later"), countdown=0)
    return [how, self.request.retries]


@app.task(
    name="shop.auto", autoretry_for=(ConnectionError,), retry_kwargs={"max_retries": 2, "countdown": 0}, bind=True
)
def auto(self, times):
    if self.request.retries < times:
        raise ConnectionError("again")
    return self.request.retries


@app.task(name="shop.about", bind=True)
def about(self, **kwargs):
    request = self.request
    return {
        "id": request.id == current_task.request.id,
        "task": [request.task, self.name, current_task.name],
        "app": current_app.main,
        "args": [list(request.args), request.kwargs],
        "direct": request.called_directly,
        "route": request.delivery_info["routing_key"],
        "exchange": request.delivery_info["exchange"],
        "tenant": request.get("tenant"),
        "headers": request.headers,
        "root": request.root_id == request.id,
        "depth": web.depth,
    }


@app.task(name="shop.tenant", base=Tenant, bind=True)
def tenant(self):
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return self.request.get("tenant")


@app.task(name="shop.progress", bind=True)
def progress(self):
    self.update_state(state="PROGRESS", meta={"done": 1})
    seen = self.AsyncResult(self.request.id)
    deadline = time.monotonic() + 10
    while seen.state != "PROGRESS" and time.monotonic() < deadline:
        time.sleep(0.01)
    return [seen.state, seen.info]


@app.task(name="shop.states_itself", bind=True)
def states_itself(self):
    self.update_state(state="FROZEN", meta={"at": 7})
    raise Ignore


@app.task(name="shop.rejects", acks_late=True)
def rejects():
    raise Reject("no use", requeue=False)


@app.task(name="shop.soft", soft_time_limit=1)
def soft():
    try:
        time.sleep(20)
    except SoftTimeLimitExceeded as exc:
        return [type(exc).__module__, type(exc).__name__]


@app.task(name="shop.hard", time_limit=1, base=Base)
def hard():
    time.sleep(30)


@app.task(name="shop.calls", bind=True)
def calls(self, x):
    """Calls go out through Celery itself; a task called by hand runs here."""
    result = add.delay(x, 1)
    return {"by hand": add(x, 2), "children": [child.id for child in self.request.children] == [result.id]}


@app.task(name="shop.replaces", bind=True)
def replaces(self, x):
    return self.replace(add.s(x, 100))


@app.task(name="shop.cuts", bind=True)
def cuts(self, x):
    """A known way to end a chain from within."""
    self.request.chain = None
    return x


class Teardown(ContextTask):
    """Fails when its code is over, as a context that cannot be left."""

    def __call__(self, *args, **kwargs):
        super().__call__(*args, **kwargs)
        raise LookupError("teardown")


@app.task(name="shop.torn", base=Teardown)
def torn(x):
    return x


@app.task(name="shop.money")
def money(amount):
    return Money(amount.cents * 2)


@app.task(name="shop.reversed", serializer="reversed")
def backwards(words):
    return words[::-1]


@app.task(name="shop.annotated", bind=True)
def annotated(self):
    return self.max_retries


@app.task(name="shop.unencodable")
def unencodable():
    return object()


@app.task(name="shop.silent", ignore_result=True)
def silent():
    note("silent")


@app.task(name="shop.linked")
def linked(value, key):
    note("linked", key, value)


@app.task(name="shop.old_errback")
def old_errback(task_id, key):
    note("old_errback", key, task_id)


@app.task(name="shop.new_errback")
def new_errback(request, exc, traceback, key):
    note("new_errback", key, request.id, request.task, repr(exc), bool(traceback))


@app.task(name="shop.orders.paid", bind=True)
def paid(self):
    return [self.request.delivery_info["exchange"], self.request.delivery_info["routing_key"]]


@app.task(name="shop.dies", base=Base)
def dies():
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="shop.tick")
def tick():
    note("tick")


@app.task(name="shop.tock")
def tock(how):
    note("tock", how)


@shared_task
def shared(x):
    return x * 3


class Report(Base):
    """A task written as a class."""

    name = "shop.report"

    def __init__(self):
        self.made = 0

    def run(self, *titles):
        self.made += 1
        logger.info("report on %s", titles)
        return {"titles": list(titles), "made": self.made > 0}


report = app.register_task(Report())


@signals.task_prerun.connect
def on_prerun(task_id=None, task=None, **_):
    note("task_prerun", task.name, task_id, current_task.request.id == task_id)


@signals.task_postrun.connect
def on_postrun(task_id=None, task=None, state=None, **_):
    note("task_postrun", task.name, task_id, state)


@signals.task_failure.connect
def on_failure(sender=None, task_id=None, exception=None, **_):
    note("task_failure", sender.name, task_id, repr(exception))


@signals.worker_process_init.connect
def on_child(**_):
    note("worker_process_init")


@signals.worker_ready.connect
def on_ready(sender=None, **_):
    with sender.app.connection() as connection:
        sender.app.send_task("shop.linked", ("ready", "worker_ready"), connection=connection)


def build_tracer(name, task, *args, **kwargs):
    """Libraries that watch tasks replace this function."""
    trace = celery_build_tracer(name, task, *args, **kwargs)

    def watched(uuid, args, kwargs, request=None):
        note("watched", name, uuid)
        return trace(uuid, args, kwargs, request)

    return watched


celery_build_tracer = tracing.build_tracer
tracing.build_tracer = build_tracer


class OwnScheduler(beat.Scheduler):
    """Of Celery's beat: not ours to run."""


CANVAS = {
    "chain": lambda: chain(add.s(1, 2), add.s(3), add.s(4)),
    "broken chain": lambda: chain(hooked.s("fail"), add.s(3), add.s(4)),
    "torn chain": lambda: chain(torn.s(1), add.s(3)),
    "cut chain": lambda: chain(cuts.s(5), linked.s("after a cut")),
    "group": lambda: group(add.s(n, n) for n in range(5)),
    "chord": lambda: group(add.s(n, n) for n in range(5)) | total.s(),
    "broken chord": lambda: group(add.s(1, 1), hooked.s("fail")) | total.s(),
    "chain of groups": lambda: chain(add.s(1, 1), group(add.s(1), add.s(2)), total.s(), add.s(10)),
    "replaced in a chain": lambda: chain(replaces.s(1), add.s(1000)),
    "replaced in a chord": lambda: group(replaces.s(1), add.s(1, 1)) | total.s(),
}


@app.task(name="shop.total")
def total(numbers):
    return sum(numbers)
