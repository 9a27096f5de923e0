"""Chords in a child: the parts that requests are, and the end of a chord whose parts are in.

A part is what a request (or a later step of its chain, which will never run) adds to its chord; the supervisor has it
counted when the request's outcome is stored. The request that completes a chord comes to a child once more, with all that
was counted: its body is called then, or ended with an error.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from celeriac import states
from celeriac._core import ChordPart, decompress
from celeriac._state import get_current_task
from celeriac.app.chords import chord_expires_ms
from celeriac.app.context import Context
from celeriac.canvas.workflow import as_list
from celeriac.exceptions import ChordError, EncodeError, WorkerLostError
from celeriac.result.record import expires_ms
from celeriac.serialization import failure, registry
from celeriac.utils.blocking import off_the_loop
from celeriac.utils.einfo import ExceptionInfo
from celeriac.worker import callbacks

if TYPE_CHECKING:
    from collections.abc import Callable

    from celeriac._core import Execution, Publication, ResultRecord
    from celeriac.app.base import Celery
    from celeriac.worker.records import RecordWriter

logger = logging.getLogger("celeriac.app.trace")

#: What is in front of an element that a Celery worker has packed (`result_compression`).
_PACKED = b"\0celery-compressed\0"
_MAX_UNPACKED = 256 * 1024 * 1024
#: Celery's claim of a completed chord: twice the time that a join may take, and never less than five seconds.
_SHORTEST_CLAIM = 5

Signature: TypeAlias = Mapping[str, Any]
Ended: TypeAlias = "tuple[str, Sequence[ResultRecord], Sequence[Publication], str, float | None]"


class PartWriter:
    """Makes the parts of one app's chords. Holds nothing of a request, so one serves a whole child."""

    def __init__(self, app: Celery) -> None:
        conf = app.conf
        self._encode: Callable[[Any], bytes] = registry.codec(conf.result_serializer).encode
        self._keeps_exceptions = conf.result_serializer == "pickle"
        self._expires = chord_expires_ms(app)
        results = expires_ms(conf.result_expires)
        # A saved group is read by users, too.
        self._group_expires = max(self._expires, results) if self._expires and results else None
        self._claim = 1000 * max(_SHORTEST_CLAIM, int(2 * (conf.result_chord_join_timeout or _SHORTEST_CLAIM)))

    def add(self, request: Context, state: str, value: Any) -> None:
        """The request has ended: it is a part of its chord.

        Args:
            request: One whose message has a chord.
            value: What it returned; or the exception.

        Raises:
            EncodeError: The result serializer refuses the value.
        """
        self._add(request, request.id, request.group, request.group_index, state, value)

    def add_failed_steps(self, request: Context, state: str, exc: BaseException) -> None:
        """Later steps of the request's chain that are parts of chords will never run."""
        for step in callbacks.later_steps(request.chain):
            self.add_signature(request, step, state, exc)

    def add_signature(self, request: Context, signature: Signature, state: str, exc: BaseException) -> None:
        """What a signature stands for will never run."""
        options = signature.get("options") or {}
        if options.get("chord"):
            self._add(request, options.get("task_id"), options.get("group_id"), options.get("group_index"), state, exc)

    def _add(self, request: Context, task_id: Any, group_id: Any, index: Any, state: str, value: Any) -> None:
        if not task_id or not group_id:
            # Nobody can tell which chord it is: such a part counts for nothing, as with Celery.
            return
        part = ChordPart(
            group_id,
            task_id,
            index if type(index) is int else None,
            state,
            self._element(task_id, state, value),
            expires_ms=self._expires,
            group_expires_ms=self._group_expires,
            claim_ms=self._claim,
        )
        if request._parts is None:
            request._parts = []
        request._parts.append(part)

    def _element(self, task_id: str, state: str, value: Any) -> bytes:
        if not isinstance(value, BaseException):
            if hasattr(value, "as_tuple") and hasattr(value, "ready") and not self._keeps_exceptions:
                value = value.as_tuple()
        elif self._keeps_exceptions:
            try:
                return self._encode([1, task_id, state, value])
            except EncodeError:
                value = failure.encode(value, self._encode)
        else:
            value = failure.encode(value, self._encode)
        return self._encode([1, task_id, state, value])


