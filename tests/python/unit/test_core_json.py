"""`celeriac._core.json_dumps` and `json_loads` against recorded kombu output, Python's json, and hostile input."""

from __future__ import annotations

import datetime as dt
import enum
import json
import math
import random
import uuid
from collections import OrderedDict
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from celeriac import _core
from celeriac.exceptions import DecodeError, EncodeError

GOLDEN = Path(__file__).parents[2] / "golden"
ROWS = json.loads((GOLDEN / "serializer" / "values.json").read_text())["rows"]


class Jsonable:
    def __json__(self) -> dict[str, int]:
        return {"j": 1}


NAMES = {
    "datetime": dt,
    "Decimal": Decimal,
    "UUID": uuid.UUID,
    "OrderedDict": OrderedDict,
    "nan": math.nan,
}


def value_of(row: dict[str, Any]) -> Any:
    if row["value"] == "object with __json__":
        return Jsonable()
    return eval(row["python"], dict(NAMES))


JSON_ROWS = [row for row in ROWS if row.get("serializer", "json") == "json"]


def test_there_are_recorded_values() -> None:
    assert len(JSON_ROWS) > 20


@pytest.mark.parametrize("row", [r for r in JSON_ROWS if "encoded" in r], ids=lambda r: r["value"])
def test_values_are_written_as_kombu_writes_them(row: dict[str, Any]) -> None:
    assert _core.json_dumps(value_of(row)).decode() == row["encoded"]


@pytest.mark.parametrize("row", [r for r in JSON_ROWS if "error" in r], ids=lambda r: r["value"])
def test_values_that_kombu_refuses_are_refused_with_its_words(row: dict[str, Any]) -> None:
    with pytest.raises(EncodeError) as caught:
        _core.json_dumps(value_of(row))
    assert row["error"].split(": ", 1)[1] in str(caught.value)


@pytest.mark.parametrize("row", [r for r in JSON_ROWS if "decoded_again" in r], ids=lambda r: r["value"])
def test_values_are_read_as_kombu_reads_them(row: dict[str, Any]) -> None:
    assert repr(_core.json_loads(row["encoded"])) == row["decoded_again"]


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=dt.UTC),
        dt.datetime(2024, 2, 29, 12, 30, 15),
        dt.date(2024, 2, 29),
        dt.time(23, 59, 58, 7),
        Decimal("10.50"),
        uuid.UUID(int=7),
        b"plain",
        b"\xff\xfe\x00",
        1 << 70,
        -(1 << 63),
        10**400,
        "snow ☃ \N{GRINNING FACE} \x07 \ud800 \udcff",
        {"\udcff": ['\\"/\b\f\n\r\t\x7f']},
        [1.5, -0.0, 1e16, 1e-7, 1.7976931348623157e308, 5e-324],
        {"a" * 100: {"b": [None, True, False, {}, []]}},
    ],
    ids=lambda v: type(v).__name__,
)
def test_a_value_survives_the_round_trip(value: Any) -> None:
    encoded = _core.json_dumps(value)

    again = _core.json_loads(encoded)

    assert again == value
    assert type(again) is type(value)


def test_an_unknown_mark_is_refused() -> None:
    with pytest.raises(DecodeError, match="nope"):
        _core.json_loads('{"__type__": "nope", "__value__": 1}')


def test_a_mark_with_a_third_key_is_a_plain_object() -> None:
    assert _core.json_loads('{"__type__": "date", "__value__": 1, "x": 2}') == {
        "__type__": "date",
        "__value__": 1,
        "x": 2,
    }


def test_a_marked_value_of_the_wrong_shape_is_a_decode_error_with_its_cause() -> None:
    with pytest.raises(DecodeError) as caught:
        _core.json_loads('{"__type__": "datetime", "__value__": "tomorrow"}')
    assert isinstance(caught.value.__cause__, ValueError)


def test_more_types_are_registered_by_hooks() -> None:
    encoded = _core.json_dumps({"z": 1 + 2j}, lambda z: {"__type__": "complex", "__value__": [z.real, z.imag]})

    again = _core.json_loads(encoded, {"complex": lambda pair: complex(*pair)})

    assert again == {"z": 1 + 2j}


def test_python_json_agrees_on_random_values() -> None:
    rng = random.Random(7)

    def make(depth: int) -> Any:
        kind = rng.randrange(10 if depth else 7)
        match kind:
            case 0:
                return rng.choice([None, True, False])
            case 1:
                return rng.randrange(-(10**25), 10**25) >> rng.randrange(80)
            case 2:
                return rng.uniform(-1, 1) * 10 ** rng.randrange(-320, 300)
            case 3 | 4 | 5 | 6:
                return "".join(chr(rng.choice([rng.randrange(0, 256), rng.randrange(0x110000)])) for _ in range(6))
            case 7 | 8:
                return [make(depth - 1) for _ in range(rng.randrange(5))]
            case _:
                keys = [make(0) for _ in range(rng.randrange(5))]
                return {k: make(depth - 1) for k in keys}

    for _ in range(2000):
        value = make(4)
        text = json.dumps(value)
        assert _core.json_dumps(value).decode() == text
        assert repr(_core.json_loads(text)) == repr(json.loads(text))
        raw = json.dumps(value, ensure_ascii=False, indent=1)
        if raw.isascii() or not any("\ud800" <= c <= "\udfff" for c in raw):
            assert repr(_core.json_loads(raw.encode())) == repr(json.loads(raw))


