"""Sends many tasks, or reads many results, as a client of one library: `interop_flood.py send|read ...`."""

from __future__ import annotations

import json
import os
import sys

import interop_app
from interop_app import app


def send(first: int, last: int) -> list[str]:
    return [interop_app.late_noted.delay(number, "flood").id for number in range(first, last)]


def read(path: str) -> list[int]:
    with open(path) as file:
        ids = json.load(file)
    return [app.AsyncResult(one).get(timeout=30) for one in ids]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["send", first, last]:
            print(json.dumps(send(int(first), int(last))))
        case ["read", path]:
            print(json.dumps(read(path)))
    sys.stdout.flush()
    os._exit(0)
