"""The tasks. They know no app: whichever is the default one runs them."""

from __future__ import annotations

import time

from celery import Task, shared_task
from flask import current_app


@shared_task(ignore_result=False)
def add(a: int, b: int) -> int:
    """A result."""
    return a + b


@shared_task()
def block() -> None:
    """No result."""
    time.sleep(0.1)


@shared_task(ignore_result=False)
def greet(name: str) -> str:
    """Needs the application's context."""
    return f"{current_app.config['GREETING']} {name}"


@shared_task(ignore_result=False)
def divide(a: int, b: int) -> float:
    """May fail."""
    return a / b


@shared_task(bind=True, ignore_result=False)
def process(self: Task, total: int) -> object:
    """Says how far it is."""
    for done in range(total):
        self.update_state(state="PROGRESS", meta={"current": done + 1, "total": total})
        time.sleep(0.2)
    return {"current": total, "total": total}
