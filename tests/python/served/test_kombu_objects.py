"""kombu's queues, exchanges and bindings, wherever settings and calls take ours."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def told(kombu: str) -> dict[str, Any]:
    done = subprocess.run(
        [str(ROOT / ".venv-celery/bin/python"), str(HERE / "kombu_app.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "python"), "KOMBU": kombu},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_kombus_objects_say_the_same_as_ours() -> None:
    kombus, ours = told("1"), told("0")

    assert kombus == ours
    assert kombus["topology"]["queues"]["images"]["arguments"] == {"x-max-priority": 9, "x-queue-mode": "lazy"}
    assert kombus["topology"]["queues"]["main"]["exchange"]["name"] == "main-exchange"
    assert len(kombus["topology"]["queues"]["both"]["bindings"]) == 2
    assert kombus["places"]["by.queue"] == kombus["places"]["by.itself"] == kombus["places"]["own"]
    assert kombus["places"]["exchange"] == ["media", "image.x"]
    assert kombus["said"][0][1]["exchange_type"] == "topic"
