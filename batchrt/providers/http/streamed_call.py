"""The streamed call: one request whose answer is delivered in chunks while it is received."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Generic, Protocol, Self, TypeVar

import anyio

from batchrt.errors import ProviderError
from batchrt.messages import Usage
from batchrt.providers.http.event_stream import Event, EventStream
from batchrt.providers.http.response import Reply

if TYPE_CHECKING:
    from batchrt.limits.permit import Permit
    from batchrt.providers.http.endpoint import Endpoint, _RetryDecider
    from batchrt.providers.http.response_stream import ResponseStream
    from batchrt.runtime.clock import Clock
    from batchrt.runtime.observers import RequestObserver
    from batchrt.runtime.strand import Strand

__all__ = ["Chunks", "StreamedCall"]

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

_MOST_BLANK: Final = 64 * 1024
"""Bytes of blanks before an answer; some servers send them to keep the connection alive."""
_BLANKS: Final = b" \t\r\n\xef\xbb\xbf"
"""Blanks, and a byte order mark."""
_WHOLE: Final = (b"{", b"[", b"<")
"""Beginnings of a body that is no stream of events: an answer or an error in JSON, or a page."""
_LAST_WAIT: Final = 0.25
"""Seconds for which the end of a body is awaited after the end of its answer, so that the connection can be
used again; a server that ends it sends both at once."""


class Chunks(Protocol[T_co]):
    """Read the answer to one attempt of a request.

    Attributes:
        usage: the tokens that were billed, as far as the server has said.
        done: the answer is complete, whatever follows.
        request_id: the provider's id of the exchange.
    """

    usage: Usage | None
    done: bool
    request_id: str | None

    def read(self, event: Event) -> T_co | None:
        """Return the chunk in an event; `None` if it holds nothing to deliver."""

    def end(self) -> T_co | None:
        """Return the last chunk, if there is one, at the end of the stream."""

    def whole(self, reply: Reply) -> T_co:
        """Return the answer of a server that does not stream, as one chunk."""

    def partial(self) -> object:
        """Return the sum of the chunks so far."""


class StreamedCall(Generic[T]):
    """Send a request and iterate over the chunks of its answer.

    Until the first chunk a failure is retried as in `Endpoint.call`. After it a failure ends the stream, and
    its error has the sum of the chunks in `partial`. The request counts as in flight until its answer is
    complete, it failed, or the stream is closed.

    Invariant: `_permit` is set exactly while an attempt holds a permit or a reservation that has not ended.
    No permit is held and no response open once `anext` has raised; a consumer that stops earlier has to call
    `aclose`.

    Args:
        endpoint: sends it.
        body: returns the request's body; or, for the error of the first attempt, another body that is sent at
            once, or `None` for none.
        read: makes the reader of an attempt's answer from the head of the response.
        strand: holds the slot, which is taken again before each wait for more of the answer.
    """

    __slots__ = (
        "_attempts",
        "_began",
        "_body",
        "_delivered_at",
        "_endpoint",
        "_events",
        "_observer",
        "_parser",
        "_permit",
        "_read",
        "_reader",
        "_received",
        "_response",
        "_strand",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        body: Callable[[ProviderError | None], bytes | None],
        read: Callable[[Reply, Clock], Chunks[T]],
        strand: Strand,
    ) -> None:
        self._endpoint = endpoint
        self._body: Callable[[ProviderError | None], bytes | None] | None = body
        self._read = read
        self._strand = strand
        self._attempts = 1
        self._delivered_at = 0.0
        self._began = self._received = False
        self._permit: Permit | None = None
        self._response: ResponseStream | None = None
        self._observer: RequestObserver | None = None
        self._reader: Chunks[T]
        self._parser: EventStream
        self._events: deque[Event] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._delivered_at and self._permit is not None:
            self._permit.held += self._strand.run.now() - self._delivered_at
        try:
            chunk = await (self._next() if self._began else self._begin())
        except ProviderError as error:
            if self._permit is not None:
                self._break_off(error, self._permit)
            self._end_observation(error)
            await self.aclose()
            raise
        except BaseException as error:
            self._end_observation(error)
            await self.aclose()
            raise
        if chunk is not None:
            if self._observer is not None:
                self._observer.chunk(chunk)
            if self._permit is not None and self._permit.auto:  # which goes by the provider's latency
                self._delivered_at = self._strand.run.now()
            return chunk
        self._end_observation(None)
        await self._drain()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Close the connection at once, unless the answer was received to its end."""
        permit, self._permit = self._permit, None
        self._began = True
        self._events.clear()
        try:
            if permit is not None:
                self._endpoint._abandon(permit, self._strand)
            self._end_observation(None if permit is None else GeneratorExit())
        finally:
            await self._close()

    async def _close(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            await response.aclose()

    async def _begin(self) -> T | None:
        """Return the first chunk of the first attempt that has one.

        Raises:
            ProviderError: the last attempt's; `attempts` says how many there were.
        """
        self._began = True
        endpoint, strand = self._endpoint, self._strand
        bodies, self._body = self._body, None
        assert bodies is not None
        body = bodies(None)
        assert body is not None
        if strand.run.observer is not None:
            self._observer = strand.run.observer.request(endpoint, body, strand, streamed=True)
            self._observer.__enter__()
        retry: _RetryDecider | None = None
        while True:
            permit = self._permit = endpoint._permit(len(body), 1, strand)
            permit.again = retry is not None
            try:
                if strand.spending is not None:
                    await endpoint._reserve(permit, strand)
                await endpoint.quota.admit(permit, strand)
                if self._observer is not None:
                    self._observer.sent()
                if retry is not None:
                    retry.attempts += 1
                    self._attempts = retry.attempts
                return await self._attempt(body, permit)
            except ProviderError as error:
                self._permit = None
                failure = endpoint._failed(error, permit, strand)
                endpoint._settle(permit, Usage())  # not sent at all
            await self._close()
            other = bodies(failure.error) if retry is None else None
            if other is not None:
                body = other
                continue
            if retry is None:
                retry = endpoint._decider(failure, strand, self._observer)
            else:
                retry.failed(failure)
            await retry.wait()

    async def _attempt(self, body: bytes, permit: Permit) -> T | None:
        """Send the request and return the first chunk of its answer.

        Raises:
            ProviderError: it failed before that.
        """
        endpoint, strand = self._endpoint, self._strand
        response = self._response = await endpoint._transport.stream(endpoint._url, body)
        head = Reply(response.status, response.headers, b"")
        endpoint._note_limits(head, permit)
        if not 200 <= head.status < 300:  # noqa: PLR2004
            raise endpoint._refusal(await response.read(), permit, strand.run.clock)
        reader = self._reader = self._read(head, strand.run.clock)
        self._parser = EventStream(endpoint._transport.max_response_bytes)
        self._received = False
        start = await _beginning(response)
        if start.lstrip(_BLANKS).startswith(_WHOLE):
            chunk = reader.whole(await response.read(start))
            self._received = True
            self._settle(permit)
            return chunk
        self._events.extend(self._parser.feed(start))
        return await self._next()

    async def _next(self) -> T | None:
        """Return the next chunk; `None` once the answer is complete."""
        permit = self._permit
        if permit is None:
            return None
        reader, events = self._reader, self._events
        while not reader.done and (events or not self._received):
            if not events:
                await self._receive()
            elif (chunk := reader.read(events.popleft())) is not None:
                return chunk
        chunk = reader.end()
        self._settle(permit)
        return chunk

    async def _receive(self) -> None:
        """Wait for more of the body, with a slot."""
        assert self._response is not None
        if not self._strand.has_slot:
            await self._strand.take()
        data = await self._response.receive()
        if data:
            self._events.extend(self._parser.feed(data))
        else:
            self._received = True
            self._events.extend(self._parser.end())

    def _settle(self, permit: Permit) -> None:
        """Record that the answer is complete."""
        self._permit = None
        endpoint, strand, usage = self._endpoint, self._strand, self._reader.usage
        if usage is not None:
            strand.item.add_usage(usage, endpoint._model)
        now = strand.run.now()
        strand.item.add_request(now - permit.sent_at)
        strand.item.request_id = self._reader.request_id
        endpoint.quota.answered(permit, usage, now)
        endpoint._settle(permit, usage)
        if self._observer is not None:
            self._observer.answered(self._reader)

    def _end_observation(self, error: BaseException | None) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.__exit__(None if error is None else type(error), error, None)

    def _break_off(self, error: ProviderError, permit: Permit) -> None:
        """Record that the answer failed after its first chunk, and add what had come to `error`."""
        self._permit = None
        endpoint, strand, usage = self._endpoint, self._strand, self._reader.usage
        error.partial = self._reader.partial()
        error.attempts = self._attempts
        error.message += "; the answer broke off, and `partial` has what had come of it"
        error.args = (error.message, *error.args[1:])
        if usage is not None:
            strand.item.add_usage(usage, endpoint._model)
        endpoint._settle(permit, usage)
        endpoint._failed(error, permit, strand)

    async def _drain(self) -> None:
        """Receive the end of the body behind a complete answer, so that the connection can be used again."""
        response = self._response
        if response is None:
            return
        try:
            with anyio.move_on_after(_LAST_WAIT):
                while not self._received and await response.receive():
                    pass
        except ProviderError:
            pass  # the answer is complete
        finally:
            await self._close()


async def _beginning(response: ResponseStream) -> bytes:
    """Return the beginning of a body, with a character that is not blank, or all of a shorter one."""
    start = b""
    while not start.lstrip(_BLANKS) and len(start) <= _MOST_BLANK and (piece := await response.receive()):
        start += piece
    return start
