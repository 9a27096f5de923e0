"""Routes: start a task, ask for its result."""

from celery.result import AsyncResult
from flask import Blueprint, request

from . import tasks

bp = Blueprint("tasks", __name__)


@bp.get("/result/<id>")
def result(id: str) -> dict[str, object]:
    """What has become of a task."""
    found = AsyncResult(id)
    ready = found.ready()
    # While it is tried again, `result` is the exception, which is no JSON.
    return {
        "ready": ready,
        "successful": found.successful() if ready else None,
        "value": found.get() if ready else None,
    }


@bp.post("/add")
def add() -> dict[str, object]:
    """Starts one."""
    started = tasks.add_together.delay(request.form.get("a", type=int), request.form.get("b", type=int))
    return {"result_id": started.id}


@bp.post("/greet/<name>")
def greet(name: str) -> dict[str, object]:
    """Starts the other."""
    return {"result_id": tasks.greet.delay(name).id}
