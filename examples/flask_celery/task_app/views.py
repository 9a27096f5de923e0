"""Begins tasks, and tells what has become of them."""

from __future__ import annotations

from celery.result import AsyncResult
from flask import Blueprint, request

from . import tasks

bp = Blueprint("tasks", __name__, url_prefix="/tasks")


@bp.get("/result/<id>")
def result(id: str) -> dict[str, object]:
    """The result of a task, or how far it is."""
    found = AsyncResult(id)
    ready = found.ready()
    return {
        "ready": ready,
        "successful": found.successful() if ready else None,
        "value": found.get() if found.successful() else None,
        "error": repr(found.result) if found.failed() else None,
        "state": found.state,
        "progress": found.info if found.state == "PROGRESS" else None,
    }


@bp.post("/add")
def add() -> dict[str, object]:
    """Adds two numbers."""
    sent = tasks.add.delay(request.form.get("a", type=int), request.form.get("b", type=int))
    return {"result_id": sent.id}


@bp.post("/block")
def block() -> dict[str, object]:
    """Takes its time."""
    return {"result_id": tasks.block.delay().id}


@bp.post("/greet")
def greet() -> dict[str, object]:
    """Greets."""
    return {"result_id": tasks.greet.delay(request.form["name"]).id}


@bp.post("/divide")
def divide() -> dict[str, object]:
    """Divides two numbers."""
    sent = tasks.divide.delay(request.form.get("a", type=int), request.form.get("b", type=int))
    return {"result_id": sent.id}


@bp.post("/process")
def process() -> dict[str, object]:
    """Goes step by step."""
    return {"result_id": tasks.process.delay(total=request.form.get("total", type=int)).id}
