"""The parser of a connection: reads responses of HTTP/1.1, one after another, within bounds."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import httptools

from batchrt.errors import MalformedResponseError
from batchrt.providers.http.content_encoding import too_large
from batchrt.providers.http.response_head import HeaderFields, end_of_head, last_head, repaired

if TYPE_CHECKING:
    Part: TypeAlias = Literal["protocol", "head", "body"]

__all__ = ["BrokenResponse", "Disconnected", "ResponseParser"]

LONGEST_HEAD: Final = 300 * 1024
"""Most bytes of a head, interim responses before it included; curl's bound (`MAX_HTTP_RESP_HEADER_SIZE`).
Also most bytes of trailers, and of chunks that hold no data."""
_USUAL_HEAD: Final = 4096
"""Bytes of what is received first that are searched for the end of a head."""
_OK: Final = 200
_END_LENGTH: Final = 4
_START: Final = b"HTTP/1."
_INTERIM: Final = re.compile(rb"HTTP/1\.[01] 1")


class BrokenResponse(Exception):  # noqa: N818  users see an error that is made of it
    """A response that is not HTTP/1.1, or that ended before its end.

    Attributes:
        part: the part that is broken; "protocol" where the server speaks another one.
    """

    def __init__(self, reason: str, part: Part) -> None:
        super().__init__(reason)
        self.part: Part = part


class Disconnected(ConnectionError):  # noqa: N818  users see an error that is made of it
    """A connection that ended before the head of the response.

    Attributes:
        unanswered: not a byte of a response had come.
    """

    def __init__(self, reason: str, *, unanswered: bool) -> None:
        super().__init__(reason)
        self.unanswered: bool = unanswered


class ResponseParser:
    """Parse the bytes that a connection receives, one response at a time.

    After `begin`, `feed` is called with all bytes that come until `done`. Then either `error` is set, or the
    response is complete, and `reusable` says whether the connection may carry another request.

    llhttp parses strictly. Where it refuses a head, that is repaired and parsed again, so that the usual case
    costs nothing.

    Attributes:
        status: of the response, once `has_head`.
        chunks: its body as far as it has been received and not been taken.
        has_head: the final head is there.
        done: nothing more is awaited.
        error: the reason why there will be no whole response.
        reusable: the state of the connection is known, and the server keeps it open.
        untouched: not a byte of the response has come.
    """

    __slots__ = (
        "_bodiless",
        "_expected",
        "_head",
        "_interim",
        "_kept",
        "_limit",
        "_parser",
        "_quiet",
        "_repairing",
        "_searched",
        "_seen",
        "_size",
        "chunks",
        "done",
        "error",
        "has_head",
        "reusable",
        "status",
        "untouched",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.begin(0)

    def begin(self, limit: float, *, bodiless: bool = False) -> None:
        """Expect a response.

        Args:
            limit: most bytes of its body.
            bodiless: it has no body whatever its head says, as it answers `HEAD`.
        """
        self._limit = limit
        self._bodiless = bodiless
        self._kept: bytearray | None = None
        self._head: bytes | None = None
        self._repairing = False
        self._expected: float | None = None
        self._size = self._seen = self._quiet = self._searched = self._interim = 0
        self.status: int = 0
        self.chunks: list[bytes] = []
        self.has_head: bool = False
        self.done: bool = False
        self.reusable: bool = False
        self.untouched: bool = True
        self.error: Exception | None = None

    def feed(self, data: memoryview) -> None:
        """Parse the next bytes."""
        self.untouched = False
        if self.done:  # and the task that waits for it has not run yet
            self.reusable = False
            return
        if self._repairing:
            self._keep(data)
            self._repair()
        else:
            try:
                self._parser.feed_data(data)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
                self._refused(error, data)
        if self._head is None and self.has_head:
            self._keep_head(data)
        if self._size > self._limit or not self.done:
            self._check_bounds(data)

    def end(self, *, clean: bool = True) -> None:
        """Take the end of the connection.

        Args:
            clean: the server ended it in the way that the protocol below has for that.
        """
        self.reusable = False
        if self.done:
            return
        if not self.has_head:
            when = "within the head of its answer" if not self.untouched else "before it answered"
            self._fail(Disconnected(f"the server closed the connection {when}", unanswered=self.untouched))
        elif clean and self._expected == math.inf:
            self.done = True
        else:
            self._fail(BrokenResponse("the connection ended before the body did", "body"))

    def fail(self, error: Exception) -> None:
        """Take an error of the connection, which ends with it."""
        self.reusable = False
        if self.done:
            return
        failure: Exception
        if self.has_head:
            failure = BrokenResponse(f"the connection broke within the body: {error}", "body")
        else:
            failure = Disconnected(f"the connection broke: {error}", unanswered=self.untouched)
        failure.__cause__ = error
        self._fail(failure)

    def take(self) -> list[bytes]:
        """Return the parts of the body received since the last call."""
        chunks, self.chunks = self.chunks, []
        return chunks

    @property
    def headers(self) -> HeaderFields:
        """The header fields, once `has_head`."""
        assert self._head is not None
        return HeaderFields(self._head)

    # Called by httptools. An exception raised here would stay in its parser. There is no `on_header`: a call
    # for each field would cost more than all the rest of the parsing.

    def on_message_begin(self) -> None:
        """Note bytes after the end of a response."""
        if self.done:
            self.reusable = False

    def on_headers_complete(self) -> None:
        """Note the final head."""
        if self.has_head:  # bytes after the end that look like another response
            return
        self.status = self._parser.get_status_code()
        if self.status >= _OK:
            self.has_head = True
            # After an answer to HEAD the parser expects a body, and is of no use for another response.
            self.done = self._bodiless

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body."""
        if not self.done:
            self.chunks.append(data)
            self._size += len(data)

    def on_message_complete(self) -> None:
        """Note the end of the response, unless it was an interim one (RFC 9110, 15.2)."""
        if self.done:
            return
        if self.has_head:
            self.done = True
            self.reusable = self._parser.should_keep_alive()
        else:
            self._interim += 1

    def _refused(self, error: Exception, data: memoryview) -> None:
        """Take an error of the parser."""
        self.reusable = False
        if self.done:
            return
        if self.has_head:
            self._fail(BrokenResponse(str(error), "body"))
        elif isinstance(error, httptools.HttpParserUpgrade):
            self._fail(BrokenResponse("the server switches to another protocol", "head"))
        else:
            self._keep(data)
            self._repairing = True
            self._repair()

    def _repair(self) -> None:
        """Parse the head in the form that it should have had, once it is there."""
        assert self._kept is not None
        if self._kept[: len(_START)] != _START[: len(self._kept)]:
            start = bytes(self._kept[:40])
            self._fail(BrokenResponse(f"it begins with {start!r}, which is not HTTP", "protocol"))
        while not self.done and (end := end_of_head(self._kept, self._searched)) is not None:
            head, rest = bytes(self._kept[:end]), self._kept[end:]
            self._searched = 0
            if _INTERIM.match(head):
                self._kept = rest
            else:
                self._parse_repaired(head, rest)
                return
        self._searched = max(0, len(self._kept) - _END_LENGTH)

    def _parse_repaired(self, head: bytes, rest: bytearray) -> None:
        self._parser, self._repairing = httptools.HttpResponseParser(self), False
        try:
            head = repaired(head)
            self._head = head.removesuffix(b"\r\n")
            self._parser.feed_data(head)
            self._parser.feed_data(rest)
        except MalformedResponseError as error:
            self._fail(error)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.reusable = False
            if not self.done:
                self._fail(BrokenResponse(str(error), "body" if self.has_head else "head"))

    def _check_bounds(self, data: memoryview) -> None:
        """Bound the body, and the bytes that bring none."""
        if self.done:
            self._fail(too_large(int(self._limit)))
            return
        if not self.has_head:
            if not self._repairing:
                self._keep(data)
        elif self._expected is None:
            self._check_head()
        if self._size > self._seen:
            self._seen, self._quiet = self._size, 0
        else:
            self._quiet += len(data)
        if self._quiet > LONGEST_HEAD:
            self._fail(BrokenResponse("it is too long", "body" if self.has_head else "head"))
        elif self._size > self._limit:
            self._fail(too_large(int(self._limit)))

    def _check_head(self) -> None:
        """Find out how the body ends (RFC 9112, 6.3), and refuse one that is too long before reading it."""
        headers = self.headers
        length = headers.get("content-length")
        coding = headers.get("transfer-encoding")
        if coding is not None:
            self._expected = 0 if coding.rstrip().lower().endswith("chunked") else math.inf
        elif length is None:
            self._expected = math.inf
        else:
            self._expected = int(length)
            if self._expected > self._limit:
                self._fail(too_large(int(self._limit)))

    def _keep_head(self, data: memoryview) -> None:
        """Keep the head, which ends within `data`; the buffer below that is used again."""
        if self._kept is None and not self._interim:
            head = bytes(data[:_USUAL_HEAD])
            end = head.find(b"\r\n\r\n")
            if end > 0:
                self._head = head[: end + 2]
                return
        received = bytes(data) if self._kept is None else bytes(self._kept) + data
        self._head = last_head(received, self._interim)

    def _keep(self, data: memoryview) -> None:
        """Keep a part of the head, which may have to be repaired."""
        if self._kept is None:
            self._kept = bytearray()
        self._kept += data

    def _fail(self, error: Exception) -> None:
        self.reusable = False
        self.done = True
        self.error = error
