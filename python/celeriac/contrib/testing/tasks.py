"""A task that test workers are tried with."""

from __future__ import annotations

from celeriac.app import shared_task

__all__ = ["ping"]


@shared_task(name="celery.ping")
def ping() -> str:
    """Answers."""
    return "pong"
