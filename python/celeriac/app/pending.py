"""`task_track_pending`: a record of each task that was sent, so that an id without one was never sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from celeriac import states
from celeriac.exceptions import ImproperlyConfigured
from celeriac.result.record import build_record
from celeriac.serialization import registry

if TYPE_CHECKING:
    from celeriac._core import Publication
    from celeriac.app.base import Celery

__all__ = ["knows_all", "track_pending"]


def knows_all(app: Celery) -> bool:
    """Whether an id without a record was never sent (or its record has expired)."""
    return bool(app.conf.task_track_pending) and app.results_enabled


def track_pending(app: Celery, publications: Sequence[Publication]) -> None:
    """Stores PENDING for tasks that are about to be sent, and for those that follow them in their messages.

    Before the messages, so that it overwrites nothing that a worker stores. A crash between leaves records of tasks that
    never come; they expire as all do. What is stored as SUCCESS stays.

    Raises:
        ImproperlyConfigured: The result backend keeps no records.
        OperationalError: It is away.
    """
    url = app.result_backend_effective or ""
    if url.startswith(("rpc:", "amqp", "pyamqp")):
        raise ImproperlyConfigured(
            "task_track_pending needs a result backend that keeps records (Redis, the embedded one): rpc:// keeps none"
        )
    if app.results_enabled:
        task_ids = dict.fromkeys(task_id for one in publications for task_id in _ids(one))
        if task_ids:
            app.client.store([build_record(app, task_id, states.PENDING, None) for task_id in task_ids])


def _ids(publication: Publication) -> Iterator[str]:
    headers = publication.headers
    # Another try of a task has a record: RETRY.
    if headers.get("ignore_result") or headers.get("retries"):
        return
    yield headers["id"]
    embed = _embed(publication)
    if embed is not None:
        yield from _frozen(embed)


def _embed(publication: Publication) -> dict[str, Any] | None:
    """What the body says of tasks that follow; None where there is nothing, or it is not for us to unpack."""
    properties = publication.properties
    if publication.headers.get("compression"):
        return None
    body = publication.body
    if properties.get("body_encoding") == "base64":
        return None
    content = properties.get("content_type", "application/json")
    document = registry.loads(body, content, properties.get("content_encoding") or "utf-8", {content})
    return document[2] if isinstance(document, (list, tuple)) and len(document) == 3 else None


def _frozen(embed: dict[str, Any]) -> Iterator[str]:
    waiting: list[Any] = [embed.get(name) for name in ("chain", "chord", "callbacks")]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            options = found.get("options") or {}
            if isinstance(task_id := options.get("task_id"), str):
                yield task_id
            arguments = found.get("kwargs") or {}
            # Of groups and chords within: their members.
            waiting += [options.get("link"), options.get("chord"), found.get("body")]
            waiting += [arguments.get(name) for name in ("tasks", "header", "body") if found.get("subtask_type")]
        elif isinstance(found, Iterable) and not isinstance(found, str):
            waiting.extend(found)
