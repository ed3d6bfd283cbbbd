"""Compressed bodies unpack, up to a bound."""

from __future__ import annotations

import contextlib
import gzip
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from itertools import pairwise

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.errors import MalformedResponseError
from batchrt.providers.http.content_encoding import BodyDecoder, decode

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    " GZip ": gzip.compress,
    "deflate": zlib.compress,
    "deflate ": raw_deflate,
    "zstd": zstd.compress,
    "ZSTD": zstd.compress,
    "br": brotli.compress,
    "identity": bytes,
    "": bytes,
}
COMPRESSED = sorted(set(PACKERS) - {"identity", ""})


@given(body=st.binary(max_size=300), encoding=st.sampled_from(sorted(PACKERS)))
def test_content_encoding_round_trips(body: bytes, encoding: str) -> None:
    """For every encoding that is supported."""
    assert decode(PACKERS[encoding](body), encoding, 300) == body


@given(body=st.binary(max_size=300), encoding=st.sampled_from(sorted(PACKERS)), data=st.data())
def test_content_encoding_decodes_a_body_in_any_parts(
    body: bytes, encoding: str, data: st.DataObject
) -> None:
    """A streamed body arrives in parts, which may be cut anywhere."""
    packed = PACKERS[encoding](body)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(packed)), max_size=5)))
    decoder = BodyDecoder(encoding, 300)
    parts = [decoder.feed(packed[a:b]) for a, b in pairwise([0, *cuts, len(packed)])]
    decoder.end()
    assert b"".join(parts) == body


@pytest.mark.parametrize("name", ["gzip", "zstd"])
@given(first=st.binary(max_size=50), second=st.binary(max_size=50))
def test_content_encoding_reads_several_members(name: str, first: bytes, second: bytes) -> None:
    """The limit holds for all of them together."""
    packed = PACKERS[name](first) + PACKERS[name](second)
    whole = first + second
    assert decode(packed, name, len(whole)) == whole
    if whole:
        with pytest.raises(MalformedResponseError, match="larger than"):
            decode(packed, name, len(whole) - 1)


@given(body=st.binary(max_size=100), encoding=st.sampled_from(COMPRESSED))
def test_content_encoding_of_garbage_is_malformed(body: bytes, encoding: str) -> None:
    """Only MalformedResponseError is raised."""
    with contextlib.suppress(MalformedResponseError):
        decode(body, encoding, 1000)


@pytest.mark.parametrize("encoding", COMPRESSED)
def test_content_encoding_detects_truncation(encoding: str) -> None:
    """A part of the data is an error, wherever it ends."""
    packed = PACKERS[encoding](b"hello" * 100)
    for size in range(1, len(packed)):
        with pytest.raises(MalformedResponseError, match="cut short"):
            decode(packed[:size], encoding, 1000)


def test_content_encoding_refuses_other_encodings() -> None:
    """The message has the name."""
    for encoding in ("compress", "dcb", "gzip, gzip"):
        with pytest.raises(MalformedResponseError, match=encoding) as caught:
            decode(b"", encoding, 1000)
        assert caught.value.retry_advised is False


@pytest.mark.parametrize(
    ("encoding", "modules", "remedy"),
    [
        ("zstd", ["backports", "compression"], r"batchrt\[zstd\]"),
        ("br", ["brotli", "brotlicffi"], "brotli, from 1.2"),
    ],
)
def test_content_encoding_without_its_library_names_it(
    encoding: str, modules: list[str], remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another attempt would get the same, and is not made."""
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MalformedResponseError, match=remedy) as caught:
        decode(PACKERS[encoding](b"text"), encoding, 1000)
    assert caught.value.retry_advised is False


def test_content_encoding_refuses_a_brotli_library_without_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 1.2 a small body could unpack to any size."""
    monkeypatch.delattr(brotli, "Decompressor")
    monkeypatch.setattr(brotli, "Decompressor", type("Decompressor", (), {}), raising=False)
    monkeypatch.setitem(sys.modules, "brotlicffi", None)
    with pytest.raises(MalformedResponseError, match=r"from 1\.2"):
        decode(brotli.compress(b"text"), "br", 1000)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_content_encoding_refuses_ten_thousand_empty_members(encoding: str) -> None:
    """They would take quadratic time."""
    with pytest.raises(MalformedResponseError, match="pieces"):
        decode(PACKERS[encoding](b"") * 10_000, encoding, 1000)


def large_body(encoding: str) -> bytes:
    """Return 256 MiB of zeros, compressed in parts."""
    match encoding:
        case "gzip":
            packer = zlib.compressobj(9, zlib.DEFLATED, 31)
            return b"".join(packer.compress(bytes(2**22)) for _ in range(64)) + packer.flush()
        case "zstd":
            frames = zstd.ZstdCompressor()
            return bytes(b"".join(frames.compress(bytes(2**22)) for _ in range(64)) + frames.flush())
        case _:
            small = brotli.Compressor(quality=1)
            return bytes(b"".join(small.process(bytes(2**22)) for _ in range(64)) + small.finish())


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "br"])
def test_content_encoding_memory_is_bounded_by_the_limit(encoding: str) -> None:
    """256 MiB in some hundred kilobytes at most, with a limit of one megabyte."""
    bomb = large_body(encoding)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedResponseError, match="larger than 1000000 bytes"):
            decode(bomb, encoding, 1_000_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000
