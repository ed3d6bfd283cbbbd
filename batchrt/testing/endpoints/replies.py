"""Replies as data: status, headers, body, and how they are sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple, Self, TypeAlias

from pydantic_core import to_json

__all__ = [
    "Body",
    "Ending",
    "Headers",
    "MockReply",
    "RejectedError",
    "TimedPart",
    "TokenCharge",
    "bytes_reply",
    "error_reply",
    "json_reply",
]

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]
Body: TypeAlias = bytes | Callable[[], Iterator[bytes]]
"""The whole body, or a function that generates a body too large for memory in parts."""


TimedPart: TypeAlias = tuple[float, bytes]
"""A part of a body, and the seconds to wait before it is sent."""


class Ending(Enum):
    """Fate of the connection after the last byte."""

    COMPLETE = "complete"
    CLOSE = "close"
    RESET = "reset"
    # Connection refused; on a socket, where the connection is open already, a reset.
    REFUSE = "refuse"


class TokenCharge(NamedTuple):
    """Tokens that a request takes from its quota.

    Attributes:
        model: the model of the quota.
        reserved: the most it may cost, known on arrival: input and `max_tokens`.
        spent: the tokens that usage reports.
        answered: the part of these that is the answer.
        rows: a digest of each input to be answered; () if that is the request as a whole.
    """

    model: str
    reserved: int
    spent: int
    answered: int = 0
    rows: Sequence[int] = ()


class MockReply(NamedTuple):
    """An answer and how to send it.

    Attributes:
        status: None to send nothing before the ending.
        headers: without `x-request-id`, which every reply gets.
        body: the bytes to send, fewer than `content-length` promises where a fault says so.
        events: the parts of a streamed body, in place of `body`.
        delay: seconds to wait first.
        pause: seconds to wait before each part of the body.
        ending: the fate of the connection.
        items: the number of inputs in the request: texts, prompts, conversations.
        listed: whether they came as a list.
        entries: the key of the body under which they are answered, if lists are supported.
        charge: the tokens it costs, if a model answered.
        wait: the seconds that it asks the client to wait.
    """

    status: int | None
    headers: Headers = ()
    body: Body = b""
    events: Sequence[TimedPart] = ()
    delay: float = 0.0
    pause: float = 0.0
    ending: Ending = Ending.COMPLETE
    items: int = 0
    listed: bool = False
    entries: str = ""
    charge: TokenCharge | None = None
    wait: float | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the reply is one piece, sent at once, that leaves the connection open."""
        return (
            type(self.body) is bytes
            and not self.pause
            and not self.events
            and self.status is not None
            and self.ending is Ending.COMPLETE
        )

    @property
    def whole_body(self) -> bytes:
        """The body of a reply that is not generated; TypeError for one that is."""
        if self.events:
            return b"".join(event for _, event in self.events)
        if not isinstance(self.body, bytes):
            raise TypeError("only a body that is there can be spoiled")
        return self.body

    def asking_to_wait(self, wait: float | None) -> MockReply:
        """Return the reply with `wait` seconds in `retry-after`, rounded up; unchanged for None."""
        if wait is None:
            return self
        seconds = math.ceil(wait)
        header = (b"retry-after", b"%d" % seconds)
        return self._replace(headers=(*self.headers, header), wait=float(seconds))

    def parts(self) -> Iterator[bytes]:
        """Yield the body in the pieces in which it is sent: single bytes if it drips."""
        if self.events:
            yield from (event for _, event in self.events)
        elif not isinstance(self.body, bytes):
            yield from self.body()
        elif self.pause:
            yield from (bytes((byte,)) for byte in self.body)
        elif self.body:
            yield self.body

    def timed_parts(self) -> Iterator[TimedPart]:
        """Yield the same pieces, each with the seconds to wait before it is sent."""
        return iter(self.events) if self.events else ((self.pause, part) for part in self.parts())

    @property
    def parts_before_last(self) -> int:
        """The number of the parts of a stream before its last, with which its answer is there."""
        return len(self.events) - 1


class RejectedError(Exception):
    """The reply to an invalid request."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",  # noqa: A002  the wire's own name
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.reply: MockReply = error_reply(status, message, type=type, param=param, code=code)

    @classmethod
    def from_reply(cls, reply: MockReply) -> Self:
        """Make an error of another shape than OpenAI's."""
        error = cls(0, f"status {reply.status}")
        error.reply = reply
        return error

    def set_items(self, items: int) -> None:
        """Record the number of inputs in the request."""
        self.reply = self.reply._replace(items=items)


def json_reply(status: int, document: Any, headers: Headers = ()) -> MockReply:
    """Make a reply of a JSON document."""
    return bytes_reply(status, to_json(document), headers)


def bytes_reply(
    status: int,
    body: bytes,
    headers: Headers = (),
    *,
    content_type: bytes = b"application/json",
    items: int = 0,
    listed: bool = False,
    entries: str = "",
    charge: TokenCharge | None = None,
) -> MockReply:
    """Make a reply of an encoded body; the other arguments are MockReply's."""
    length = (b"content-length", b"%d" % len(body))
    return MockReply(
        status,
        ((b"content-type", content_type), length, *headers),
        body,
        items=items,
        listed=listed,
        entries=entries,
        charge=charge,
    )


def error_reply(
    status: int,
    message: str,
    *,
    type: str,  # noqa: A002  the wire's own name
    param: str | None = None,
    code: str | None = None,
    headers: Headers = (),
) -> MockReply:
    """Make an error of OpenAI's shape."""
    error = {"message": message, "type": type, "param": param, "code": code}
    return json_reply(status, {"error": error}, headers)
