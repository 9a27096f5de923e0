"""The worker's class, in the place where Celery has it."""

from __future__ import annotations

from celeriac.worker.supervisor import WorkController

__all__ = ["WorkController"]
