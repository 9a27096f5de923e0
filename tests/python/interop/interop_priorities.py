"""Sends tasks of several priorities, the least urgent ones first: `interop_priorities.py PRIORITY...`."""

from __future__ import annotations

import json
import os
import sys

import interop_app

if __name__ == "__main__":
    for priority in map(int, sys.argv[1:]):
        for _ in range(2):
            interop_app.noted.apply_async((priority, "priorities"), priority=priority)
    print(json.dumps(None), flush=True)
    os._exit(0)
