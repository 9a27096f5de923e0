"""The tasks that made-up workflows are of, for either library."""

from __future__ import annotations

import importlib
import json
import os

import canvas_specs

library = importlib.import_module(os.environ["INTEROP_LIBRARY"])
app = library.Celery("canvas", broker=os.environ["INTEROP_BROKER"], backend=os.environ["INTEROP_BACKEND"])
app.conf.update(json.loads(os.environ["INTEROP_SETTINGS"]), broker_connection_retry_on_startup=True)
canvas_specs.declare(app)


@app.task(name="demo.boom")
def boom(*args):
    raise ValueError("bad value")
