"""Serializers by name, and what is accepted."""

from __future__ import annotations

import datetime as dt

import pytest

from celeriac.exceptions import ContentDisallowed, DecodeError, EncodeError, SerializerNotInstalled
from celeriac.serialization import json, registry


@pytest.mark.parametrize(
    ("name", "content_type", "encoding"),
    [
        ("json", "application/json", "utf-8"),
        ("pickle", "application/x-python-serialize", "binary"),
        ("yaml", "application/x-yaml", "utf-8"),
        ("msgpack", "application/x-msgpack", "binary"),
    ],
)
def test_each_serializer_gives_back_what_it_was_given(name: str, content_type: str, encoding: str) -> None:
    value = {"a": [1, 2.5, None, True, "café"]}

    got_type, got_encoding, data = registry.dumps(value, name)

    assert (got_type, got_encoding) == (content_type, encoding)
    assert registry.loads(data, content_type, encoding, [name]) == value
    assert registry.loads(memoryview(data), content_type, encoding, [content_type]) == value


def test_what_is_not_accepted_is_not_decoded() -> None:
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("it was decoded",)

    _, _, data = registry.dumps(Bomb(), "pickle")

    with pytest.raises(ContentDisallowed):
        registry.loads(data, "application/x-python-serialize", "binary", ["json"])


def test_raw_data_passes_the_accept_check() -> None:
    assert registry.dumps(b"\xff") == ("application/data", "binary", b"\xff")
    assert registry.loads(b"\xff", "application/data", "binary", ["json"]) == b"\xff"


def test_damaged_data_and_refused_objects_are_kombu_errors() -> None:
    with pytest.raises(DecodeError):
        registry.loads(b"{", "application/json")
    with pytest.raises(DecodeError):
        registry.loads(b"\x80", "application/x-python-serialize", "binary")
    with pytest.raises(EncodeError):
        registry.dumps(object(), "json")
    with pytest.raises(EncodeError):
        registry.dumps(lambda: 0, "pickle")
    with pytest.raises(SerializerNotInstalled):
        registry.dumps(1, "of no such name")


def test_a_serializer_of_the_users_own() -> None:
    registry.register("shout", lambda obj: str(obj).upper(), str.lower, "text/x-shout")
    try:
        assert registry.dumps("abc", "shout") == ("text/x-shout", "utf-8", b"ABC")
        assert registry.loads(b"ABC", "text/x-shout", "utf-8", ["shout"]) == "abc"
    finally:
        registry.unregister("shout")


def test_json_learns_a_type(monkeypatch) -> None:
    monkeypatch.setattr(json, "_encoders", {})
    monkeypatch.setattr(json, "_decoders", {})
    json.register_type(dt.timedelta, "seconds", dt.timedelta.total_seconds, lambda value: dt.timedelta(seconds=value))

    data = json.dumps([dt.timedelta(minutes=1)])

    assert data == b'[{"__type__": "seconds", "__value__": 60.0}]'
    assert json.loads(data) == [dt.timedelta(minutes=1)]


def test_an_object_may_say_what_it_is_in_json() -> None:
    class Point:
        def __json__(self):
            return {"x": 1}

    assert json.dumps(Point()) == b'{"x": 1}'
