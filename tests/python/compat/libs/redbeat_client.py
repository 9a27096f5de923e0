"""Adds, changes and removes entries while beat runs."""

import json
import time

import redis
from celery.schedules import crontab, schedule
from redbeat import RedBeatSchedulerEntry
from redbeat.schedulers import RedBeatConfig
from redbeat_app import BROKER, app

store = redis.Redis.from_url(BROKER, decode_responses=True)


def noted(text, count):
    """Waits for so many runs."""
    deadline = time.monotonic() + 30
    while int(store.hget("notes", text) or 0) < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"{text!r} did not run {count} times; runs: {store.hgetall('notes')}")
        time.sleep(0.05)


saw = {}
noted("static", 2)
entry = RedBeatSchedulerEntry("dynamic", "redbeat_app.note", schedule(run_every=1), args=["dynamic"], app=app)
entry.save()
noted("dynamic", 2)

found = RedBeatSchedulerEntry.from_key(entry.key, app=app)
saw["entry"] = [found.name, found.task, found.args, found.schedule.run_every.total_seconds(), found.enabled]
saw["ran"] = found.last_run_at is not None
entry.delete()

yearly = RedBeatSchedulerEntry(
    "yearly", "redbeat_app.note", crontab(minute=0, hour=0, day_of_month=1, month_of_year=1), app=app
)
yearly.save()
again = RedBeatSchedulerEntry.from_key(yearly.key, app=app).schedule
saw["crontab"] = [again == yearly.schedule, again._orig_month_of_year]
config = RedBeatConfig(app)
saw["keys"] = sorted(store.keys("redbeat:*"))
saw["scheduled"] = sorted(store.zrange(config.schedule_key, 0, -1))
saw["statics"] = sorted(store.smembers(config.statics_key))
print(json.dumps(saw))
