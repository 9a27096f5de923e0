"""Sends compositions: chords are started and groups saved first, then all messages go together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from celeriac._state import get_current_worker_task
from celeriac.app import batch, chords, send

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.context import Context
    from celeriac.canvas.composition import Composition

__all__ = ["asend", "begin", "counts_chords", "follow_up", "pieces", "send_all"]


def counts_chords(app: Celery) -> bool:
    """Whether the result backend counts the parts of chords itself; otherwise a task looks at them.

    Raises:
        NotImplementedError: It cannot join chords at all.
    """
    if app.has_own_backend or (app.result_backend_effective or "").startswith("db+"):
        return False
    return chords.counts_chords(app)


def send_all(app: Celery, composition: Composition, options: Mapping[str, Any]) -> Any:
    """Sends it; gives its result.

    Args:
        app: Whose broker and result backend.
        composition: What `compose_all` made.
        options: `retry`, `retry_policy`, `timeout` and `confirm_timeout` of the call.

    Raises:
        OperationalError: Broker or result backend do not take it.
    """
    if composition.admitted:
        _check_admitted(composition)
    begin(app, composition)
    messages = composition.messages
    if len(messages) == 1:
        send.publish(app, messages[0], options)
    elif messages:
        batch.send_all(app, pieces(composition), options)
    return _sent(composition)


async def asend(app: Celery, composition: Composition, options: Mapping[str, Any]) -> Any:
    """The same for a coroutine: the event loop goes on meanwhile."""
    if composition.admitted:
        _check_admitted(composition)
    if composition.chords or composition.groups or composition.told:
        import asyncio

        await asyncio.to_thread(begin, app, composition)
    messages = composition.messages
    if len(messages) == 1:
        await send.publish_later(app, messages[0], options)
    elif messages:
        await batch.send_all_later(app, pieces(composition), options)
    return _sent(composition)


def follow_up(app: Celery, request: Context, composition: Composition) -> None:
    """Hands its messages to the outcome of the request that runs here; they are sent with that, or not at all.

    Chords are started at once. A crash between leaves no more than a count that nobody adds to, and it expires.

    Raises:
        OperationalError: The result backend does not take it.
    """
    begin(app, composition)
    if request._follow_ups is None:
        request._follow_ups = []
    for message in composition.messages:
        request._follow_ups.append(message.publication)
        send._published(message)
    request.children.extend(composition.trail)


def begin(app: Celery, composition: Composition) -> None:
    """What has to be there before the first message arrives."""
    for group in composition.groups:
        group.save()
    for header, body, size in composition.told:
        counted = body.clone()
        counted["chord_size"] = size
        app.backend.apply_chord((header.id, header.results), counted)
    if composition.chords:
        for group_id, size in composition.chords:
            chords.start_chord(app, group_id, size)
        chords.guard_chords(app, composition)


def pieces(composition: Composition) -> Iterator[batch.Piece]:
    """Its messages for a batch."""
    for message in composition.messages:
        yield batch.Piece([message.publication], [], batch.told_of(message), not message.ignores)


def is_one_call(composition: Composition) -> bool:
    """Whether it is one message, whose result is that of the composition."""
    messages = composition.messages
    return len(messages) == 1 and getattr(composition.result, "id", None) == messages[0].id


def _check_admitted(composition: Composition) -> None:
    if not is_one_call(composition):
        from celeriac.app.admission import refuse_in_workflow

        refuse_in_workflow(next(message for message in composition.messages if message.admission is not None))


def _sent(composition: Composition) -> Any:
    if composition.admitted:
        message = composition.messages[0]
        composition.result.id, composition.result.deduplicated = message.id, message.deduplicated
    parent = get_current_worker_task()
    if parent is not None:
        for result in composition.trail:
            parent.add_trail(result)
    return composition.result
