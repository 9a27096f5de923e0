"""Sends made-up workflows, and prints what each gave: `SEED COUNT`."""

from __future__ import annotations

import json
import os
import random
import sys

import canvas_specs
from canvas_app import app, library

PATIENCE = 60


def main(seed: int, count: int) -> None:
    chance = random.Random(seed)
    specs = [canvas_specs.any_spec(chance, chance.choice([1, 2, 2, 3]), queues=False) for _ in range(count)]
    sent = [canvas_specs.build(spec, app, library).apply_async() for spec in specs]
    found = []
    for result in sent:
        try:
            found.append(result.get(timeout=PATIENCE))
        except Exception as exc:
            found.append(f"{type(exc).__name__}: {exc}")
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)
