"""Responses, parsed strictly where that is enough and with tolerance where servers need it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.errors import MalformedResponseError
from batchrt.providers.http.response_parser import (
    LONGEST_HEAD,
    BrokenResponse,
    Disconnected,
    ResponseParser,
)

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def parsed(*parts: bytes, limit: float = math.inf, end: bool = False) -> ResponseParser:
    """Return a parser that was fed `parts`, and maybe the end, as one response."""
    parser = ResponseParser()
    feed(parser, *parts, limit=limit)
    if end:
        parser.end()
    return parser


def feed(parser: ResponseParser, *parts: bytes, limit: float = math.inf) -> None:
    """Feed `parts` as the next response, until it is done."""
    parser.begin(limit)
    for part in parts:
        if parser.done:
            break
        parser.feed(memoryview(part))


def cut(data: bytes, size: int = 1) -> Iterator[bytes]:
    """Yield `data` in pieces."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


# Each: what is received, its status, its body, and whether the connection may be used again.
RESPONSES: dict[str, tuple[bytes, int, bytes, bool]] = {
    "length": (OK, 200, b"{}", True),
    "no body": (b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", 500, b"", True),
    "no reason": (b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\n{}", 200, b"{}", True),
    "blank lines before": (b"\r\n\r\n" + OK, 200, b"{}", True),
    "chunks": (CHUNKED + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", 200, b"{}", True),
    "chunk extension": (CHUNKED + b"2;a=b\r\n{}\r\n0\r\n\r\n", 200, b"{}", True),
    "trailers": (CHUNKED + b"2\r\n{}\r\n0\r\nx-a: 1\r\nx-b: 2\r\n\r\n", 200, b"{}", True),
    "204": (b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", 204, b"", True),
    "304": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", 304, b"", True),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: a\r\n\r\n" + OK, 200, b"{}", True),
    "close": (b"HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length: 2\r\n\r\n{}", 200, b"{}", False),
    "1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}", 200, b"{}", False),
    "1.0 kept": (
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\n{}",
        200,
        b"{}",
        True,
    ),
    "upgrade offered": (b"HTTP/1.1 200 OK\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\n{}", 200, b"{}", True),
    # In need of repair
    "line feeds": (b"HTTP/1.1 200 OK\ncontent-length: 2\nx-a: 1\n\n{}", 200, b"{}", True),
    "folded": (b"HTTP/1.1 200 OK\r\nx-a: 1\r\n\t2\r\ncontent-length: 2\r\n\r\n{}", 200, b"{}", True),
    "blank before colon": (b"HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\n{}", 200, b"{}", True),
    "length twice": (
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nContent-Length: 2, 2\r\n\r\n{}",
        200,
        b"{}",
        True,
    ),
    "length and chunks": (
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        200,
        b"{}",
        False,
    ),
    "repair after interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\ncontent-length: 2\n\n{}",
        200,
        b"{}",
        True,
    ),
}


@pytest.mark.parametrize("size", [10**6, 1, 3])
@pytest.mark.parametrize("case", RESPONSES)
def test_response_parser_reads_a_response_in_any_pieces(case: str, size: int) -> None:
    """Whole, byte by byte, and in between."""
    data, status, body, reusable = RESPONSES[case]
    parser = parsed(*cut(data, size))
    assert parser.error is None
    assert (parser.done, parser.status, b"".join(parser.chunks)) == (True, status, body)
    assert parser.reusable is reusable


@given(st.lists(st.sampled_from(sorted(RESPONSES)), min_size=1, max_size=4), st.data())
def test_response_parser_reads_one_response_after_another(cases: list[str], data: st.DataObject) -> None:
    """The pieces are any, as long as the server answers one request at a time."""
    parser = ResponseParser()
    for case in cases:
        sent, status, body, reusable = RESPONSES[case]
        cuts = sorted(data.draw(st.sets(st.integers(1, len(sent) - 1), max_size=5)))
        feed(parser, *(sent[a:b] for a, b in itertools.pairwise([0, *cuts, len(sent)])))
        assert (parser.error, parser.status, b"".join(parser.chunks)) == (None, status, body)
        assert parser.reusable is reusable
        if not reusable:
            break


@pytest.mark.parametrize("surplus", [b"{", b"HTTP/1.1 ", OK, b"\0", b"HTTP/1.1 100 Continue\r\n\r\n"])
@pytest.mark.parametrize("case", ["length", "chunks", "204", "close", "no body"])
def test_response_parser_does_not_reuse_a_connection_with_bytes_after_the_end(
    case: str, surplus: bytes
) -> None:
    """The response is right; what follows is of nothing that was asked."""
    data, status, body, _ = RESPONSES[case]
    parser = parsed(data + surplus)
    assert (parser.error, parser.status, b"".join(parser.chunks)) == (None, status, body)
    assert not parser.reusable


BROKEN: dict[str, tuple[bytes, str]] = {
    "another protocol": (b"SSH-2.0-OpenSSH_9.6\r\n", "protocol"),
    "TLS": (b"\x15\x03\x01\x00\x02\x02\x0a", "protocol"),
    "HTTP/2": (b"HTTP/2 200 OK\r\n\r\n", "protocol"),
    "a status of letters": (b"HTTP/1.1 abc OK\r\n\r\n", "head"),
    "a line without a colon": (b"HTTP/1.1 200 OK\r\nrubbish\r\n\r\n", "head"),
    "another protocol from now on": (
        b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        "head",
    ),
    "a chunk of no size": (CHUNKED + b"zz\r\n{}\r\n", "body"),
    "a chunk of a negative size": (CHUNKED + b"-1\r\n{}\r\n", "body"),
    "a chunk of an immense size": (CHUNKED + b"f" * 20 + b"\r\n{}", "body"),
    "a chunk that is too long": (CHUNKED + b"1\r\n{}\r\n", "body"),
}


@pytest.mark.parametrize("size", [10**6, 1])
@pytest.mark.parametrize("case", BROKEN)
def test_response_parser_refuses_a_broken_response(case: str, size: int) -> None:
    """The error has the part that is broken."""
    data, part = BROKEN[case]
    parser = parsed(*cut(data, size))
    assert isinstance(parser.error, BrokenResponse)
    assert (parser.error.part, parser.reusable) == (part, False)


@pytest.mark.parametrize("length", [b"2, 3", b"two", b"-2", b"2\r\ncontent-length: 3", b"0x2", b""])
@pytest.mark.parametrize("size", [10**6, 1])
def test_response_parser_refuses_a_length_that_is_none(length: bytes, size: int) -> None:
    """An answer of another length than its own would be cut, or hold a part of the next."""
    data = b"HTTP/1.1 200 OK\r\ncontent-length: " + length + b"\r\n\r\n{}"
    parser = parsed(*cut(data, size))
    assert isinstance(parser.error, MalformedResponseError)


@pytest.mark.parametrize("case", ["length", "chunks", "trailers"])
def test_response_parser_notices_every_early_end(case: str) -> None:
    """Before the head a connection was lost, and after it the body is broken."""
    data = RESPONSES[case][0]
    for end in range(len(data)):
        parser = parsed(data[:end], end=True) if end else parsed(end=True)
        assert parser.done
        if end < data.index(b"\r\n\r\n") + 4:
            assert isinstance(parser.error, Disconnected)
            assert parser.error.unanswered is (end == 0)
        else:
            assert isinstance(parser.error, BrokenResponse)
            assert parser.error.part == "body"


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\nx-a: 1\r\n\r\n"])
def test_response_parser_ends_a_body_without_a_length_with_the_connection(head: bytes) -> None:
    """Unless the connection was cut off, as TLS can tell."""
    parser = parsed(head, b"{", b"}", end=True)
    assert (parser.error, b"".join(parser.chunks), parser.reusable) == (None, b"{}", False)
    parser = parsed(head, b"{", b"}")
    parser.end(clean=False)
    assert isinstance(parser.error, BrokenResponse)


def test_response_parser_takes_a_reset_for_no_end() -> None:
    """A body without a length may have had more."""
    parser = parsed(b"HTTP/1.1 200 OK\r\n\r\n{")
    parser.fail(ConnectionResetError("reset"))
    assert isinstance(parser.error, BrokenResponse)
    assert isinstance(parser.error.__cause__, ConnectionResetError)


@pytest.mark.parametrize(
    "endless",
    [
        b"x-a: " + b"y" * 70 + b"\r\n",
        b"y" * 70,
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"x-a: 1\nx-b",
    ],
)
def test_response_parser_bounds_a_head(endless: bytes) -> None:
    """Fields, a field, interim responses, and a head that is kept for repair."""
    start = b"HTTP/1.1 200 OK\r\n" if not endless.startswith(b"HTTP") else b""
    parser = parsed(start, *itertools.repeat(endless * 50, 2 * LONGEST_HEAD // len(endless * 50)))
    assert isinstance(parser.error, BrokenResponse)
    assert parser.error.part == "head"


@pytest.mark.parametrize("endless", [b"x-a: " + b"y" * 70 + b"\r\n", b"y" * 70])
def test_response_parser_bounds_trailers(endless: bytes) -> None:
    """They are no part of the body, whose bound they would escape."""
    start = CHUNKED + b"2\r\n{}\r\n0\r\n"
    parser = parsed(start, *itertools.repeat(endless * 50, 2 * LONGEST_HEAD // len(endless * 50)))
    assert isinstance(parser.error, BrokenResponse)
    assert parser.error.part == "body"


def test_response_parser_reads_a_thousand_fields() -> None:
    """Gateways add some hundred."""
    fields = b"".join(b"x-%d: %s\r\n" % (number, b"v" * 100) for number in range(1000))
    parser = parsed(b"HTTP/1.1 200 OK\r\n" + fields + b"content-length: 2\r\n\r\n{}")
    assert (parser.error, parser.headers.get("x-999")) == (None, "v" * 100)


def test_response_parser_joins_repeated_fields() -> None:
    """By their names in any case; an interim response's are left out."""
    head = b"HTTP/1.1 103 Hints\r\nx-a: 0\r\n\r\nHTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nx-\xff: 3\r\n"
    parser = parsed(head.replace(b"x-\xff: 3", b"x-b: \xff") + b"content-length: 0\r\n\r\n")
    assert parser.headers.get("x-a") == "1, 2"
    assert parser.headers.get("x-b") == "\xff"
    assert parser.headers.get("x-c") is None


@pytest.mark.parametrize("size", [10**6, 1])
@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world",
        b"HTTP/1.1 200 OK\r\n\r\nhello world",
        CHUNKED + b"b\r\nhello world\r\n0\r\n\r\n",
    ],
)
def test_response_parser_bounds_a_body(data: bytes, size: int) -> None:
    """However it is sent."""
    parser = parsed(*cut(data, size), limit=10)
    assert isinstance(parser.error, MalformedResponseError)
    assert "larger than 10 bytes" in str(parser.error)
    parser = parsed(*cut(data, size), limit=11, end=True)
    assert (parser.error, b"".join(parser.chunks)) == (None, b"hello world")


def test_response_parser_refuses_a_length_over_the_bound_before_the_body() -> None:
    """Nothing of it has to be received."""
    parser = parsed(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n", limit=10)
    assert isinstance(parser.error, MalformedResponseError)


def test_response_parser_expects_no_body_of_an_answer_to_head() -> None:
    """Its length is that of the body that `GET` would have."""
    parser = ResponseParser()
    parser.begin(math.inf, bodiless=True)
    parser.feed(memoryview(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n"))
    assert (parser.done, parser.error, parser.chunks) == (True, None, [])
    assert not parser.reusable
