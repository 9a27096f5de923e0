"""Calls code that must not run in the thread of an event loop, such as a database's: result backends written in Python."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["off_the_loop"]

# One thread for all such calls of this process. Made by the thread of the loop, when it first needs it.
_helper: ThreadPoolExecutor | None = None


def off_the_loop(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls it here; in a thread beside, for which this one waits, where an event loop runs here."""
    global _helper
    events = sys.modules.get("asyncio.events")
    if events is None or events._get_running_loop() is None:
        return function(*args, **kwargs)
    if _helper is None:
        from concurrent.futures import ThreadPoolExecutor

        _helper = ThreadPoolExecutor(max_workers=1, thread_name_prefix="celeriac-results")
    return _helper.submit(copy_context().run, partial(function, *args, **kwargs)).result()
