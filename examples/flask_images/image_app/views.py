"""The HTTP interface: take a picture, answer 202, and tell how far it is."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

from flask import Blueprint, current_app, jsonify, request, url_for
from flask.typing import ResponseReturnValue

from celeriac import chain
from celeriac.result import AsyncResult
from image_app import images, tasks

api = Blueprint("api", __name__, url_prefix="/api")


@api.post("/process-image")
def process_image() -> ResponseReturnValue:
    """Form fields: `image` (a file), `operations` (JSON list), `email`."""
    upload, address = request.files.get("image"), request.form.get("email", "")
    if upload is None or "@" not in address:
        return jsonify(error="an image file and an email address are needed"), 400
    try:
        operations = images.check(json.loads(request.form.get("operations", "null")))
    except ValueError as error:
        return jsonify(error=str(error)), 400

    suffix = Path(upload.filename or "").suffix.lower()
    if suffix not in {".jpg", ".jpeg", ".png"}:
        return jsonify(error="only .jpg and .png are taken"), 400
    source = Path(current_app.config["OUTPUT_DIR"], "uploads", f"{uuid4().hex}{suffix}")
    upload.save(source)

    mailed = chain(
        tasks.process_image.s(str(source), operations),
        tasks.notify_completion.s(address),
    ).apply_async()
    task_id = mailed.parent.id
    return (
        jsonify(
            task_id=task_id,
            status_url=url_for("api.task_status", task_id=task_id),
            notification_url=url_for("api.task_status", task_id=mailed.id),
        ),
        202,
    )


@api.get("/tasks/<task_id>")
def task_status(task_id: str) -> ResponseReturnValue:
    """Status, progress, and result or error of one task."""
    result = AsyncResult(task_id)
    state, info = result.state, result.info
    answer: dict[str, object] = {"task_id": task_id, "status": state, "progress": 0}
    if state == "SUCCESS":
        answer |= {"progress": 100, "result": info}
    elif state in {"FAILURE", "RETRY", "REVOKED"}:
        answer["error"] = f"{type(info).__name__}: {info}"
    elif isinstance(info, dict):
        answer |= info
    return jsonify(answer)
