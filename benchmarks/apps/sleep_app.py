"""One task that waits 50 ms, as each pool does it best: for Celery and for celeriac, as `BENCH_SYSTEM` says."""

from __future__ import annotations

import asyncio
import importlib
import mmap
import os
import threading
import time
from pathlib import Path

SECONDS = float(os.environ.get("BENCH_SECONDS", "0.05"))

package = importlib.import_module(os.environ["BENCH_SYSTEM"])
app = package.Celery("bench", broker=os.environ["BENCH_URL"])
_lock = threading.Lock()
_views: dict[int, memoryview] = {}


def count() -> None:
    """One more task has run in this process."""
    with _lock:
        view = _views.get(os.getpid())
        if view is None:
            with Path(os.environ["BENCH_COUNTERS"], str(os.getpid())).open("wb+") as file:
                file.truncate(8)
                view = _views[os.getpid()] = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")
        view[0] += 1


@app.task(name="waits", ignore_result=True)
def waits() -> None:
    """For threads and greenlets."""
    time.sleep(SECONDS)
    count()


if os.environ["BENCH_SYSTEM"] == "celeriac":

    @app.task(name="awaits", ignore_result=True)
    async def awaits() -> None:
        """A coroutine."""
        await asyncio.sleep(SECONDS)
        count()
