"""The base class of pools, as code that is written for Celery names it."""

from __future__ import annotations

from typing import Any

__all__ = ["BasePool"]


class BasePool:
    """A pool. Tasks are run by the engine: a class of one's own can only be asked, not used.

    Args:
        limit: Slots.
        **options: Accepted for compatibility.
    """

    RUN, CLOSE, TERMINATE = 0x1, 0x2, 0x3
    is_green = False
    signal_safe = True
    uses_semaphore = False
    task_join_will_block = True
    body_can_be_buffer = False

    def __init__(self, limit: int | None = None, **options: Any) -> None:
        self.limit = limit
        self.options = options

    @property
    def num_processes(self) -> int | None:
        """Slots."""
        return self.limit
