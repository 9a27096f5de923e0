"""What a task's end sets off: links, the next step of its chain, error links, steps that will never run.

Messages are not sent from here. They are collected in the request and handed to the supervisor with the
outcome, so that result, follow-ups and acknowledgement can be one transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celeriac import states
from celeriac.app import workflows
from celeriac.app.arguments import takes_more_than
from celeriac.app.context import Context
from celeriac.canvas.rebuild import maybe_signature

if TYPE_CHECKING:
    from celeriac._core import ResultRecord
    from celeriac.app.base import Celery
    from celeriac.utils.einfo import ExceptionInfo
    from celeriac.worker.records import RecordWriter

logger = logging.getLogger("celery.app.trace")


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
        _follow(app, request, chain[-1], value, chain=list(chain[:-1]))


def send_after_failure(app: Celery, request: Context, exc: BaseException, einfo: ExceptionInfo) -> None:
    """Calls the error links that want request, exception and traceback; sends the others the task's id."""
    old_style = []
    for errback in request.errbacks or ():
        task = app.tasks.get(errback["task"])
        header = getattr(task, "__header__", None)
        given, named = (len(errback.get("args") or ()), errback.get("kwargs") or {})
        # A workflow is sent, though there are tasks of these names.
        if (
            task is None
            or header is None
            or errback.get("subtask_type")
            or not takes_more_than(header, 1 + given, named)
        ):
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
    records: RecordWriter, request: Context, exc: BaseException, traceback: str | None, state: str = states.FAILURE
) -> list[ResultRecord]:
    """The same end for every later step of the chain, so that whoever waits for the last one learns of it."""
    failed = []
    for step in later_steps(request.chain):
        options = step.get("options") or {}
        task_id = options.get("task_id")
        if task_id and not options.get("ignore_result"):
            # Not this request: the step has a group and a name of its own, and no parent yet.
            stand_in = Context(id=task_id, task=step.get("task"), group=options.get("group_id"))
            failed.append(records.exception(state, stand_in, exc, traceback))
    return failed


def later_steps(chain: Any) -> Iterator[Mapping[str, Any]]:
    """The steps that were to follow, in that order; a chord among them is ended by its body."""
    for step in reversed(chain or ()):
        yield step
        while step.get("subtask_type") == "chord" and (step.get("kwargs") or {}).get("body"):
            step = step["kwargs"]["body"]
            yield step


def call_body(app: Celery, request: Context, body: Mapping[str, Any], values: list[Any]) -> None:
    """Adds what the body of a chord comes to, sent by the part that completed it.

    Raises:
        EncodeError: A message cannot be encoded.
    """
    _follow(app, request, body, values, at_most_once=True)


def _follow_together(app: Celery, request: Context, signatures: Sequence[Mapping[str, Any]], value: Any) -> None:
    """Several links: groups each by itself, all others as one new group."""
    from celeriac.canvas.group import group

    together = []
    for item in signatures:
        linked = maybe_signature(item, app=app)
        if isinstance(linked, group):
            _follow(app, request, linked, value)
        else:
            together.append(linked)
    if together:
        _follow(app, request, group(together, app=app), value)


def _follow(app: Celery, request: Context, signature: Any, value: Any, **options: Any) -> None:
    composition = maybe_signature(signature, app=app).compose_all(
        (value,), parent_id=request.id, root_id=request.root_id or request.id, **options
    )
    # It is on its way with the outcome, or not at all.
    workflows.follow_up(app, request, composition)
