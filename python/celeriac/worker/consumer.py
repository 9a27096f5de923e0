"""What stands for Celery's consumer: the sender of `worker_ready` and of signals about single messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.worker.supervisor import WorkController

__all__ = ["Consumer"]


@dataclass(slots=True)
class Consumer:
    """The sender of `worker_ready`. Messages are consumed by the engine."""

    app: Celery
    hostname: str
    controller: WorkController
