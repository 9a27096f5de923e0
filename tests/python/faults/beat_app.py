"""The application of the tests with several beats: one task a second."""

from __future__ import annotations

import os

from celeriac import Celery

app = Celery("beat_app", broker=os.environ["BEAT_BROKER"])
app.conf.beat_lease_seconds = float(os.environ.get("BEAT_LEASE", "2"))
app.conf.beat_missed_runs = os.environ.get("BEAT_MISSED", "once")
app.conf.beat_schedule = {"every second": {"task": "tick", "schedule": 1.0}}


@app.task(name="tick")
def tick() -> None:
    """What is sent; nobody runs it here."""
