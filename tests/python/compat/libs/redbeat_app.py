"""A periodic task, and the settings of celery-redbeat."""

import os

import redis
from celery import Celery

BROKER = os.environ["LIBS_BROKER"]

app = Celery("redbeat_app", broker=BROKER, backend=BROKER)
app.conf.update(
    redbeat_redis_url=BROKER,
    redbeat_lock_timeout=5,
    beat_max_loop_interval=1,
    beat_scheduler="redbeat.RedBeatScheduler",
    beat_schedule={
        "static": {"task": "redbeat_app.note", "schedule": 1.0, "args": ("static",)},
    },
)


@app.task
def note(text):
    """Counts how often it ran."""
    redis.Redis.from_url(BROKER).hincrby("notes", text, 1)
