"""An event loop in a thread of its own, for coroutines of callers that have none: made on first use, one in a process."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Coroutine
from typing import Any

__all__ = ["run"]

# Guards the loop below. Both are made anew in a forked process, which has not got the thread.
_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine to its end. It sees the context variables of the caller; what it sets there is its own."""
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        # What is called a thread there shares this one, and with it the loop that may run in it.
        from contextvars import copy_context

        from gevent import get_hub

        return get_hub().threadpool.apply(copy_context().run, (asyncio.run, coroutine))
    loop = _started()
    if threading.current_thread() is _thread:
        # Called by a coroutine that runs there: it cannot wait for another one.
        from concurrent.futures import ThreadPoolExecutor
        from contextvars import copy_context

        with ThreadPoolExecutor(max_workers=1) as executor:
            return executor.submit(copy_context().run, asyncio.run, coroutine).result()
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


def _started() -> asyncio.AbstractEventLoop:
    global _loop, _thread
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_loop.run_forever, name="celeriac-hooks", daemon=True)
            _thread.start()
        return _loop


def _forget() -> None:
    global _lock, _loop, _thread
    _lock, _loop, _thread = threading.Lock(), None, None


os.register_at_fork(after_in_child=_forget)
