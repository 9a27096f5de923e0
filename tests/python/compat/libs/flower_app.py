"""Tasks that Flower shows."""

import os

from celery import Celery

BROKER = os.environ["LIBS_BROKER"]

app = Celery("flower_app", broker=BROKER, backend=BROKER)
app.conf.task_send_sent_event = True


@app.task
def add(x, y):
    """Returns."""
    return x + y


@app.task
def fail():
    """Raises."""
    raise ValueError("bad value")
