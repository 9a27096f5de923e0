"""A project as Celery's documentation shows it for Django."""

from .celery import app as celery_app

__all__ = ("celery_app",)
