"""`celeriac._core.compress` and `decompress`."""

from __future__ import annotations

import bz2
import zlib

import pytest

from celeriac import _core
from celeriac.exceptions import DecodeError, EncodeError

DATA = b"some text, some text, some text" * 10


@pytest.mark.parametrize("name", ["application/x-gzip", "application/x-bz2", "application/zstd", "gzip", "zstd"])
def test_what_is_compressed_comes_back(name: str) -> None:
    packed = _core.compress(DATA, name)

    assert len(packed) < len(DATA)
    assert _core.decompress(packed, name, 10_000) == DATA


def test_gzip_is_the_zlib_format_as_in_kombu() -> None:
    assert zlib.decompress(_core.compress(DATA, "application/x-gzip")) == DATA
    assert _core.decompress(bz2.compress(DATA), "application/x-bz2", 10_000) == DATA


def test_a_bomb_or_damaged_data_is_a_decode_error() -> None:
    packed = _core.compress(b"\0" * 10_000_000, "application/x-gzip")
    with pytest.raises(DecodeError, match="larger than 1000 bytes"):
        _core.decompress(packed, "application/x-gzip", 1000)
    with pytest.raises(DecodeError):
        _core.decompress(packed[:-10], "application/x-gzip", 1 << 30)
    with pytest.raises(DecodeError):
        _core.decompress(b"", "application/x-unknown", 10)
    with pytest.raises(EncodeError):
        _core.compress(b"", "application/x-unknown")
