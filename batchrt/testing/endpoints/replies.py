"""What goes back to a client, as data: how it is sent is for whoever holds the connection."""

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
    "TokenCharge",
    "bytes_reply",
    "error_reply",
    "json_reply",
]

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]
Body: TypeAlias = bytes | Callable[[], Iterator[bytes]]
"""A body that is there, or a function that makes one too large to be held, part by part."""


class Ending(Enum):
    """Say what becomes of the connection after the last byte."""

    COMPLETE = "complete"
    CLOSE = "close"
    RESET = "reset"
    # As if nobody listened; on a socket, where the connection is there already, a reset.
    REFUSE = "refuse"


class TokenCharge(NamedTuple):
    """Hold what a request costs a quota, in tokens.

    Attributes:
        model: whose quota it is.
        reserved: what it may cost, as it is known on its arrival: input and `max_tokens`.
        spent: what usage says.
        answered: how much of that is the answer.
        rows: a name for each input that is to be answered; () if it is the request as a whole.
    """

    model: str
    reserved: int
    spent: int
    answered: int = 0
    rows: Sequence[int] = ()


class MockReply(NamedTuple):
    """Hold an answer and how to send it.

    Attributes:
        status: None to send nothing at all before the ending.
        headers: without `x-request-id`, which every reply gets.
        body: what is sent, which is less than `content-length` promises where a fault says so.
        delay: seconds to wait first.
        pause: seconds to wait before each part of the body.
        ending: what becomes of the connection.
        items: how many inputs the request carried: texts, prompts, conversations.
        listed: whether they came as a list.
        entries: under which key of the body they are answered, if lists can be.
        bill: what it costs, if it is the answer of a model.
        wait: the seconds for which it asks the client to stay away.
    """

    status: int | None
    headers: Headers = ()
    body: Body = b""
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
        """Whether the reply is one piece, sent at once, that leaves the connection alone."""
        return (
            type(self.body) is bytes
            and not self.pause
            and self.status is not None
            and self.ending is Ending.COMPLETE
        )

    def asking_to_wait(self, wait: float | None) -> MockReply:
        """Have it ask for so many seconds in `retry-after`, rounded up; None for none."""
        if wait is None:
            return self
        seconds = math.ceil(wait)
        header = (b"retry-after", b"%d" % seconds)
        return self._replace(headers=(*self.headers, header), wait=float(seconds))

    def parts(self) -> Iterator[bytes]:
        """Return the body in the pieces in which it is to be sent: single bytes if it drips."""
        if not isinstance(self.body, bytes):
            yield from self.body()
        elif self.pause:
            yield from (bytes((byte,)) for byte in self.body)
        elif self.body:
            yield self.body


class RejectedError(Exception):
    """Carry the reply to a request that is itself wrong."""

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
        """Record how many inputs the request carried."""
        self.reply = self.reply._replace(items=items)


def json_reply(status: int, document: Any, headers: Headers = ()) -> MockReply:
    """Make a reply of anything JSON can hold."""
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
    """Make a reply of a body that is written already; the rest is Reply's."""
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
