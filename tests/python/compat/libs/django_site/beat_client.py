"""Periodic tasks as the admin's pages make them: added, changed and looked at while beat runs."""

import json
import os
import sys
import time

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

import django

django.setup()

from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask  # noqa: E402
from django_celery_results.models import TaskResult  # noqa: E402
from orders.models import Note  # noqa: E402


def noted(text, count):
    """Waits for so many notes."""
    deadline = time.monotonic() + 30
    while (found := Note.objects.filter(text=text).count()) < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"{found} notes of {text!r}, not {count}; all: {list(Note.objects.values())}")
        time.sleep(0.1)


def before():
    """Before beat starts."""
    second, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.SECONDS)
    never, _ = CrontabSchedule.objects.get_or_create(minute="0", hour="3", day_of_month="31", month_of_year="2")
    PeriodicTask.objects.create(name="plants", interval=second, task="orders.tasks.remind", args='["water"]')
    PeriodicTask.objects.create(name="once", interval=second, task="orders.tasks.remind", args='["once"]', one_off=True)
    PeriodicTask.objects.create(name="never", crontab=never, task="orders.tasks.remind", args='["never"]')
    return {}


def during():
    """While it runs."""
    noted("water", 2)
    deadline = time.monotonic() + 30
    while not Note.objects.filter(text="milk").exists() and time.monotonic() < deadline:
        plants = PeriodicTask.objects.get(name="plants")
        if plants.args != '["milk"]':
            # Again, where beat has written the whole row at the same moment: what is changed then is lost, with Celery too.
            plants.args = '["milk"]'
            plants.save()
        time.sleep(0.2)
    noted("milk", 1)
    return {
        "made by": sorted(set(Note.objects.values_list("made_by", flat=True))),
        "stored as": TaskResult.objects.filter(periodic_task_name="plants").first().task_name,
        "cleanup": PeriodicTask.objects.get(name="celery.backend_cleanup").task,
    }


def after():
    """When it has ended."""
    plants = PeriodicTask.objects.get(name="plants")
    return {
        "runs": plants.total_run_count >= 1,
        "remembered": plants.last_run_at is not None,
        "once": Note.objects.filter(text="once").count(),
        "once is off": not PeriodicTask.objects.get(name="once").enabled,
        "never": Note.objects.filter(text="never").count(),
    }


print(json.dumps({"before": before, "during": during, "after": after}[sys.argv[1]]()))
