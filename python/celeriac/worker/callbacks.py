"""What a task's end sets off: links, the next step of its chain, error links, steps that will never run.

Messages are not sent from here. They are collected in the request and handed to the supervisor with the
outcome, so that result, follow-ups and acknowledgement can be one transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celeriac import states
from celeriac.app import send
from celeriac.app.arguments import takes_more_than
from celeriac.app.context import Context
from celeriac.canvas.rebuild import maybe_signature
from celeriac.utils import uuid

if TYPE_CHECKING:
    from celeriac._core import ResultRecord
    from celeriac.app.base import Celery
    from celeriac.app.send import Message
    from celeriac.utils.einfo import ExceptionInfo
    from celeriac.worker.records import RecordWriter

logger = logging.getLogger("celery.app.trace")


class GroupTrail:
    """Tasks that were sent together: what the record of their parent says of them."""

    __slots__ = ("_group_id", "_task_ids")

    def __init__(self, group_id: str, task_ids: Sequence[str]) -> None:
        self._group_id = group_id
        self._task_ids = task_ids

    def as_tuple(self) -> Any:
        """The form in which it is stored."""
        return (self._group_id, None), [((task_id, None), None) for task_id in self._task_ids]


def send_after_success(app: Celery, request: Context, value: Any) -> None:
    """Links first, each with the result in front; then the next step of the chain.

    Raises:
        EncodeError: A message cannot be encoded; the task has failed, then.
    """
    callbacks = request.callbacks
    if callbacks:
        if len(callbacks) == 1:
            _follow(app, request, callbacks[0], value)
        else:
            _follow_together(app, request, callbacks, value)
    chain = request.chain
    if chain:
        # Reversed: the next step is the last one.
        _follow(app, request, chain[-1], value, chain=list(chain[:-1]) or None)


def send_after_failure(app: Celery, request: Context, exc: BaseException, einfo: ExceptionInfo) -> None:
    """Calls the error links that want request, exception and traceback; sends the others the task's id."""
    old_style = []
    for errback in request.errbacks or ():
        task = app.tasks.get(errback["task"])
        header = getattr(task, "__header__", None)
        given, named = (len(errback.get("args") or ()), errback.get("kwargs") or {})
        if task is None or header is None or not takes_more_than(header, 1 + given, named):
            old_style.append(errback)
            continue
        try:
            front = () if errback.get("immutable") else (request, exc, einfo.traceback or None)
            task(*front, *(errback.get("args") or ()), **(errback.get("kwargs") or {}))
        except Exception as failed:
            logger.error("Error link %s of task %s raised: %r", errback["task"], request.id, failed, exc_info=True)
    if old_style:
        _follow_together(app, request, old_style, request.id)


def fail_chain(
    records: RecordWriter, request: Context, exc: BaseException, traceback: str | None
) -> list[ResultRecord]:
    """The same failure for every later step of the chain, so that whoever waits for the last one learns of it."""
    failed = []
    for step in reversed(request.chain or ()):
        options = step.get("options") or {}
        task_id = options.get("task_id")
        if task_id and not options.get("ignore_result"):
            # Not this request: the step has a group and a name of its own, and no parent yet.
            stand_in = Context(id=task_id, task=step.get("task"), group=options.get("group_id"))
            failed.append(records.exception(states.FAILURE, stand_in, exc, traceback))
    return failed


def _follow_together(app: Celery, request: Context, signatures: Sequence[Mapping[str, Any]], value: Any) -> None:
    """Several links are sent as one new group."""
    group_id = uuid()
    ids = [
        _build(app, request, signature, value, group_id=group_id, group_index=index)
        for index, signature in enumerate(signatures)
    ]
    request.children.append(GroupTrail(group_id, ids))


def _follow(app: Celery, request: Context, signature: Mapping[str, Any], value: Any, **options: Any) -> None:
    task_id = _build(app, request, signature, value, **options)
    request.children.append(app.AsyncResult(task_id))


def _build(app: Celery, request: Context, signature: Mapping[str, Any], value: Any, **options: Any) -> str:
    """Adds the message of one signature to the follow-ups.

    Returns:
        Its task id.
    """
    message: Message = maybe_signature(signature, app=app).compose(
        (value,), parent_id=request.id, root_id=request.root_id or request.id, **options
    )
    if request._follow_ups is None:
        request._follow_ups = []
    request._follow_ups.append(message.publication)
    # It is on its way with the outcome, or not at all.
    send._published(message)
    return message.id
