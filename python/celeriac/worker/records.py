"""Result records: what a result backend keeps for a task, byte for byte in Celery's form."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

from celeriac import states
from celeriac._core import ResultRecord, json_record
from celeriac.app import large
from celeriac.exceptions import EncodeError
from celeriac.serialization import failure, json, registry
from celeriac.utils.blocking import off_the_loop

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.context import Context

#: Values that are stored as they are; anything else may be a result object.
_PLAIN = frozenset({type(None), bool, int, float, str, list, dict, tuple, bytes})


#: Written as `[]`; nobody changes it.
_NO_CHILDREN: list[Any] = []


class ResultTooLarge(Exception):
    """The encoded result is larger than `result_max_bytes` allows."""


class RecordWriter:
    """Makes the records of one app. Holds no state of a task, so one serves a whole child."""

    def __init__(self, app: Celery, node: str) -> None:
        self._app = app
        conf = app.conf
        self._serializer: str = conf.result_serializer
        self._content_type, _, _ = registry.dumps(None, self._serializer)
        self._encode: Callable[[Any], bytes] = registry.codec(self._serializer).encode
        self._keeps_exceptions = self._serializer == "pickle"
        self._extended = bool(conf.result_extended)
        # The engine writes the document itself, unless the user's own serializer does, or there is more in it.
        self._plain_json = self._serializer == "json" and registry.json_is_own() and not self._extended
        self._expires = _milliseconds(conf.result_expires)
        failure_expires = conf.get("result_failure_expires")
        self._failure_expires = self._expires if failure_expires is None else _milliseconds(failure_expires)
        self._max_bytes: int = conf.get("result_max_bytes") or 0
        self._zone: tzinfo = app.timezone or UTC
        self._now_is_utc = self._zone is UTC
        #: What most results are needs no more than one call.
        self._simple = self._plain_json and self._now_is_utc and not self._max_bytes
        self._node = node

    def success(self, request: Context, value: Any) -> ResultRecord:
        """The task returned.

        Raises:
            EncodeError: The serializer refuses the value.
            ResultTooLarge: It takes more bytes than are allowed.
        """
        if type(value) in _PLAIN:
            if self._simple and not request._children:
                group, parent, expires = request.group, request.parent_id, self._expires
                task_id = request.id or ""
                return json_record(
                    task_id, states.SUCCESS, value, None, _NO_CHILDREN, True, group, parent, expires, json.default
                )
        elif hasattr(value, "as_tuple") and hasattr(value, "ready"):
            value = value.as_tuple()
        record = self._record(states.SUCCESS, request, request.id or "", value, None, self._done())
        if self._max_bytes and len(record.record) > self._max_bytes:
            raise ResultTooLarge(
                f"the result takes {len(record.record)} bytes, and result_max_bytes allows {self._max_bytes}"
            )
        return record

    def exception(
        self,
        state: str,
        request: Context,
        exc: BaseException,
        traceback: str | None,
        *,
        task_id: str | None = None,
    ) -> ResultRecord:
        """The task raised, will be tried again, or was revoked.

        Args:
            task_id: Another id than the request's: a later step of its chain.
        """
        done = self._done() if state in states.READY_STATES else None
        result: Any = exc if self._keeps_exceptions else failure.encode(exc, self._encode)
        try:
            return self._record(state, request, task_id or request.id or "", result, traceback, done)
        except EncodeError:
            plain = failure.encode(exc, self._encode)
            return self._record(state, request, task_id or request.id or "", plain, traceback, done)

    def state(self, state: str, request: Context, meta: Any) -> ResultRecord:
        """A state on the way, such as STARTED."""
        return self._record(state, request, request.id or "", meta, None, None)

    def _done(self) -> str | bool:
        """Now, as text; True leaves it to the engine, which writes UTC."""
        return True if self._plain_json and self._now_is_utc else datetime.now(self._zone).isoformat()

    def _record(
        self, state: str, request: Context, task_id: str, result: Any, traceback: str | None, done: str | bool | None
    ) -> ResultRecord:
        children = request._children
        expires = self._failure_expires if state == states.FAILURE else self._expires
        if self._plain_json:
            trail = [child.as_tuple() for child in children] if children else []
            group, parent = request.group, request.parent_id
            return json_record(task_id, state, result, traceback, trail, done, group, parent, expires, json.default)
        document: dict[str, Any] = {
            "status": state,
            "result": result,
            "traceback": traceback,
            "children": [child.as_tuple() for child in children] if children else [],
            "date_done": done,
        }
        if request.group:
            document["group_id"] = request.group
        if request.parent_id:
            document["parent_id"] = request.parent_id
        if self._extended:
            self._extend(document, request)
        document["task_id"] = task_id
        return ResultRecord(task_id, state, self._encode(document), self._content_type, expires)

    def _extend(self, document: dict[str, Any], request: Context) -> None:
        document["name"] = request.task
        document["args"] = request.args
        document["kwargs"] = request.kwargs
        document["worker"] = request.hostname or self._node
        document["retries"] = request.retries
        document["queue"] = (request.delivery_info or {}).get("routing_key")
        if request.stamps:
            document["stamped_headers"] = request.stamped_headers
            document.update(request.stamps)


class StoringWriter(RecordWriter):
    """Stores at once, in the child, as Celery does: for backends that are written in Python.

    What it gives back stands for the record; the engine, which has no backend then, drops it.
    """

    def success(self, request: Context, value: Any) -> ResultRecord:
        """The task returned.

        Raises:
            EncodeError: The serializer refuses the value.
            ResultTooLarge: It takes more bytes than are allowed.
        """
        if self._max_bytes:
            size = len(registry.dumps(self._app.backend.prepare_value(value), self._serializer)[2])
            if size > self._max_bytes:
                raise ResultTooLarge(f"the result takes {size} bytes, and result_max_bytes allows {self._max_bytes}")
        return self._store(request.id, value, states.SUCCESS, None, request)

    def exception(
        self,
        state: str,
        request: Context,
        exc: BaseException,
        traceback: str | None,
        *,
        task_id: str | None = None,
    ) -> ResultRecord:
        """The task raised, will be tried again, or was revoked."""
        return self._store(task_id or request.id, exc, state, traceback, request)

    def state(self, state: str, request: Context, meta: Any) -> ResultRecord:
        """A state on the way, such as STARTED."""
        return self._store(request.id, meta, state, None, request)

    def _store(
        self, task_id: str | None, value: Any, state: str, traceback: str | None, request: Context
    ) -> ResultRecord:
        def store() -> None:
            # Asked for there: each thread has its own.
            self._app.backend.store_result(task_id, value, state, traceback=traceback, request=request)

        off_the_loop(store)
        return ResultRecord(task_id or "", state, b"", self._content_type, None)


def make_writer(app: Celery, node: str) -> RecordWriter:
    """What makes the records of an app."""
    if app.has_own_backend:
        return StoringWriter(app, node)
    payloads = large.of_app(app)
    if payloads is not None:
        from celeriac.worker.large import LargeWriter

        return LargeWriter(app, node, payloads)
    return RecordWriter(app, node)


def _milliseconds(seconds: float | timedelta | None) -> int | None:
    """None keeps a record for ever."""
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    return int(seconds * 1000) or None if seconds else None
