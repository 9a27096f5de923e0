"""Tasks watched by sentry-sdk, whose events go to a file instead of over the network."""

import json
import os
from pathlib import Path

import sentry_sdk
from celery import Celery, signals
from celery.schedules import schedstate, schedule
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.transport import Transport

BROKER = os.environ["LIBS_BROKER"]
FOLDER = Path(os.environ["LIBS_FOLDER"])


class FileTransport(Transport):
    """Appends each item of an envelope to a file of this process."""

    def capture_envelope(self, envelope):
        with (FOLDER / f"sentry-{os.getpid()}.jsonl").open("a") as file:
            for item in envelope.items:
                if item.payload.json is not None:
                    file.write(json.dumps({"type": item.type, "item": item.payload.json}, default=str) + "\n")


def start(**kwargs):
    """As Sentry's documentation says: in every process that runs or sends tasks."""
    sentry_sdk.init(
        dsn="https://key@sentry.example/1",
        transport=FileTransport,
        integrations=[CeleryIntegration(monitor_beat_tasks=True)],
        traces_sample_rate=1.0,
        send_default_pii=True,
    )


signals.celeryd_init.connect(start, weak=False)
signals.beat_init.connect(start, weak=False)

app = Celery("sentry_app", broker=BROKER, backend=BROKER)


class AtOnce(schedule):
    """Every minute (Sentry wants whole ones), and the first time at once."""

    sent = False

    def is_due(self, last_run_at):
        """Due until it was sent."""
        return schedstate(not AtOnce.sent, 60.0)


@signals.before_task_publish.connect(weak=False)
def note_sent(**kwargs):
    """Once is enough."""
    AtOnce.sent = True


app.conf.beat_schedule = {"tick": {"task": "sentry_app.add", "schedule": AtOnce(60.0), "args": (1, 1)}}


@app.task
def add(x, y):
    """Returns."""
    return x + y


class Expected(Exception):
    """Is no error."""


@app.task(bind=True, max_retries=1, throws=(Expected,))
def fail(self, how):
    """Raises in several ways."""
    if how == "retry" and self.request.retries == 0:
        raise self.retry(countdown=0)
    if how == "expected":
        raise Expected(how)
    if how != "retry":
        raise ValueError(how)
    return "second try"


@app.task(bind=True)
def headers(self):
    """What the message has brought."""
    return sorted(name for name in self.request.headers or {} if name.startswith(("sentry", "baggage")))


@app.task
def parent():
    """Sends another task."""
    return add.delay(20, 3).id
