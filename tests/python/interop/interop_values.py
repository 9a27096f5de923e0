"""Values that travel."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid

HALF_PAST = dt.timezone(dt.timedelta(hours=-5, minutes=-30))
VALUES = {
    "datetime_utc": dt.datetime(2024, 2, 29, 12, 30, 15, 123456, dt.UTC),
    "datetime_naive": dt.datetime(2024, 2, 29, 12, 30, 15),
    "datetime_offset": dt.datetime(2024, 2, 29, 12, 30, 15, tzinfo=HALF_PAST),
    "date": dt.date(2024, 2, 29),
    "time": dt.time(23, 59, 58, 7),
    "decimal": decimal.Decimal("10.50"),
    "decimal_large": decimal.Decimal("1E+40"),
    "uuid": uuid.UUID("12345678-1234-5678-1234-567812345678"),
    "bytes_text": b"plain",
    "bytes_binary": b"\xff\xfe\x00",
    "bytes_empty": b"",
    "tuple": (1, (2, 3)),
    "text": 'snow \u2603 \U0001f600 \u0007 \u2028 " \\ /',
    "lone": "\ud800",
    "empty": "",
    "float": 1.5,
    "float_small": 5e-324,
    "float_long": 0.1 + 0.2,
    "minus_zero": -0.0,
    "nan": float("nan"),
    "infinity": float("inf"),
    "minus_infinity": float("-inf"),
    "big": 2**70,
    "bigger": -(10**300),
    "edge": [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64],
    "none": None,
    "bools": [True, False],
    "nested": {"a": [{"b": {"c": [[], {}, [None]]}}], "d": {"e": (1, {"f": b"g"})}},
    "int_keys": {1: "one", 2.5: "two", None: "none", False: "false"},
    "wide": list(range(2_000)),
    "long": "x" * 100_000,
}
