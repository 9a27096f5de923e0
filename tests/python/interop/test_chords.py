"""Workers of both libraries count the same chords together: Celery's keys, its elements, its claim."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from ..servers.run import until
from ..servers.shared import Shared
from .battery import Place, Side, redis_place

GOLDEN = Path(__file__).parents[2] / "golden"
CHORDS, PARTS = 40, 20


def notes(folder: Path, name: str) -> list[list[Any]]:
    path = folder / f"note-{name}"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def left_behind(place: Place) -> dict[str, str]:
    """What the results' database holds of chords: a key without its group's id, and what is there."""
    with redis.Redis.from_url(place.backend, decode_responses=True) as store:
        found = {}
        for key in store.scan_iter("celery-taskset-meta-*"):
            found[key] = store.get(key) if store.type(key) == "string" else store.type(key)
        return found


@pytest.mark.parametrize(
    ("libraries", "ordered"),
    [(["celeriac"], True), (["celery", "celeriac"], True), (["celery", "celeriac"], False)],
    ids=["celeriac", "mixed", "mixed-unordered"],
)
def test_chords_of_celery_clients_are_completed_once_each(
    libraries: list[str], ordered: bool, shared: Shared, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    settings: dict[str, Any] = {} if ordered else {"result_backend_transport_options": {"result_chord_ordered": False}}
    place = Place(shared.redis(), shared.redis(), settings)
    workers = [Side(library, place, tmp_path).worker("-c", "2", name=library) for library in libraries]
    try:
        client = Side("celery", place, tmp_path)
        seen = client.client("chords", str(CHORDS), str(PARTS), script="interop_chords.py")
        until(lambda: set(left_behind(place).values()) == {"done"}, 20, "all chords are cleaned up")
    finally:
        for worker in workers:
            worker.stop(hard=True)

    for number, (values, last) in enumerate(seen["given"]):
        assert last == number
        assert (values if ordered else sorted(values)) == list(range(PARTS))
    bodies = Counter(number for number, _ in notes(tmp_path, "chord_body"))
    assert bodies == dict.fromkeys(range(CHORDS), 1)
    assert len(left_behind(place)) == CHORDS
    assert all(key.endswith(".c") for key in left_behind(place))
    by = Counter(library for _, library in notes(tmp_path, "chord_part"))
    figure(f"chords of {CHORDS}x{PARTS} on {'+'.join(libraries)}: parts {dict(by)}, bodies {bodies.total()}")


def test_a_failed_part_ends_the_chord_of_a_celery_client_as_celery_does(shared: Shared, tmp_path: Path) -> None:
    place = redis_place(shared)
    worker = Side("celeriac", place, tmp_path).worker("-c", "1")
    try:
        name, text, body, parts = Side("celery", place, tmp_path).client("failing", script="interop_chords.py")
        until(lambda: set(left_behind(place).values()) == {"done"}, 20, "the chord is cleaned up")
    finally:
        worker.stop(hard=True)

    assert (name, text) == ("ChordError", f"Dependency {parts[1]} raised ValueError('bad value', 42)")
    (record,) = place.records([body])
    golden = json.loads((GOLDEN / "redis_results" / "chord_error.json").read_text())
    theirs = next(found for found in golden["decoded"].values() if found["result"] and "ChordError" in str(found))
    assert record is not None
    assert record.keys() == theirs.keys()
    assert [key.rpartition(".")[2] for key in left_behind(place)] == ["c"]
