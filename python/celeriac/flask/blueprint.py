"""`tasks_blueprint`: status, cancel and live progress of tasks over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, current_app, request

from celeriac.flask.extension import celery_of
from celeriac.web import Answer, EventStream, TaskViews, check_auth
from celeriac.web.access import is_forged
from celeriac.web.answers import problem
from celeriac.web.dead_letters import MOST_BYTES, RESOLVING
from celeriac.web.events import EVENT_HEADERS
from celeriac.web.views import as_answer, refuse_ids, said_yes

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["tasks_blueprint"]


def tasks_blueprint(
    *,
    auth: Callable[[str, str], Any] | None = None,
    name: str = "tasks",
    url_prefix: str = "/tasks",
    celery_app: Celery | None = None,
    **options: Any,
) -> Blueprint:
    """A blueprint: `GET /<id>`, `DELETE /<id>`, `POST /<id>/cancel`, `GET /<id>/events`, `GET /events?id=..&id=..`.

    Args:
        auth: Called as `auth(action, task_id)` within the request; what it returns says whether that is allowed. Actions:
            status, events, cancel, terminate; of dead letters dead_letters, retry_dead_letters and drop_dead_letters, with
            an empty task id. It may `abort(401)` as well. `celeriac.web.allow_all` allows everything.
        name: Of the blueprint, for `url_for`: `tasks.status`, `tasks.cancel`, `tasks.events`, `tasks.events_of_many`.
        url_prefix: Where it is.
        celery_app: Whose tasks; that of the application unless given.
        **options: `heartbeat`, `retry`, `lifetime`, `max_ids`, `max_streams`, `tracebacks`, `dead_letters`: see
            `celeriac.web.TaskViews`.

    Raises:
        ImproperlyConfigured: There is no `auth`.
    """
    may = check_auth(auth, "tasks_blueprint")
    views = TaskViews((lambda: celery_app) if celery_app is not None else _own_app, **options)
    letters: Any = views.dead_letters
    blueprint = Blueprint(name, __name__, url_prefix=url_prefix)

    def guarded(action: str, task_ids: list[str], view: Callable[[], Answer | EventStream]) -> Response:
        if is_forged(request.method, {"sec-fetch-site": request.headers.get("Sec-Fetch-Site", "")}):
            return _response(problem(403, "another site may not ask for this"))
        refused = refuse_ids(task_ids, views.max_ids)
        return allowed(action, task_ids, view) if refused is None else _response(refused)

    def allowed(action: str, task_ids: list[str], view: Callable[[], Answer | EventStream]) -> Response:
        if not all(may(action, task_id) for task_id in task_ids):
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
        return Response(views.chunks(found), headers=EVENT_HEADERS, direct_passthrough=True)

    def status(task_id: str) -> Response:
        return guarded("status", [task_id], lambda: views.status(task_id, request.headers.get("If-None-Match")))

    def cancel(task_id: str) -> Response:
        terminate = said_yes(request.args, "terminate")
        action = "terminate" if terminate else "cancel"
        return guarded(action, [task_id], lambda: views.cancel(task_id, terminate=terminate))

    def events_of(task_ids: list[str]) -> Response:
        last = request.headers.get("Last-Event-ID")
        return guarded("events", task_ids, lambda: views.open_events(task_ids, last))

    def events(task_id: str) -> Response:
        return events_of([task_id])

    def events_of_many() -> Response:
        return events_of(list(dict.fromkeys(request.args.getlist("id"))))

    def list_dead_letters() -> Response:
        return allowed("dead_letters", [""], lambda: letters.list(request.args))

    def resolve_dead_letters(how: str) -> Response:
        if is_forged(request.method, {"sec-fetch-site": request.headers.get("Sec-Fetch-Site", "")}):
            return _response(problem(403, "another site may not ask for this"))
        body = request.stream.read(MOST_BYTES)
        return allowed(RESOLVING[how], [""], lambda: letters.resolve(how, request.content_type or "", body))

    if letters is not None:
        blueprint.add_url_rule("/dead-letters", "dead_letters", view_func=list_dead_letters)
        blueprint.add_url_rule(
            "/dead-letters/<any(retry, drop):how>",
            "resolve_dead_letters",
            view_func=resolve_dead_letters,
            methods=["POST"],
        )
    blueprint.add_url_rule("/events", view_func=events_of_many)
    blueprint.add_url_rule("/<task_id>", view_func=status)
    blueprint.add_url_rule("/<task_id>", "cancel", view_func=cancel, methods=["DELETE"])
    blueprint.add_url_rule("/<task_id>/cancel", "cancel", view_func=cancel, methods=["POST"])
    blueprint.add_url_rule("/<task_id>/events", view_func=events)
    return blueprint


def _own_app() -> Celery:
    return celery_of(current_app)


def _response(answer: Answer) -> Response:
    return Response(answer.body, status=answer.status, headers=answer.headers)
