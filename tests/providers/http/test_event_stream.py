"""The event stream: the same events however the bytes are cut, and every form that servers send."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.errors import MalformedResponseError
from batchrt.providers.http.event_stream import Event, EventStream


def parsed(*pieces: bytes, limit: int = 10**6) -> list[Event]:
    stream = EventStream(limit)
    events = [event for piece in pieces for event in stream.feed(piece)]
    return events + stream.end()


FORMS = {
    "line feeds": b"data: a\n\ndata: b\n\n",
    "carriage returns": b"data: a\r\rdata: b\r\r",
    "both": b"data: a\r\n\r\ndata: b\r\n\r\n",
    "mixed": b"data: a\r\n\ndata: b\r\r\n",
    "no blank after the colon": b"data:a\n\ndata:b\n\n",
    "comments": b": hello\n\ndata: a\n: keep-alive\n\n:\n\n:\n\ndata: b\n\n",
    "retry first": b"retry: 3000\n\ndata: a\n\ndata: b\n\n",
    "identifiers": b"id: 1\n\n\ndata: a\nid: 2\n\n\n\nid\ndata: b\n\n",
    "blank lines": b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n\n",
    "events without data": b"event: ping\n\ndata: a\n\nevent: ping\ndata:\n\ndata\n\ndata: b\n\n",
    "byte order mark": b"\xef\xbb\xbfdata: a\n\ndata: b\n\n",
    "no last blank line": b"data: a\n\ndata: b\n",
    "no last line end": b"data: a\n\ndata: b",
    "unknown fields": b"Data: x\ndata : x\nfoo: x\n data: x\ndata: a\n\ndata: b\nx\n\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_event_stream_reads_what_servers_send(form: str) -> None:
    """Each form holds the same two events."""
    assert parsed(FORMS[form]) == [Event(b"a"), Event(b"b")]


@pytest.mark.parametrize("form", FORMS)
def test_event_stream_may_be_cut_at_every_byte(form: str) -> None:
    """A piece may end anywhere: in a mark, between the two characters of a line's end, in a field."""
    body = FORMS[form]
    for cut in range(len(body) + 1):
        assert parsed(body[:cut], body[cut:]) == parsed(body)
    assert parsed(*(bytes((byte,)) for byte in body)) == parsed(body)


def test_event_stream_joins_data_lines_and_keeps_names() -> None:
    """Lines of data are joined by a line feed; a name belongs to its event alone."""
    assert parsed(b'data: {"a":\ndata: 1}\n\nevent: error\ndata: x\n\ndata: y\n\n') == [
        Event(b'{"a":\n1}'),
        Event(b"x", b"error"),
        Event(b"y"),
    ]


def test_event_stream_ends_lines_where_the_standard_does() -> None:
    """U+2028, U+0085, form feeds and their like stand in JSON, and end no line."""
    text = '{"a":"x\u2028y\u2029z\u0085\x0b\x0c\x1c"}'.encode()
    assert parsed(b"data: " + text + b"\n\n") == [Event(text)]


_lines = st.one_of(
    st.sampled_from([b"data: x", b"data:", b"data", b"event: e", b"id: 1", b": c", b"", b"retry: 1"]),
    st.binary(max_size=12),
)
_bodies = st.lists(st.tuples(_lines, st.sampled_from([b"\n", b"\r", b"\r\n"])), max_size=12).map(
    lambda lines: b"".join(line + end for line, end in lines)
)


@given(
    st.tuples(st.sampled_from([b"", b"\xef\xbb\xbf", b"\xef\xbb"]), _bodies, st.binary(max_size=4)),
    st.lists(st.integers(0, 200), max_size=12),
)
def test_event_stream_is_independent_of_the_cuts(parts: tuple[bytes, ...], cuts: list[int]) -> None:
    """Any bytes give the same events in any pieces, empty ones too."""
    body = b"".join(parts)
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[start:stop] for start, stop in itertools.pairwise(edges)]
    assert parsed(*pieces) == parsed(body)


@pytest.mark.parametrize(
    "body",
    [b"data: " + b"x" * 200, b"data: x\n" * 100, b"x" * 200, b"event: " + b"x" * 200 + b"\n"],
    ids=["line", "lines", "unknown", "name"],
)
def test_event_stream_bounds_an_event(body: bytes) -> None:
    """An event that does not end is an error, and is not gathered for ever."""
    with pytest.raises(MalformedResponseError, match="max_response_bytes"):
        parsed(*(bytes((byte,)) for byte in body), limit=100)


def test_event_stream_bounds_no_sum_of_events() -> None:
    """The bound is one event's."""
    assert len(parsed(b"data: 0123456789\n\n" * 100, limit=20)) == 100
