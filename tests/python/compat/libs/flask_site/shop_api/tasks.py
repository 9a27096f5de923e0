"""Tasks."""

from celery import shared_task
from flask import current_app


@shared_task(ignore_result=False)
def add_together(a: int, b: int) -> int:
    """Adds."""
    return a + b


@shared_task(ignore_result=False, bind=True, max_retries=2)
def greet(self, name: str) -> str:
    """Needs the application's configuration; works at the second try."""
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return f"{current_app.config['GREETING']}, {name}"
