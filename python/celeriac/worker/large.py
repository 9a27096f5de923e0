"""Large payloads in a worker: results go to the store, and what arguments were there goes when their message is settled."""

from __future__ import annotations

import logging
import queue
import threading
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celeriac import states
from celeriac._core import ResultRecord
from celeriac.app import large, own
from celeriac.utils.blocking import off_the_loop
from celeriac.worker.records import RecordWriter

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.context import Context

__all__ = ["LargeWriter", "PayloadKeeper"]

logger = logging.getLogger("celery.app.large")

#: Between two sweeps of the store, in seconds.
SWEEP_EVERY = 3600.0
#: Payloads that wait to be deleted at the most; what does not fit expires.
MOST = 10_000


class LargeWriter(RecordWriter):
    """Makes records that tell where the result is, of results that are large."""

    def __init__(self, app: Celery, node: str, payloads: large.LargePayloads) -> None:
        super().__init__(app, node)
        self._payloads = payloads

    def success(self, request: Context, value: Any) -> ResultRecord:
        """The task returned."""
        return self._fit(super().success(request, value), request)

    def exception(
        self, state: str, request: Context, exc: BaseException, traceback: str | None, *, task_id: str | None = None
    ) -> ResultRecord:
        """The task raised, will be tried again, or was revoked."""
        return self._fit(super().exception(state, request, exc, traceback, task_id=task_id), request)

    def _fit(self, record: ResultRecord, request: Context) -> ResultRecord:
        data = record.record
        if len(data) <= self._payloads.size:
            return record
        expires = self._failure_expires if record.state == states.FAILURE else self._expires
        # A little longer than the record: who has read that may read this.
        ttl = None if expires is None else expires / 1000 + 60
        member = off_the_loop(self._payloads.put, data, ttl)
        document: dict[str, Any] = {
            "status": record.state,
            "result": large.NOTE,
            "traceback": None,
            "children": [],
            "date_done": datetime.now(self._zone).isoformat(),
        }
        if request.group:
            document["group_id"] = request.group
        if request.parent_id:
            document["parent_id"] = request.parent_id
        document["task_id"] = record.task_id
        document[own.HEADER] = {large.MEMBER: member}
        return ResultRecord(record.task_id, record.state, self._encode(document), record.content_type, expires)


class PayloadKeeper:
    """Deletes payloads whose messages are settled, and sweeps the store. A thread of the supervisor: stores may be slow."""

    def __init__(self, payloads: large.LargePayloads) -> None:
        self._payloads = payloads
        # None ends the thread.
        self._settled: queue.Queue[str | None] = queue.Queue(MOST)
        self._thread = threading.Thread(target=self._run, name="celeriac-payloads", daemon=True)

    def start(self) -> None:
        """Begins, with a sweep."""
        self._thread.start()

    def settled(self, reference: str) -> None:
        """A message is settled for good."""
        try:
            self._settled.put_nowait(reference)
        except queue.Full:
            logger.debug("large payload %s is left to expire", reference)

    def stop(self, seconds: float) -> None:
        """Deletes what waits, for so long at the most."""
        try:
            self._settled.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _run(self) -> None:
        sweeps = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= sweeps:
                sweeps = now + SWEEP_EVERY
                self._sweep()
            try:
                reference = self._settled.get(timeout=max(0.0, sweeps - now))
            except queue.Empty:
                continue
            if reference is None:
                return
            self._payloads.delete(reference)

    def _sweep(self) -> None:
        try:
            self._payloads.sweep()
        except Exception as exc:
            logger.warning("the large_payload_store cannot be swept: %r", exc)
