"""Runs cases as a client of one library, and prints what it saw as JSON. INTEROP_CASES names their module."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback

interop_cases = importlib.import_module(os.environ.get("INTEROP_CASES", "interop_cases"))


def main(names: list[str]) -> None:
    cases = {name: case for name, case in interop_cases.CASES.items() if not names or name in names}
    seen: dict[str, object] = {}
    open_ones = {}
    # All are sent first, so that the waits of one pass while others are looked at.
    for name, case in cases.items():
        running = case()
        try:
            next(running)
            open_ones[name] = running
        except Exception as exc:
            seen[name] = failed(exc)
    for name, running in sorted(open_ones.items(), key=lambda one: one[0] not in interop_cases.EARLY):
        began = time.monotonic()
        try:
            next(running)
            seen[name] = {"failed": "the case yields twice"}
        except StopIteration as stop:
            seen[name] = {"saw": stop.value, "ids": interop_cases.IDS.get(name, [])}
        except Exception as exc:
            seen[name] = failed(exc)
        took = time.monotonic() - began
        if took > 3:
            print(f"{name}: {took:.1f} s", file=sys.stderr, flush=True)
    json.dump(seen, sys.stdout)
    sys.stdout.flush()
    # Celery's results complain while the interpreter ends.
    os._exit(0)


def failed(exc: BaseException) -> dict[str, object]:
    return {"failed": "".join(traceback.format_exception(exc))}


if __name__ == "__main__":
    main(sys.argv[1:])
