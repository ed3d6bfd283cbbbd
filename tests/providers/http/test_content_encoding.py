"""Compressed bodies unpack, up to a bound."""

from __future__ import annotations

import contextlib
import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.errors import MalformedResponseError
from batchrt.providers.http.content_encoding import decode


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    " GZip ": gzip.compress,
    "deflate": zlib.compress,
    "deflate ": raw_deflate,
    "identity": bytes,
    "": bytes,
}


@given(body=st.binary(max_size=300), encoding=st.sampled_from(sorted(PACKERS)))
def test_what_was_packed_comes_out(body: bytes, encoding: str) -> None:
    """For every encoding that is understood."""
    assert decode(PACKERS[encoding](body), encoding, 300) == body


@given(first=st.binary(max_size=50), second=st.binary(max_size=50))
def test_gzip_members_follow_one_another(first: bytes, second: bytes) -> None:
    """The bound is for all of them together."""
    packed = gzip.compress(first) + gzip.compress(second)
    whole = first + second
    assert decode(packed, "gzip", len(whole)) == whole
    if whole:
        with pytest.raises(MalformedResponseError, match="larger than"):
            decode(packed, "gzip", len(whole) - 1)


@given(body=st.binary(max_size=100), encoding=st.sampled_from(["gzip", "deflate"]))
def test_garbage_is_malformed(body: bytes, encoding: str) -> None:
    """No other error gets out."""
    with contextlib.suppress(MalformedResponseError):
        decode(body, encoding, 1000)


def test_a_cut_is_noticed() -> None:
    """Half of the data is no answer."""
    packed = gzip.compress(b"hello" * 100)
    with pytest.raises(MalformedResponseError, match="cut short"):
        decode(packed[:-10], "gzip", 1000)


def test_other_encodings_are_refused() -> None:
    """By name."""
    for encoding in ("br", "zstd", "gzip, gzip"):
        with pytest.raises(MalformedResponseError, match=encoding):
            decode(b"", encoding, 1000)


def test_ten_thousand_empty_members_are_refused() -> None:
    """They would take quadratic time."""
    with pytest.raises(MalformedResponseError, match="pieces"):
        decode(gzip.compress(b"") * 10_000, "gzip", 1000)


def test_memory_is_bounded_by_the_limit() -> None:
    """A gigabyte in a megabyte, allowed one megabyte."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(2**22)) for _ in range(256)) + packer.flush()
    tracemalloc.start()
    try:
        with pytest.raises(MalformedResponseError, match="larger than 1000000 bytes"):
            decode(bomb, "gzip", 1_000_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000
