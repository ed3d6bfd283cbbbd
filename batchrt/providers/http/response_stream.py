"""The response stream: a response whose body is received piece by piece, decoded and bounded."""

from __future__ import annotations

from abc import ABC, abstractmethod

from batchrt.errors import RequestTimeoutError
from batchrt.providers.http.address import origin_of
from batchrt.providers.http.content_encoding import BodyDecoder, too_large
from batchrt.providers.http.response import HeaderMap, Reply

__all__ = ["ResponseStream", "no_answer", "stalled"]


class ResponseStream(ABC):
    """Receive the body of a response whose head has come.

    It has to be closed, however it ends; one that was received to its end has given its connection back.

    Args:
        status: of the response.
        headers: of the response.
        encoding: its `content-encoding`.
        limit: most bytes, as received and as decoded.

    Raises:
        MalformedResponseError: the encoding is not known.
    """

    __slots__ = ("_decoder", "_limit", "_size", "headers", "status")

    def __init__(self, status: int, headers: HeaderMap, encoding: str, limit: int) -> None:
        self.status: int = status
        self.headers: HeaderMap = headers
        self._limit = limit
        self._size = 0
        self._decoder = BodyDecoder(encoding, limit)

    @abstractmethod
    async def _receive(self) -> bytes:
        """Return the next part of the body as it was sent; empty at its end."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connection at once, unless the body was received to its end."""

    async def receive(self) -> bytes:
        """Return the next piece of the body, or nothing at its end.

        Cancelling the caller leaves the stream open.

        Raises:
            ConnectionFailedError: the connection broke.
            RequestTimeoutError: nothing came for `timeout` seconds.
            MalformedResponseError: the body is too large, cut short or not decodable.
        """
        while part := await self._receive():
            self._size += len(part)
            if self._size > self._limit:
                raise too_large(self._limit)
            decoded = self._decoder.feed(part)
            if decoded:
                return decoded
        self._decoder.end()
        return b""

    async def read(self, start: bytes = b"") -> Reply:
        """Return the response with the rest of its body behind `start`."""
        pieces = [start]
        while piece := await self.receive():
            pieces.append(piece)
        return Reply(self.status, self.headers, b"".join(pieces))


def no_answer(url: str, timeout: float | None) -> RequestTimeoutError:
    """Return the error for a response whose head did not come within `timeout` seconds."""
    within = "in time" if timeout is None else f"within {timeout:g} s"
    return RequestTimeoutError(f"no answer from {origin_of(url)} {within}")


def stalled(url: str, timeout: float | None) -> RequestTimeoutError:
    """Return the error for a body of which nothing came for `timeout` seconds."""
    pause = "" if timeout is None else f": nothing came for {timeout:g} s"
    return RequestTimeoutError(f"the stream from {origin_of(url)} stalled{pause}")
