"""A job queue: retries with back-off, time limits, priorities; every job ends in a state that can be asked for.

celeriac -A job_queue worker -c 1          # in one terminal, in this folder
python job_queue.py                        # in another
"""

import os
import time
from typing import Any

from celeriac import Celery
from celeriac.entities import Queue
from celeriac.exceptions import SoftTimeLimitExceeded
from celeriac.result import AsyncResult

app = Celery("job_queue", broker=os.environ.get("BROKER", ""), backend=os.environ.get("RESULT_BACKEND", ""))
app.conf.update(
    task_queues=[Queue("celery", max_priority=9)],  # RabbitMQ wants to know; the others need no word
    worker_prefetch_multiplier=1,  # what a worker has taken already is not overtaken
    task_acks_late=True,
    task_reject_on_worker_lost=True,
)
# On Redis a higher number comes later unless this is said (Celery's rule, kept).
LOW, HIGH = (9, 0) if os.environ.get("BROKER", "").startswith("redis") else (0, 9)


@app.task(bind=True, autoretry_for=(ConnectionError,), max_retries=3, retry_backoff=True, retry_backoff_max=2)
def call_api(self: Any, fails: int) -> str:
    """Fails a few times. A retry waits up to 1, 2, 2 seconds (by chance, the jitter), in the broker: it holds no slot."""
    if self.request.retries < fails:
        raise ConnectionError(f"attempt {self.request.retries + 1} failed")
    return f"answered at attempt {self.request.retries + 1}"


@app.task(soft_time_limit=1, time_limit=5)
def convert(seconds: float) -> str:
    """Gives up in good order after one second; after five its process is killed."""
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        return "too long, tidied up"
    return "converted"


@app.task
def note(name: str) -> tuple[float, str]:
    """When it ran."""
    return time.time(), name


if __name__ == "__main__":
    recovering, hopeless, slow = call_api.delay(fails=2), call_api.delay(fails=99), convert.delay(30)
    # While the worker is busy with what came before, these wait; the urgent ones go first.
    waiting: list[AsyncResult[Any]] = []
    for priority, name in [(LOW, "later")] * 3 + [(HIGH, "urgent")] * 3:
        waiting.append(note.apply_async((name,), priority=priority))
    print("recovering:", recovering.get(timeout=30))
    print("slow:", slow.get(timeout=30))
    try:
        hopeless.get(timeout=30)
    except ConnectionError as exc:
        print("hopeless:", hopeless.state, exc)
    print("order:", " ".join(name for _, name in sorted(tuple(one.get(timeout=30)) for one in waiting)))