class ToldParts(PartWriter):
    """Tells a backend that is written in Python, which counts by itself or does not."""

    def __init__(self, app: Celery) -> None:
        super().__init__(app)
        self._app = app

    def add(self, request: Context, state: str, value: Any) -> None:
        """The request has ended, and its result is stored."""
        if request.id and request.group:
            # Each thread has a backend of its own: it is asked for in the thread that calls it.
            off_the_loop(lambda: self._app.backend.on_chord_part_return(request, state, value))

    def add_signature(self, request: Context, signature: Signature, state: str, exc: BaseException) -> None:
        """What a signature stands for will never run."""
        options = signature.get("options") or {}
        if options.get("chord"):
            task_id, group_id = options.get("task_id"), options.get("group_id")
            stand_in = Context(id=task_id, task=signature.get("task"), group=group_id, chord=options["chord"])
            self.add(stand_in, state, exc)


def make_part_writer(app: Celery) -> PartWriter:
    """What makes the parts of an app's chords."""
    return ToldParts(app) if app.has_own_backend else PartWriter(app)


class Joiner:
    """Ends the chords of one app."""

    def __init__(self, app: Celery, records: RecordWriter, parts: PartWriter) -> None:
        self._app = app
        self._records = records
        self._parts = parts
        codec = registry.codec(app.conf.result_serializer)
        self._content_type = codec.content_type
        self._accept = {codec.content_type}

    def join(self, execution: Execution, request: Context) -> Ended:
        """Calls the body of the chord that the request has completed, with what its parts gave; or ends it.

        Returns:
            What `Child.respond` takes after the tag; parts of other chords that have ended with this one are in the
            request.
        """
        group_id, elements, group, broken = execution.chord or ("", [], None, None)
        try:
            return self._join(request, group_id, elements, group, broken)
        except Exception as exc:
            # The supervisor asks again, and at last for the end of the body alone.
            logger.critical("Chord %r cannot be ended: %r", group_id, exc, exc_info=exc)
            request._parts = None
            return "rejected", (), (), repr(exc), None

    def _join(
        self, request: Context, group_id: str, elements: Sequence[bytes], group: bytes | None, broken: str | None
    ) -> Ended:
        body = find_body(request, group_id)
        if body is None:
            raise LookupError(f"the message of its part {request.id} has no body for it")
        try:
            values = self._values(elements, group, broken)
        except Exception as exc:
            logger.error("Chord %r raised: %r", group_id, exc, exc_info=exc)
            return self._end(request, body, exc if isinstance(exc, ChordError) else _error("Join", exc))
        try:
            callbacks.call_body(self._app, request, body, values)
        except Exception as exc:
            logger.error("Chord callback for %r raised: %r", group_id, exc, exc_info=exc)
            if request._follow_ups:
                request._follow_ups.clear()
            return self._end(request, body, _error("Callback", exc))
        return "success", (), request._follow_ups or (), "", None

    def _values(self, elements: Sequence[bytes], group: bytes | None, broken: str | None) -> list[Any]:
        """The results of the parts, in order.

        Raises:
            ChordError: One of them has failed.
        """
        if broken is not None:
            raise WorkerLostError(broken)
        by_id: dict[str, Any] = {}
        values = []
        for element in elements:
            _, task_id, state, value = self._decode(element)
            if state in states.EXCEPTION_STATES:
                value = failure.decode(value)
            if state in states.PROPAGATE_STATES:
                error = ChordError(f"Dependency {task_id} raised {value!r}")
                raise error from (value if isinstance(value, Exception) else None)
            values.append(value)
            by_id[task_id] = value
        if group is not None:
            try:
                return _nested(self._decode(group)["result"], by_id)
            except KeyError:
                # A member that is no part of this chord: they are given one after another, then.
                pass
        return values

    def _decode(self, data: bytes) -> Any:
        if data.startswith(_PACKED):
            method, _, data = data[len(_PACKED) :].partition(b"\0")
            data = decompress(data, method.decode(), _MAX_UNPACKED)
        return registry.loads(data, self._content_type, "utf-8", self._accept)

    def give_up(self, body: Signature, exc: BaseException) -> None:
        """Ends a body on behalf of a backend that is written in Python, or of a task: the records are stored at once."""
        task = get_current_task()
        results: list[ResultRecord] = []
        self._fail(Context() if task is None else task.request, body, exc, (), results)
        if results and not self._app.has_own_backend:
            self._app.client.store(results)

    def _end(self, request: Context, body: Signature, exc: ChordError) -> Ended:
        """The body will not be called: whoever waits for it is told why."""
        results: list[ResultRecord] = []
        self._fail(request, body, exc, (), results)
        return "failure", results, request._follow_ups or (), repr(exc), None

    def _fail(
        self,
        request: Context,
        signature: Signature,
        exc: BaseException,
        errbacks: Sequence[Any],
        results: list[ResultRecord],
    ) -> None:
        """Ends what a signature stands for, and all that was to follow it.

        Args:
            errbacks: Error links of what it is a member of.
        """
        options = signature.get("options") or {}
        kwargs = signature.get("kwargs") or {}
        links = [*as_list(options.get("link_error")), *errbacks]
        match signature.get("subtask_type"):
            case "group":
                # Its members never knew of the chord: they fail with what made it fail.
                cause = exc.__cause__ or exc
                for member in as_list(kwargs.get("tasks")):
                    self._fail(request, member, cause, links, results)
            case "chain":
                first, *later = as_list(kwargs.get("tasks")) or [{}]
                self._fail(request, first, exc, links, results)
                self._fail_chain(request, later[::-1], exc, results)
            case "chord":
                if kwargs.get("body"):
                    self._fail(request, kwargs["body"], exc, links, results)
            case _:
                self._fail_task(request, signature, exc, links, results)
        self._fail_chain(request, options.get("chain"), exc, results)

    def _fail_chain(self, request: Context, chain: Any, exc: BaseException, results: list[ResultRecord]) -> None:
        """What was to follow: as after any failed task, its error links are not called."""
        results += callbacks.fail_chain(self._records, Context(chain=chain), exc, ExceptionInfo(exc).traceback or None)
        for step in callbacks.later_steps(chain):
            self._parts.add_signature(request, step, states.FAILURE, exc)

    def _fail_task(
        self,
        request: Context,
        signature: Signature,
        exc: BaseException,
        errbacks: Sequence[Any],
        results: list[ResultRecord],
    ) -> None:
        options = signature.get("options") or {}
        task_id = options.get("task_id")
        if not task_id:
            return
        einfo = ExceptionInfo(exc)
        stand_in = Context(
            {name: value for name, value in signature.items() if name not in {"options", "chord"}},
            id=task_id,
            errbacks=_unique(errbacks),
            delivery_info={},
        )
        if stand_in.errbacks:
            # With Celery they are called before the record is made, and are its children, then.
            callbacks.send_after_failure(self._app, stand_in, exc, einfo)
            if stand_in._follow_ups:
                if request._follow_ups is None:
                    request._follow_ups = []
                request._follow_ups += stand_in._follow_ups
        results.append(self._records.exception(states.FAILURE, stand_in, exc, einfo.traceback or None))
        self._parts.add_signature(request, signature, states.FAILURE, exc)


