"""Many calls in few round trips to the broker.

Calls are sent in chunks of bounded size, each of them all or nothing as the broker can. Calls of one task that need
nothing but their arguments are made of its template, a chunk at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from os import urandom
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from celeriac._core import uuids
from celeriac._state import get_current_worker_task
from celeriac.app import send, sizes, templates
from celeriac.exceptions import OperationalError
from celeriac.signals import after_task_publish, before_task_publish, task_sent

if TYPE_CHECKING:
    from celeriac._core import Publication
    from celeriac.app.base import Celery
    from celeriac.app.send import Message
    from celeriac.app.task import Task
    from celeriac.canvas.signature import Signature
    from celeriac.result.async_result import AsyncResult

__all__ = ["of_calls", "of_signatures", "read_call", "send_all", "send_all_later"]

#: Messages in a chunk, and bytes (one larger message is still sent).
CHUNK = 1000
CHUNK_BYTES = 8 * 1024 * 1024

#: Arguments and keyword arguments of one call.
Call = tuple[Sequence[Any], Mapping[str, Any]]


class Piece(NamedTuple):
    """Calls that were made together; the lists belong together."""

    publications: list[Publication]
    results: list[AsyncResult[Any]]
    #: For those who are told of each one, if there are any.
    messages: list[Message]
    wanted: bool
    #: It is sent by itself, if its call gets its key.
    admitted: Message | None = None


def send_all(
    app: Celery, pieces: Iterable[Piece], options: Mapping[str, Any] = MappingProxyType({})
) -> list[AsyncResult[Any]]:
    """Sends all of it.

    Args:
        app: Whose broker.
        pieces: What to send.
        options: `retry`, `retry_policy`, `timeout` and `confirm_timeout`.

    Raises:
        OperationalError: The broker does not take a chunk; those before it were sent, and `sent` has their results.
    """
    sent: list[AsyncResult[Any]] = []
    client, (timeout, retry) = app.client, send.how(app, options)
    for chunk in _chunks(pieces):
        if chunk.admitted is not None:
            try:
                send.publish(app, chunk.admitted, options)
            except OperationalError as error:
                error.sent = sent
                raise
            _conclude_admitted(chunk, chunk.admitted, sent)
            continue
        if app.conf.task_track_pending:
            from celeriac.app.pending import track_pending

            track_pending(app, chunk.publications)
        try:
            client.publish(chunk.publications, timeout, retry, chunk.wanted)
        except BaseException as error:
            _refused(chunk, error, sent)
            raise
        if app.conf.task_send_sent_event:
            app.events.tasks_sent(chunk.publications)
        _conclude(chunk, sent)
    return sent


async def send_all_later(
    app: Celery, pieces: Iterable[Piece], options: Mapping[str, Any] = MappingProxyType({})
) -> list[AsyncResult[Any]]:
    """The same for a coroutine: the event loop goes on while a chunk is under way."""
    from celeriac.result import _aio

    sent: list[AsyncResult[Any]] = []
    client, (timeout, retry) = app.client, send.how(app, options)
    for chunk in _chunks(pieces):
        if chunk.admitted is not None:
            try:
                await send.publish_later(app, chunk.admitted, options)
            except OperationalError as error:
                error.sent = sent
                raise
            _conclude_admitted(chunk, chunk.admitted, sent)
            continue
        publications, wanted = chunk.publications, chunk.wanted
        if app.conf.task_track_pending:
            import asyncio

            from celeriac.app.pending import track_pending

            await asyncio.to_thread(track_pending, app, publications)

        def start(at: Any, token: int, batch: Any = publications, wanted: bool = wanted) -> None:
            client.publish_later(batch, timeout, retry, wanted, at, token)

        try:
            await _aio.call(start)
        except BaseException as error:
            _refused(chunk, error, sent)
            raise
        if app.conf.task_send_sent_event:
            import asyncio

            # It waits for the broker, and the loop must not.
            await asyncio.to_thread(app.events.tasks_sent, publications)
        _conclude(chunk, sent)
    return sent


def of_calls(app: Celery, task: Task[..., Any], calls: Iterable[Any]) -> Iterator[Piece]:
    """The messages of calls of one task: tuples of positional arguments, or mappings of keyword arguments.

    Raises:
        TypeError: A call is neither, or does not fit the task.
    """
    source = iter(calls)
    while some := list(islice(source, CHUNK)):
        yield from _made(app, task, [read_call(call) for call in some])


def of_signatures(app: Celery, signatures: Iterable[Signature[Any]]) -> Iterator[Piece]:
    """The messages of signatures, workflows among them. Those that follow one another and are plain calls of one
    task are made together; chords are started when it is their turn."""
    together: list[Call] = []
    task: Task[..., Any] | None = None
    for signature in signatures:
        known = signature._known_type() if signature._is_plain() else None
        if together and (known is not task or len(together) == CHUNK):
            assert task is not None
            yield from _made(app, task, together)
            together = []
        task = known
        if task is not None:
            together.append((signature["args"], signature["kwargs"]))
        else:
            yield from _workflow(app, signature)
    if together and task is not None:
        yield from _made(app, task, together)


def read_call(given: Any) -> Call:
    """Arguments and keyword arguments of one of many calls."""
    if isinstance(given, (tuple, list)):
        return given, {}
    if isinstance(given, Mapping):
        return (), given
    raise TypeError(
        f"each call is a tuple of positional arguments or a dict of keyword arguments, not {type(given).__name__}"
    )


def _made(app: Celery, task: Task[..., Any], calls: list[Call]) -> Iterator[Piece]:
    header = task.__header__
    if task.typing and header is not None:
        for args, kwargs in calls:
            header(*args, **kwargs)
    done = composed = 0
    while done < len(calls):
        # A template is learnt from two messages; a task that has none by then gets none.
        piece = _by_template(app, task, calls[done:] if done else calls) if composed < 3 else None
        if piece is None:
            piece = _composed(app, task, calls[done])
            composed += 1
        yield piece
        done += len(piece.publications)


def _composed(app: Celery, task: Task[..., Any], call: Call) -> Piece:
    options: dict[str, Any] = {}
    args, kwargs = call
    task._prepare(args, kwargs, None, None, None, None, options)
    message = send.compose(app, task.name, args, kwargs, task, options)
    return _single(app, message, app.AsyncResult(message.id, task_name=message.task))


def _by_template(app: Celery, task: Task[..., Any], calls: list[Call]) -> Piece | None:
    from celeriac.app.task import Task as Base

    held = task._template
    if held is None or not held.serves(app, task.name) or before_task_publish.receivers:
        return None
    if type(task).shadow_name is not Base.shadow_name:
        return None
    root_id = parent_id = None
    parent = get_current_worker_task()
    if parent is not None:
        request = parent.request
        root_id, parent_id = request.root_id or request.id, request.id
    ids = uuids(urandom(16 * len(calls)))
    made = held.template.build_many(
        templates.values_of(task), ids, root_id, parent_id, app.thread_oid, calls, CHUNK_BYTES
    )
    if made is None:
        return None
    for one, (args, kwargs) in zip(made, calls, strict=False):
        if one.size > sizes.NEVER_TOO_LARGE:
            if app.conf.values_now()["large_payload_store"]:
                return None
            sizes.check_size(app, task.name, one.size, (args, kwargs, None), "json")
    name, ignores, result_of = task.name, held.ignores, app.AsyncResult
    results = [result_of(task_id, task_name=name) for task_id in ids[: len(made)]]
    if ignores:
        for result in results:
            result.ignored = True
    messages: list[Message] = []
    if after_task_publish.receivers or task_sent.receivers:
        rows = zip(made, ids, calls, strict=False)
        messages = [send.Message(one, name, id_, ignores, (*call, None)) for one, id_, call in rows]
    return Piece(made, results, messages, not ignores)


def _workflow(app: Celery, signature: Signature[Any]) -> Iterator[Piece]:
    from celeriac.app import workflows

    composition = signature.compose_all()
    if composition.admitted:
        workflows._check_admitted(composition)
        yield _single(app, composition.messages[0], composition.result)
        return
    workflows.begin(app, composition)
    made = list(workflows.pieces(composition))
    yield from made[:-1]
    # Its result is known as sent when all of it is.
    yield (made[-1] if made else Piece([], [], [], False))._replace(results=[composition.result])


def told_of(message: Message) -> list[Message]:
    """The message, if anybody is told that it was published: by signals, or middleware."""
    listened = after_task_publish.receivers or task_sent.receivers or isinstance(message, send.HookedMessage)
    return [message] if listened else []


def _single(app: Celery, message: Message, result: AsyncResult[Any]) -> Piece:
    result.ignored = bool(message.ignores)
    if message.admission is not None:
        return Piece([message.publication], [result], [], not message.ignores, message)
    return Piece([message.publication], [result], told_of(message), not message.ignores)


def _chunks(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Pieces put together up to the size of a chunk; each piece is within it by itself."""
    chunk = Piece([], [], [], False)
    size = 0
    for piece in pieces:
        if piece.admitted is not None:
            if chunk.publications:
                yield chunk
                chunk, size = Piece([], [], [], False), 0
            yield piece
            continue
        more = sum(one.size for one in piece.publications)
        if chunk.publications and (
            len(chunk.publications) + len(piece.publications) > CHUNK or size + more > CHUNK_BYTES
        ):
            yield chunk
            chunk, size = Piece([], [], [], False), 0
        chunk.publications.extend(piece.publications)
        chunk.results.extend(piece.results)
        chunk.messages.extend(piece.messages)
        chunk = chunk._replace(wanted=chunk.wanted or piece.wanted)
        size += more
    if chunk.publications:
        yield chunk


def _refused(chunk: Piece, error: BaseException, sent: list[AsyncResult[Any]]) -> None:
    if isinstance(error, OperationalError):
        error.sent = sent
    for message in chunk.messages:
        if isinstance(message, send.HookedMessage):
            message.ended(error)


def _conclude_admitted(chunk: Piece, message: Message, sent: list[AsyncResult[Any]]) -> None:
    result = chunk.results[0]
    result.id, result.deduplicated = message.id, message.deduplicated
    _conclude(chunk, sent)


def _conclude(chunk: Piece, sent: list[AsyncResult[Any]]) -> None:
    for message in chunk.messages:
        send._published(message)
    parent = get_current_worker_task()
    if parent is not None:
        for result in chunk.results:
            parent.add_trail(result)
    sent.extend(chunk.results)
