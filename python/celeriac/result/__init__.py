"""Results: of tasks that were sent, and of tasks that were run here."""

from __future__ import annotations

from typing import Any

from celeriac._state import allow_join_result, denied_join_result
from celeriac.result.async_result import AsyncResult
from celeriac.result.eager import EagerResult
from celeriac.result.rebuild import result_from_tuple

__all__ = ["AsyncResult", "EagerResult", "allow_join_result", "denied_join_result", "result_from_tuple"]


def __getattr__(name: str) -> Any:
    if name in {"GroupResult", "ResultSet"}:
        raise ImportError(f"{name} comes in a later version, with groups")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
