"""Tasks that get many calls at once, by celery-batches."""

import os

import redis
from celery import Celery
from celery_batches import Batches, SimpleRequest

BROKER = os.environ["LIBS_BROKER"]

app = Celery("batches_app", broker=BROKER, backend=BROKER)
app.conf.worker_prefetch_multiplier = 0


def note(name, requests):
    """Writes down which calls came together."""
    assert all(isinstance(one, SimpleRequest) for one in requests)
    calls = ",".join(str(one.kwargs.get("url", one.args)) for one in requests)
    redis.Redis.from_url(BROKER).rpush(name, calls)


@app.task(base=Batches, flush_every=5, flush_interval=600)
def by_count(requests):
    """Flushed when five are there."""
    note("by_count", requests)
    for request in requests:
        app.backend.mark_as_done(request.id, len(request.kwargs["url"]), request=request)


@app.task(base=Batches, flush_every=100, flush_interval=1)
def by_time(requests):
    """Flushed when a second is over."""
    note("by_time", requests)


@app.task(base=Batches, flush_every=2, flush_interval=600)
def fail(requests):
    """Raises: as with celery-batches, nobody is told."""
    note("fail", requests)
    raise ValueError("bad batch")


@app.task
def add(x, y):
    """Is no batch."""
    return x + y
