"""The document that is stored for a task id, written and read."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celeriac import states
from celeriac._core import ResultRecord, decompress, json_record
from celeriac.exceptions import PayloadMissing
from celeriac.serialization import failure, json, registry

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.context import Context

__all__ = ["StoredMeta", "build_group", "build_record", "expires_ms", "read_group", "read_record"]


class StoredMeta:
    """A record that a backend written in Python has decoded; it takes the place of the engine's `ResultRecord`."""

    __slots__ = ("document", "state", "task_id")

    def __init__(self, task_id: str, state: str, document: dict[str, Any]) -> None:
        self.task_id = task_id
        self.state = state
        self.document = document

    @property
    def record(self) -> bytes:
        """What tells it from another record of the same task."""
        return repr(self.document).encode()


#: In front of what Celery's `result_compression` packed: this, the media type of the method, and a zero.
_PACKED = b"\0celery-compressed\0"
#: A packed record may not become larger than this.
_UNPACKED_BYTES = 256 * 1024 * 1024


def build_record(
    app: Celery,
    task_id: str,
    state: str,
    result: Any,
    *,
    traceback: str | None = None,
    request: Context | None = None,
) -> ResultRecord:
    """The record of a state; an exception is written as its document.

    Raises:
        EncodeError: The result serializer refuses the result.
    """
    conf = app.conf.values_now()
    serializer: str = conf["result_serializer"]
    if isinstance(result, BaseException) and serializer != "pickle":
        result = failure.encode(result, registry.codec(serializer).encode)
    if hasattr(result, "as_tuple"):
        result = result.as_tuple()
    group = parent = children = None
    if request is not None:
        group, parent = request.group, request.parent_id
        children = [child.as_tuple() for child in request._children or ()]
    done = app.now().isoformat() if state in states.READY_STATES else None
    expires = expires_ms(conf["result_expires"])
    extended = request is not None and conf["result_extended"]
    if serializer == "json" and not extended and registry.json_is_own():
        return json_record(task_id, state, result, traceback, children, done, group, parent, expires, json.default)
    document: dict[str, Any] = {
        "status": state,
        "result": result,
        "traceback": traceback,
        "children": children,
        "date_done": done,
    }
    if group:
        document["group_id"] = group
    if parent:
        document["parent_id"] = parent
    if extended:
        assert request is not None
        document["name"] = request.task
        document["args"], document["kwargs"] = request.args, request.kwargs
        document["worker"], document["retries"] = request.hostname, request.retries
        document["queue"] = (request.delivery_info or {}).get("routing_key")
    document["task_id"] = task_id
    content_type, _, data = registry.dumps(document, serializer)
    return ResultRecord(task_id, state, data, content_type, expires)


def expires_ms(expires: float | timedelta | None) -> int | None:
    """A setting in seconds as milliseconds; nothing and 0 keep for ever."""
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
    return int(seconds * 1000) if seconds else None


def read_record(app: Celery, record: ResultRecord | StoredMeta | None) -> dict[str, Any]:
    """The document of a stored record, its result an exception where the state says so.

    Raises:
        ContentDisallowed: The record's content type is not accepted.
        DecodeError: It is packed and cannot be unpacked.
        SecurityError, ValueError: The stored exception is not one.
        PayloadMissing: It is a large one, and not in the store of large payloads (any more).
    """
    if record is None:
        return {"status": states.PENDING, "result": None}
    if isinstance(record, StoredMeta):
        return record.document
    document = _decode(app, record.record, record.content_type)
    if "celeriac" in document:
        document = _elsewhere(app, document, record.content_type)
    if document.get("status") in states.EXCEPTION_STATES:
        document["result"] = failure.decode(document.get("result"))
    return document


def _elsewhere(app: Celery, document: dict[str, Any], content_type: str) -> dict[str, Any]:
    """The document that a record stands for, if that is among the large payloads."""
    members = document["celeriac"]
    member = members.get("large") if isinstance(members, dict) else None
    if member is None:
        return document
    payloads = app.large_payloads
    if payloads is None:
        raise PayloadMissing(
            "a large result is in a large_payload_store, and this app has none: set large_payload_store"
        )
    return _decode(app, payloads.get(member), content_type)


def build_group(app: Celery, group: Any) -> tuple[bytes, str, int | None]:
    """What is saved of a group: the bytes, their content type, and for how many milliseconds."""
    conf = app.conf
    content_type, _, data = registry.dumps({"result": group.as_tuple()}, conf.result_serializer)
    return data, content_type, expires_ms(conf.result_expires)


def read_group(app: Celery, data: bytes, content_type: str) -> dict[str, Any]:
    """The document of a saved group.

    Raises:
        ContentDisallowed: Its content type is not accepted.
    """
    return _decode(app, data, content_type)


def _decode(app: Celery, data: bytes, content_type: str) -> dict[str, Any]:
    conf = app.conf
    if data.startswith(_PACKED):
        method, _, packed = data[len(_PACKED) :].partition(b"\0")
        data = decompress(packed, method.decode("ascii", "replace"), _UNPACKED_BYTES)
    accept = conf.result_accept_content
    if accept is None:
        # What we write ourselves is always read.
        accept = {*conf.accept_content, conf.result_serializer}
    document: dict[str, Any] = registry.loads(data, content_type, "utf-8", accept)
    return document
