"""Tasks of Django's framework."""

import asyncio
import os

try:
    from django.tasks import task
except ImportError:
    from django_tasks import task


def note(line):
    """Writes down what ran, in order."""
    with open(os.path.join(os.environ["SITE_FOLDER"], "ran"), "a") as ran:
        ran.write(f"{line}\n")


@task
def add(x, y=1):
    """Returns."""
    return {"sum": x + y}


@task(takes_context=True)
def whoami(context):
    """Knows its own result."""
    found = context.task_result
    return [found.id, found.status, context.attempt, found.task.module_path]


@task(queue_name="mail")
def refuse(why):
    """Raises."""
    raise ValueError(why)


@task
async def later(seconds):
    """Is a coroutine."""
    await asyncio.sleep(seconds)
    return "slept"


@task
def ordered(name):
    """For priorities and times."""
    note(name)
