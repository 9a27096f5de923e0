"""Results: of tasks that were sent, and of tasks that were run here."""

from __future__ import annotations

from celeriac._state import allow_join_result, denied_join_result
from celeriac.result.async_result import AsyncResult
from celeriac.result.base import ResultBase
from celeriac.result.eager import EagerResult
from celeriac.result.rebuild import result_from_tuple
from celeriac.result.result_set import GroupResult, ResultSet

__all__ = [
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultBase",
    "ResultSet",
    "allow_join_result",
    "denied_join_result",
    "result_from_tuple",
]
