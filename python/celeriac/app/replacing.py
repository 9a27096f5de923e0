"""A task that changes the workflow it is in: `Task.replace` and `Task.add_to_chord`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeriac.app import own
from celeriac.canvas.rebuild import maybe_signature
from celeriac.canvas.steps import is_empty_chain, kind_of
from celeriac.canvas.workflow import as_list
from celeriac.exceptions import Ignore, ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.app.context import Context
    from celeriac.app.task import Task
    from celeriac.canvas.signature import Signature

__all__ = ["add_to_chord", "replace_by", "replacement"]

_ACCUMULATE = "celery.accumulate"


def replacement(task: Task[..., Any], sig: Any) -> Any:
    """The signature with the id, the links and the followers of the call that runs here."""
    request = task.request
    if "chord" in sig["options"]:
        raise ImproperlyConfigured("a signature that replaces a task must not be part of a chord")
    if is_empty_chain(sig):
        raise ImproperlyConfigured("an empty chain cannot replace a task")
    gather = task._get_app().tasks[_ACCUMULATE].s(index=0)
    if kind_of(sig) == "group":
        # The last task stands for the replaced one, and a group has none.
        sig = sig | gather
    elif kind_of(sig) == "chain" and kind_of(sig.tasks[-1]) == "group":
        sig.tasks = [*sig.tasks[:-1], sig.tasks[-1] | gather]
    for callback in as_list(request.callbacks):
        sig.link(maybe_signature(callback, app=task.app))
    for errback in as_list(request.errbacks):
        sig.link_error(maybe_signature(errback, app=task.app))
    if kind_of(sig) == "chain":
        # Links of the chain as a whole would come after the steps that are added below.
        sig.tasks[-1].extend_list_option("link", sig["options"].pop("link", None) or [])
    _hand_on_webhook(request, sig.tasks[-1] if kind_of(sig) == "chain" else sig)
    sig.freeze(request.id)
    nesting = (request.replaced_task_nesting or 0) + 1
    sig.set(
        chord=request.chord,
        group_id=request.group,
        group_index=request.group_index,
        root_id=request.root_id,
        replaced_task_nesting=nesting,
    )
    if kind_of(sig) == "chain":
        for step in sig.tasks:
            step.set(replaced_task_nesting=nesting)
    for following in reversed(request.chain or ()):
        sig = sig | maybe_signature(following, app=task.app, clone=True).set(replaced_task_nesting=nesting)
    return sig


def _hand_on_webhook(request: Context, sig: Signature[Any]) -> None:
    """Who was to be told of the call's end is told of the end of what stands for it."""
    webhook = (request.__dict__.get(own.HEADER) or {}).get("webhook")
    if webhook is not None and "webhook" not in sig["options"] and kind_of(sig) not in {"chord", "group"}:
        sig.set(webhook=webhook)


def replace_by(task: Task[..., Any], sig: Signature[Any]) -> Any:
    """Sends it with the outcome of the call that runs here, which ends ignored; eagerly it is run instead."""
    request = task.request
    if request.is_eager:
        return sig.apply().get(disable_sync_subtasks=False)
    if request._follow_ups is None:
        sig.delay()
    else:
        _follow_up(task, sig)
    request._replaced = True
    raise Ignore("Replaced by new task")


def add_to_chord(task: Task[..., Any], sig: Signature[Any], *, lazy: bool) -> Any:
    """Makes a signature one more part of the chord that the running call is in."""
    from celeriac.app import chords

    request = task.request
    if not request.chord or not request.group:
        raise ValueError("this task is not in the header of a chord")
    sig.set(
        group_id=request.group,
        group_index=request.group_index,
        chord=request.chord,
        root_id=request.root_id,
    )
    sig.freeze()
    chords.grow_chord(task._get_app(), request.group)
    if lazy:
        return sig
    if request._follow_ups is None:
        return sig.delay()
    return _follow_up(task, sig)


def _follow_up(task: Task[..., Any], sig: Signature[Any]) -> Any:
    from celeriac.app import workflows

    composition = sig.compose_all()
    workflows.follow_up(task._get_app(), task.request, composition)
    return composition.result