def find_body(request: Context, group_id: str) -> Signature | None:
    """The body of a chord that a request is a part of, by itself or by what was to follow it."""
    if request.chord and request.group == group_id:
        body: Signature = request.chord
        return body
    waiting = [request.chord, *(request.chain or ())]
    while waiting:
        signature = waiting.pop()
        if not isinstance(signature, Mapping):
            continue
        options, kwargs = signature.get("options") or {}, signature.get("kwargs") or {}
        if options.get("group_id") == group_id and options.get("chord"):
            found: Signature = options["chord"]
            return found
        waiting += [options.get("chord"), *as_list(options.get("chain"))]
        if signature.get("subtask_type"):
            waiting += [kwargs.get("body"), *as_list(kwargs.get("tasks"))]
    return None


def _nested(members: Any, by_id: Mapping[str, Any]) -> list[Any]:
    """Values in the shape of a stored group: `[[id, parent], members]`."""
    return [by_id[_identity(member)] if member[1] is None else _nested(member, by_id) for member in members[1]]


def _identity(member: Any) -> str:
    identity: str = member[0][0] if isinstance(member[0], (list, tuple)) else member[0]
    return identity


def _error(what: str, exc: BaseException) -> ChordError:
    error = ChordError(f"{what} error: {exc!r}")
    error.__cause__ = exc
    return error


def _unique(errbacks: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for errback in errbacks:
        if errback not in found:
            found.append(errback)
    return found
