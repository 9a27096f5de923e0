"""The worker as a class."""

from __future__ import annotations

from celeriac.worker.supervisor import WorkController as Worker

__all__ = ["Worker"]
