"""What every pairing of clients and workers is held to: what Celery's client sees of Celery's worker.

`DIFFERENCES` is the whole list of what may differ, and why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .battery import INTEROP, Place, Play, battery

#: (client, worker), without the reference.
PAIRINGS = [("celery", "celeriac"), ("celeriac", "celery"), ("celeriac", "celeriac"), ("celery", "served")]


class Reference:
    """What Celery sees of itself at places of a kind, found out once."""

    def __init__(self, place: Callable[[], Place], folder: Path, play: Play = INTEROP) -> None:
        self.place = place
        self.folder = folder
        self.play = play
        self.seen: dict[str, Any] | None = None

    def ask(self, client: str, worker: str, folder: Path, cases: tuple[str, ...] = ()) -> dict[str, Any]:
        """What that client sees of that worker at a place of its own."""
        return battery(self.place(), client=client, worker=worker, folder=folder, cases=cases, play=self.play)

    def cases(self) -> dict[str, Any]:
        """Case by case; a case that fails between two Celerys is no case."""
        if self.seen is None:
            seen = self.ask("celery", "celery", self.folder / "celery-celery")
            broken = {name: case["failed"] for name, case in seen.items() if "failed" in case}
            assert not broken, "\n".join(f"{name}: {text}" for name, text in broken.items())
            # Celery's worker sends a retry and then stores RETRY, now and then over what the retry has stored already. What
            # such a case gives without that is asked for once more.
            # And under load a case may take longer than its client waits.
            cut = tuple(name for name, case in seen.items() if left_in_retry(case) or ran_out_of_time(case))
            if cut:
                seen |= self.ask("celery", "celery", self.folder / "celery-celery-again", cut)
            self.seen = seen
        return self.seen


def left_in_retry(case: dict[str, Any]) -> bool:
    """Whether the last record of a task says that it is tried again."""
    return any(record is not None and record["status"] == "RETRY" for record in case["records"])


def ran_out_of_time(case: dict[str, Any]) -> bool:
    """Whether the client has not waited for the end."""
    saw = case["saw"]
    return isinstance(saw, dict) and saw.get("raised", {}).get("class") == "<library>.TimeoutError"


def check(reference: Reference, subtests: pytest.Subtests, client: str, worker: str) -> None:
    """Every case gives what it gives between two Celerys, but for the differences that are meant."""
    expected = reference.cases()
    folder = reference.folder / f"{client}-{worker}"
    seen = reference.ask(client, worker, folder)
    (folder / "seen.json").write_text(json.dumps(seen, indent=1, sort_keys=True))
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True))

    assert seen.keys() == expected.keys()
    if worker == "celery":
        # Celery's worker sends a retry and then stores RETRY: now and then over what the retry, in another process of
        # it, has stored already. So what it did differently counts if it does it twice.
        suspects = tuple(name for name in expected if apart(name, expected, seen, client, worker, reference.play.meant))
        if suspects:
            seen |= reference.ask(client, worker, folder / "again", suspects)
    for name in expected:
        with subtests.test(case=name):
            found = apart(name, expected, seen, client, worker, reference.play.meant)
            assert not found, "\n".join(found)


def apart(
    name: str,
    expected: dict[str, Any],
    seen: dict[str, Any],
    client: str,
    worker: str,
    meant: tuple[tuple[str, str, str, str, str], ...] = (),
) -> list[str]:
    """The differences of one case that are not meant."""
    failed = seen[name].get("failed")
    found = [failed] if failed is not None else differences(expected[name], seen[name])
    return [difference for difference in found if not is_meant(name, client, worker, difference, meant)]


def differences(expected: Any, seen: Any, path: str = "") -> list[str]:
    """Where two observations differ, one line each."""
    if type(expected) is type(seen):
        if isinstance(expected, dict):
            found = [
                f"{path}/{key}: only {'expected' if key in expected else 'seen'}"
                for key in sorted(expected.keys() ^ seen.keys())
            ]
            for key in sorted(expected.keys() & seen.keys()):
                found += differences(expected[key], seen[key], f"{path}/{key}")
            return found
        if isinstance(expected, list) and len(expected) == len(seen):
            found = []
            for place, (one, other) in enumerate(zip(expected, seen, strict=True)):
                found += differences(one, other, f"{path}/{place}")
            return found
    return [] if expected == seen else [f"{path}: expected {cut(expected)}, seen {cut(seen)}"]


def cut(value: Any) -> str:
    """A short text of a value."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 300 else f"{text[:297]}..."


#: (case, client, worker, difference), all regular expressions, and why.
DIFFERENCES: list[tuple[str, str, str, str, str]] = [
    (
        "error odd",
        ".*",
        "celeriac",
        ".*",
        "Celery's pool cannot carry an exception whose constructor does not take its `args`: it stores another class",
    ),
    (
        "error odd",
        "celeriac",
        "celery",
        ".*/args/2: .*",
        "Celery's client makes tuples of the lists that this wrapper holds",
    ),
    (
        "a result that cannot be encoded",
        ".*",
        "celeriac",
        ".*/(exc_message/0|args/0|traceback): .*",
        "ours says what is wrong where Celery holds the exception of its JSON library",
    ),
    (
        ".*request.*|countdown|protocol_1",
        ".*",
        "celeriac",
        ".*/headers: expected null, seen {}|.*/headers/meth: only expected",
        "`request.headers` is an empty mapping where Celery has none",
    ),
    (
        "revoked_while_it_waits",
        ".*",
        ".*",
        ".*/(children|args|kwargs|name|queue|retries|worker): .*",
        "null or absent when the worker learns of it before the message, in both",
    ),
    (
        "an_unknown_task",
        ".*",
        "celeriac|served",
        ".*/(args|kwargs|name|queue|retries|worker): expected null, .*",
        "what is known of the request is in the extended record",
    ),
    (
        "a_chain_that_breaks",
        ".*",
        "celeriac|served",
        "/records/0/(args|kwargs|worker): .*",
        "the extended record of a step that never ran does not have its arguments",
    ),
    (
        "protocol_1",
        ".*",
        "celeriac|served",
        ".*/(argsrepr|kwargsrepr|lang): expected null, .*",
        "filled in for protocol 1 too",
    ),
    (
        "protocol_1",
        "celery",
        "served",
        '.*/headers: expected {"meth": null}, seen null',
        "a header that Celery's worker makes up",
    ),
    (
        "a result that cannot be encoded",
        "celery",
        "served",
        ".*/traceback/[13]: .*",
        "what our serializer has raised is the cause",
    ),
]


def is_meant(
    case: str, client: str, worker: str, difference: str, meant: tuple[tuple[str, str, str, str, str], ...]
) -> bool:
    """Whether the lists have it."""
    return any(
        all(
            re.fullmatch(pattern, text, re.DOTALL)
            for pattern, text in zip(row[:4], (case, client, worker, difference), strict=True)
        )
        for row in (*DIFFERENCES, *meant)
    )
