"""`tasks_urls`: status, cancel and live progress of tasks as views of Django, under WSGI and ASGI."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse, HttpResponseNotAllowed, StreamingHttpResponse
from django.urls import path

from celeriac.app.current import get_current_app
from celeriac.web import Answer, EventStream, TaskViews, check_auth
from celeriac.web.access import is_forged
from celeriac.web.answers import problem
from celeriac.web.dead_letters import MOST_BYTES, RESOLVING
from celeriac.web.events import EVENT_HEADERS
from celeriac.web.views import as_answer, refuse_ids, said_yes

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["tasks_urls"]


def tasks_urls(
    *, auth: Callable[..., Any] | None = None, celery_app: Celery | None = None, **options: Any
) -> list[Any]:
    """URL patterns: `<id>`, `<id>/cancel`, `<id>/events` and `events?id=..&id=..`. Django's CSRF protection holds.

    Args:
        auth: Called as `auth(action, task_id, request)`; what it returns says whether that is allowed. Actions: status,
            events, cancel, terminate; of dead letters dead_letters, retry_dead_letters and drop_dead_letters, with an empty
            task id. `celeriac.web.allow_all` allows everything.
        celery_app: Whose tasks; those of the current app unless given.
        **options: `heartbeat`, `retry`, `lifetime`, `max_ids`, `max_streams`, `tracebacks`, `dead_letters`:
            see `celeriac.web.TaskViews`.

    Raises:
        ImproperlyConfigured: There is no `auth`.

    Example:
        >>> urlpatterns = [path("tasks/", include(tasks_urls(auth=may)))]
    """
    may = check_auth(auth, "tasks_urls")
    views = TaskViews((lambda: celery_app) if celery_app is not None else get_current_app, **options)
    letters: Any = views.dead_letters

    def guarded(request: Any, action: str, task_ids: list[str], view: Callable[[], Answer | EventStream]) -> Any:
        if is_forged(request.method, {"sec-fetch-site": request.headers.get("Sec-Fetch-Site", "")}):
            return _response(problem(403, "another site may not ask for this"))
        refused = refuse_ids(task_ids, views.max_ids)
        return allowed(request, action, task_ids, view) if refused is None else _response(refused)

    def allowed(request: Any, action: str, task_ids: list[str], view: Callable[[], Answer | EventStream]) -> Any:
        if not all(may(action, task_id, request) for task_id in task_ids):
            return _response(problem(403, "not allowed"))
        try:
            found = view()
        except Exception as exc:
            answer = as_answer(exc)
            if answer is None:
                raise
            return _response(answer)
        if isinstance(found, Answer):
            return _response(found)
        # Under ASGI a stream is a coroutine: it holds no thread.
        chunks: Any = views.chunks_later(found) if isinstance(request, ASGIRequest) else views.chunks(found)
        return StreamingHttpResponse(chunks, headers=EVENT_HEADERS)

    def task(request: Any, task_id: str) -> Any:
        if request.method == "DELETE":
            return cancelled(request, task_id)
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD", "DELETE"])
        tag = request.headers.get("If-None-Match")
        return guarded(request, "status", [task_id], lambda: views.status(task_id, tag))

    def cancel(request: Any, task_id: str) -> Any:
        return cancelled(request, task_id) if request.method == "POST" else HttpResponseNotAllowed(["POST"])

    def cancelled(request: Any, task_id: str) -> Any:
        terminate = said_yes(request.GET, "terminate")
        action = "terminate" if terminate else "cancel"
        return guarded(request, action, [task_id], lambda: views.cancel(task_id, terminate=terminate))

    def events(request: Any, task_id: str | None = None) -> Any:
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        task_ids = list(dict.fromkeys(request.GET.getlist("id"))) if task_id is None else [task_id]
        last = request.headers.get("Last-Event-ID")
        return guarded(request, "events", task_ids, lambda: views.open_events(task_ids, last))

    def list_dead_letters(request: Any) -> Any:
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        return allowed(request, "dead_letters", [""], lambda: letters.list(request.GET))

    def resolve_dead_letters(request: Any, how: str) -> Any:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if is_forged(request.method, {"sec-fetch-site": request.headers.get("Sec-Fetch-Site", "")}):
            return _response(problem(403, "another site may not ask for this"))
        return allowed(
            request, RESOLVING[how], [""], lambda: letters.resolve(how, request.content_type, request.body[:MOST_BYTES])
        )

    shown = []
    if letters is not None:
        shown = [path("dead-letters", list_dead_letters, name="celeriac-dead-letters")]
        shown += [path(f"dead-letters/{how}", resolve_dead_letters, {"how": how}) for how in RESOLVING]
    return [
        *shown,
        path("events", events, name="celeriac-events-of-many"),
        path("<str:task_id>", task, name="celeriac-task"),
        path("<str:task_id>/cancel", cancel, name="celeriac-cancel"),
        path("<str:task_id>/events", events, name="celeriac-events"),
    ]


def _response(answer: Answer) -> Any:
    return HttpResponse(answer.body, status=answer.status, headers=answer.headers)
