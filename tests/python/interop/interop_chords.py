"""Sends chords as a client of Celery, whoever runs them: prints what their bodies gave, and what their ids were."""

from __future__ import annotations

import json
import os
import sys

import interop_app
from celery import chord
from interop_app import app

PATIENCE = 60


def chords(count: int, parts: int) -> dict[str, list]:
    """Many chords at the same time."""
    sent = []
    for number in range(count):
        header = [interop_app.chord_part.s(place) for place in range(parts)]
        sent.append(chord(header)(interop_app.chord_body.s(number)))
    return {"ids": [one.id for one in sent], "given": [one.get(timeout=PATIENCE) for one in sent]}


def failing() -> list:
    """A chord whose second part fails, and what its body's error links saw."""
    header = [interop_app.add.s(1, 1), interop_app.boom.s(), interop_app.add.s(2, 2)]
    sent = chord(header)(interop_app.total.s())
    exc = sent.get(timeout=PATIENCE, propagate=False)
    return [type(exc).__name__, str(exc), sent.id, [part.id for part in sent.parent.results]]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["chords", count, parts]:
            print(json.dumps(chords(int(count), int(parts))))
        case ["failing"]:
            print(json.dumps(failing()))
    sys.stdout.flush()
    app.close()
    os._exit(0)
