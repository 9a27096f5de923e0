"""A client of one library that saves a group, or restores one that the other has saved; prints what it saw as JSON."""

from __future__ import annotations

import importlib
import json
import os
import sys

from interop_app import LIBRARY, app

result = importlib.import_module(f"{LIBRARY}.result")


def save() -> dict[str, object]:
    """Sends four tasks and saves their results: two, and two in a group within, after a task."""
    sent = [app.send_task("interop.add", (number, 10)) for number in range(4)]
    inner = result.GroupResult("inner", sent[2:], app=app)
    before = result.AsyncResult("before", app=app)
    result.GroupResult("saved", [*sent[:2], inner], parent=before, app=app).save()
    return {"ids": [one.id for one in sent]}


def restore() -> dict[str, object]:
    """Restores it, waits for it, deletes it."""
    group = result.GroupResult.restore("saved", app=app)
    values = group.get(timeout=30, propagate=False)
    seen = {
        "id": group.id,
        "parent": group.parent.id,
        "kinds": [type(one).__name__ for one in group],
        "inner": group[2].id,
        "ids": [*(one.id for one in group[:2]), *(one.id for one in group[2])],
        "values": values,
        "ready": group.ready(),
        "successful": group.successful(),
        "completed": group.completed_count(),
    }
    group.delete()
    seen["left"] = result.GroupResult.restore("saved", app=app)
    return seen


if __name__ == "__main__":
    json.dump({"save": save, "restore": restore}[sys.argv[1]](), sys.stdout)
    sys.stdout.flush()
    # Celery's results complain while the interpreter ends.
    os._exit(0)