def test_broken_documents_are_refused_as_python_json_refuses_them() -> None:
    rng = random.Random(11)
    seeds = [
        '{"a": [1, 2.5e-3, -7, "x\\u00e9\\n", null, true], "b": {"c": NaN}}',
        "[-Infinity, 0, 1e5, 12345678901234567890123]",
    ]
    alphabet = '{}[]",:\\u0123456789eE+-.truefalsnINy \n\x01'
    refused = 0
    for _ in range(20000):
        text = list(rng.choice(seeds))
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(text))
            if rng.random() < 0.5:
                text[at] = rng.choice(alphabet)
            else:
                del text[at]
        document = "".join(text)
        try:
            expected = repr(json.loads(document))
        except json.JSONDecodeError:
            refused += 1
            with pytest.raises(DecodeError):
                _core.json_loads(document)
        else:
            assert repr(_core.json_loads(document)) == expected
    assert refused > 5000


@pytest.mark.parametrize(
    "text", ["", " ", "[1,]", "{1: 2}", "01", "-", "1.", "[1 2]", '"\x00"', '"abc', "\ufeff1", "-NaN"]
)
def test_small_errors_have_a_place(text: str) -> None:
    with pytest.raises(DecodeError, match=r"line \d+ column \d+"):
        _core.json_loads(text)


def test_bytes_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(DecodeError):
        _core.json_loads(b'"\xff"')


def test_the_last_of_duplicate_keys_wins() -> None:
    assert _core.json_loads('{"a": 1, "a": 2}') == {"a": 2}


@pytest.mark.parametrize("data", [b"[1]", bytearray(b"[1]"), memoryview(b"[1]"), "[1]"], ids=type)
def test_all_kinds_of_text_are_read(data: Any) -> None:
    assert _core.json_loads(data) == [1]


def test_subclasses_are_written_as_their_base() -> None:
    class Text(str):
        pass

    class Number(int):
        def __repr__(self) -> str:
            return "strange"

    class Color(enum.IntEnum):
        RED = 1

    class Shade(enum.StrEnum):
        DARK = "dark"

    class Items(list[Any]):
        pass

    value = {Text("k"): [Text("v"), Number(7), Color.RED, Shade.DARK, Items([1])]}
    assert _core.json_dumps(value) == b'{"k": ["v", 7, 1, "dark", [1]]}'


def test_keys_become_text_as_in_python() -> None:
    value = {1: 1, 2.5: 2, None: 4, "s": 5, math.nan: 6, False: 7}
    assert _core.json_dumps(value).decode() == json.dumps(value)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_depth_is_bounded_on_reading(opening: str, closing: str) -> None:
    assert _core.json_loads(opening * 512 + "1" + closing * 512)
    with pytest.raises(DecodeError, match="512"):
        _core.json_loads(opening * 513 + "1" + closing * 513)
    with pytest.raises(DecodeError):
        _core.json_loads(opening * 5_000_000)


def test_depth_is_bounded_on_writing() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(EncodeError, match="512"):
        _core.json_dumps(value)


def test_a_cycle_is_an_encode_error() -> None:
    value: dict[str, Any] = {}
    value["self"] = [value]
    with pytest.raises(EncodeError, match="contains itself"):
        _core.json_dumps(value)


def test_an_object_whose_json_is_itself_is_an_encode_error() -> None:
    class Loop:
        def __json__(self) -> Any:
            return self

    with pytest.raises(EncodeError):
        _core.json_dumps(Loop())
    with pytest.raises(EncodeError):
        _core.json_dumps(object(), lambda value: value)


def test_a_dict_that_changes_meanwhile_is_an_encode_error() -> None:
    value: dict[str, Any] = {}

    class Grow:
        def __json__(self) -> int:
            for i in range(100):
                value[f"n{i}"] = i
            return 1

    value["a"] = Grow()
    with pytest.raises(EncodeError, match="changed size"):
        _core.json_dumps(value)


def test_errors_of_user_code_keep_their_cause() -> None:
    class Broken:
        def __json__(self) -> Any:
            raise KeyError("why")

    with pytest.raises(EncodeError) as caught:
        _core.json_dumps([Broken()])
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_interrupt_in_user_code_is_not_wrapped() -> None:
    def interrupt(value: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _core.json_dumps(object(), interrupt)


def test_a_decoder_may_decode_again() -> None:
    loads = _core.json_loads
    text = _core.json_dumps({"__type__": "inner", "__value__": '{"k": {"k": 1}}'})
    assert loads(text, {"inner": lambda value: loads(value)}) == {"k": {"k": 1}}


def test_integers_too_long_for_python_are_refused() -> None:
    with pytest.raises(DecodeError):
        _core.json_loads("9" * 5000)


def test_floats_have_the_digits_that_python_gives_them() -> None:
    rng = random.Random(13)
    for _ in range(20000):
        values = [
            rng.uniform(-1, 1) * 10 ** rng.randrange(-6, 18),
            # Halfway between two shortest forms.
            1 + rng.randrange(1 << 17) / (1 << 17),
            float(rng.randrange(1 << 50)) + 0.25,
        ]
        assert _core.json_dumps(values).decode() == json.dumps(values)
    edges = [1e-4, 0.00009999999999999999, 9999999999999998.0, 1e16, 0.0, -0.0]
    assert _core.json_dumps(edges).decode() == json.dumps(edges)
