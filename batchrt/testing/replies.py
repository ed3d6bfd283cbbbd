"""What goes back to a client, as data: how it is sent is for whoever holds the connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

from pydantic_core import to_json

__all__ = ["Body", "Ending", "Headers", "RejectedError", "Reply", "error_reply", "json_reply"]

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]
Body: TypeAlias = bytes | Callable[[], Iterator[bytes]]
"""A body that is there, or a function that makes one too large to be held, part by part."""

_JSON = (b"content-type", b"application/json")


class Ending(Enum):
    """Say what becomes of the connection after the last byte."""

    COMPLETE = "complete"
    CLOSE = "close"
    RESET = "reset"


class Reply(NamedTuple):
    """Hold an answer and how to send it.

    Attributes:
        status: None to send nothing at all before the ending.
        headers: without `x-request-id`, which every reply gets.
        body: what is sent, which is less than `content-length` promises where a fault says so.
        delay: seconds to wait first.
        pause: seconds to wait before each part of the body.
        ending: what becomes of the connection.
    """

    status: int | None
    headers: Headers = ()
    body: Body = b""
    delay: float = 0.0
    pause: float = 0.0
    ending: Ending = Ending.COMPLETE

    @property
    def is_plain(self) -> bool:
        """Whether the reply is one piece, sent at once, that leaves the connection alone."""
        return (
            type(self.body) is bytes
            and not self.pause
            and self.status is not None
            and self.ending is Ending.COMPLETE
        )

    def parts(self) -> Iterator[bytes]:
        """Give the body in the pieces in which it is to be sent: single bytes if it drips."""
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
        self.reply: Reply = error_reply(status, message, type=type, param=param, code=code)


def json_reply(status: int, document: Any, headers: Headers = ()) -> Reply:
    """Make a reply of anything JSON can hold."""
    body = to_json(document)
    length = (b"content-length", b"%d" % len(body))
    return Reply(status, (_JSON, length, *headers), body)


def error_reply(
    status: int,
    message: str,
    *,
    type: str,  # noqa: A002  the wire's own name
    param: str | None = None,
    code: str | None = None,
    headers: Headers = (),
) -> Reply:
    """Make an error of OpenAI's shape."""
    error = {"message": message, "type": type, "param": param, "code": code}
    return json_reply(status, {"error": error}, headers)
