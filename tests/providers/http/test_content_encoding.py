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
def test_content_encoding_round_trips(body: bytes, encoding: str) -> None:
    """For every encoding that is supported."""
    assert decode(PACKERS[encoding](body), encoding, 300) == body


@given(first=st.binary(max_size=50), second=st.binary(max_size=50))
def test_content_encoding_reads_several_gzip_members(first: bytes, second: bytes) -> None:
    """The limit holds for all of them together."""
    packed = gzip.compress(first) + gzip.compress(second)
    whole = first + second
    assert decode(packed, "gzip", len(whole)) == whole
    if whole:
        with pytest.raises(MalformedResponseError, match="larger than"):
            decode(packed, "gzip", len(whole) - 1)


@given(body=st.binary(max_size=100), encoding=st.sampled_from(["gzip", "deflate"]))
def test_content_encoding_of_garbage_is_malformed(body: bytes, encoding: str) -> None:
    """Only MalformedResponseError is raised."""
    with contextlib.suppress(MalformedResponseError):
        decode(body, encoding, 1000)


def test_content_encoding_detects_truncation() -> None:
    """Half of the data is an error."""
    packed = gzip.compress(b"hello" * 100)
    with pytest.raises(MalformedResponseError, match="cut short"):
        decode(packed[:-10], "gzip", 1000)


def test_content_encoding_refuses_other_encodings() -> None:
    """The message has the name."""
    for encoding in ("br", "zstd", "gzip, gzip"):
        with pytest.raises(MalformedResponseError, match=encoding):
            decode(b"", encoding, 1000)


def test_content_encoding_refuses_ten_thousand_empty_members() -> None:
    """They would take quadratic time."""
    with pytest.raises(MalformedResponseError, match="pieces"):
        decode(gzip.compress(b"") * 10_000, "gzip", 1000)


def test_content_encoding_memory_is_bounded_by_the_limit() -> None:
    """A gigabyte in a megabyte, with a limit of one megabyte."""
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
