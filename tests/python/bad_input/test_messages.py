"""Messages that are not what they should be: each is refused or forgiven, and the worker goes on."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from .conftest import JSON, SECRET, wait_until

GOOD = b"[[1, 1], {}, {}]"
PICKLE = {"content_type": "application/x-python-serialize", "content_encoding": "binary"}
NO_TYPE = {"content_type": "", "content_encoding": "utf-8"}
HEAD = {"task": "add", "id": "bad-1"}

#: Name -> headers, properties, body, and the reason with which it is kept.
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], bytes, str]] = {
    "not JSON": (HEAD, JSON, SECRET.encode(), "malformed"),
    "two elements": (HEAD, JSON, b"[[1, 1], {}]", "malformed"),
    "no elements": (HEAD, JSON, b"[]", "malformed"),
    "empty": (HEAD, JSON, b"", "malformed"),
    "kwargs null": (HEAD, JSON, b"[[1, 1], null, {}]", "malformed"),
    "kwargs a list": (HEAD, JSON, b'[[1], ["hunter2"], {}]', "malformed"),
    # Celery takes the keys for positional arguments, which nobody can mean.
    "args an object": (HEAD, JSON, b'[{"hunter2": 1, "b": 2}, {}, {}]', "malformed"),
    "args a text": (HEAD, JSON, b'["hunter2", {}, {}]', "malformed"),
    "eta no date": ({**HEAD, "eta": "tomorrow"}, JSON, GOOD, "malformed"),
    "eta a number": ({**HEAD, "eta": 5}, JSON, GOOD, "malformed"),
    "expires no date": ({**HEAD, "expires": "soon"}, JSON, GOOD, "malformed"),
    "no headers": ({}, JSON, GOOD, "malformed"),
    "no id": ({"task": "add"}, JSON, GOOD, "malformed"),
    "task a number": ({"task": 5, "id": "bad-1"}, JSON, GOOD, "malformed"),
    "time limit a text": ({**HEAD, "timelimit": "long"}, JSON, GOOD, "malformed"),
    "not UTF-8": (HEAD, JSON, b'[["\xff\xfe", 1], {}, {}]', "malformed"),
    "pickle": (HEAD, PICKLE, b"cos\nsystem\n(S'touch hunter2'\ntR.", "disallowed"),
    "unknown content type": (HEAD, {**JSON, "content_type": "text/x-hunter"}, GOOD, "disallowed"),
    "no content type": (HEAD, NO_TYPE, GOOD, "disallowed"),
    "unknown compression": ({**HEAD, "compression": "application/x-nope"}, JSON, GOOD, "malformed"),
    "not compressed at all": ({**HEAD, "compression": "application/x-gzip"}, JSON, GOOD, "malformed"),
    "10,000 deep": (HEAD, JSON, b"[[" + b"[" * 10_000 + b"]" * 10_000 + b"], {}, {}]", "malformed"),
    "deep and broken": (HEAD, JSON, b"[" * 1_000_000, "malformed"),
    "a bomb": (
        {**HEAD, "compression": "application/x-gzip"},
        JSON,
        gzip.compress(b'[["' + b"x" * 40_000_000 + b'", 1], {}, {}]'),
        "malformed",
    ),
    "unknown task": ({**HEAD, "task": "no.such.task"}, JSON, GOOD, "unknown"),
    "too large": (HEAD, JSON, b'[["' + b"x" * 20_000_000 + b'", 1], {}, {}]', "too-large"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_message_becomes_a_dead_letter_and_the_worker_goes_on(case: str, bench: Any) -> None:
    headers, properties, body, reason = REFUSED[case]
    bench.start(worker_max_message_bytes=10_000_000)
    bench.publish(body, headers, properties)

    bench.works()

    [dead] = wait_until(lambda: bench.dead, "the dead letter", 5)
    assert dead["reason"] == reason, dead["detail"]

    def told() -> list[str]:
        return [line for line in bench.worker.lines if "ERROR/" in line or "WARNING/" in line]

    # The line is written by another thread than the letter.
    [line] = wait_until(told, "the line that says so", 5)
    assert len(line) < 500
    bench.is_calm()
    assert told() == [line], bench.worker.log


FORGIVEN: dict[str, tuple[dict[str, Any], dict[str, Any], bytes]] = {
    "two headers only": (HEAD, JSON, GOOD),
    "unknown headers": ({**HEAD, "colour": "blue", "lang": "cobol", "timelimit": None}, JSON, GOOD),
    "no content encoding": (HEAD, {"content_type": "application/json"}, GOOD),
    "no embed": (HEAD, JSON, b"[[1,1],{},null]"),
    "eta with Z": ({**HEAD, "eta": "2020-01-01T00:00:00Z"}, JSON, GOOD),
    "eta with a blank": ({**HEAD, "eta": "2020-01-01 00:00:00"}, JSON, GOOD),
    "eta with nine decimals": ({**HEAD, "eta": "2020-01-01T00:00:00.123456789"}, JSON, GOOD),
    "hybrid": (HEAD, JSON, b'{"args": [1, 1], "kwargs": {}}'),
    "protocol 1": ({}, JSON, b'{"task": "add", "id": "bad-1", "args": [1, 1], "kwargs": {}}'),
}


@pytest.mark.parametrize("case", FORGIVEN)
def test_what_celery_forgives_is_run(case: str, bench: Any) -> None:
    headers, properties, body = FORGIVEN[case]
    bench.start()
    bench.publish(body, headers, properties)

    assert bench.project.client.AsyncResult("bad-1").get(timeout=30) == 2
    assert bench.dead == []
    bench.is_calm()


def test_an_unknown_task_is_recorded_as_a_failure_too(bench: Any) -> None:
    bench.start()
    result = bench.project.send("no.such.task", SECRET)

    with pytest.raises(Exception, match=r"no\.such\.task") as caught:
        result.get(timeout=30)
    assert type(caught.value).__name__ == "NotRegistered"
    bench.works()
    bench.is_calm()
