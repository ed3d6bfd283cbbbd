"""Kept answers: those of identical requests, from the response cache or from a request in flight."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from batchrt.config import cache_of
from batchrt.messages import AIMessage, Usage
from batchrt.providers.choices import ENDED
from batchrt.runnables.chunk_sums import sum_of
from batchrt.runtime.event_loop import Signal
from batchrt.runtime.joint_spending import part_of
from batchrt.runtime.side_stream import Closing

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from batchrt.response_cache import ResponseCache
    from batchrt.runtime.step import Produce
    from batchrt.runtime.strand import Strand

__all__ = ["KeptAnswers", "decode_message", "encode_message"]

T = TypeVar("T")

_KEY_BYTES: Final = 24
"""Bytes of a digest: answers are handed out by it alone, so that not even an attacker's two requests may have
the same one."""
_WHOLE: Final = ENDED | {"tool_calls", "function_call"}
"""Values of `finish_reason` for an answer that is complete."""


class _Flight(Generic[T]):
    """A request in flight, and the strands that wait for its answer."""

    __slots__ = ("answer", "waiting")

    def __init__(self) -> None:
        self.answer: T | None = None
        self.waiting: list[Signal] = []

    def land(self) -> None:
        for signal in self.waiting:
            signal.set()


class KeptAnswers(Generic[T]):
    """Answer requests from a response cache, and keep their answers.

    The key of an answer is a digest of the address and of the body that the request has if it is sent by
    itself. So a list is answered part by part, and an answer that came in a list serves single requests too.

    Args:
        family: tells apart kinds of answers, and whatever else the answers depend on.
        url: the address of single requests.
        encode: turns an answer into bytes; `None` for one that is not to be kept.
        decode: turns them back, into an answer that was not billed.
        model: the name for the bills.
    """

    def __init__(
        self,
        family: str,
        url: str,
        encode: Callable[[T], bytes | None],
        decode: Callable[[bytes], T],
        *,
        model: str,
    ) -> None:
        self._start = blake2b(f"{family}\n{url}\n".encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES)
        self._encode = encode
        self._decode = decode
        self._model = model

    def key(self, body: bytes) -> bytes:
        """Return the key of the answer to a request with this body."""
        digest = self._start.copy()
        digest.update(body)
        return digest.digest()

    async def one(
        self, kept: ResponseCache, body: bytes, strand: Strand, ask: Callable[[], Awaitable[T]]
    ) -> T:
        """Return the answer to a request: a kept one, that of an equal request in flight, or that of `ask`.

        An equal request is waited for without a slot, and only on one event loop, which it cannot block. If
        it fails or is cancelled, each request that has waited for it is sent.
        """
        key = self.key(body)
        answer = self._look(kept, key)
        if answer is None:
            assert strand.run.loop is not None
            place = (key, strand.run.loop.token)
            flight: _Flight[T] | None = kept.flights.get(place)
            if flight is None:
                return await self._fly(kept, place, ask)
            answer = await self._join(flight, strand)
            if answer is None:
                return await ask()
            encoded = self._encode(answer)
            answer = answer if encoded is None else self._decode(encoded)
        self._count(strand)
        return answer

    def streamed(
        self,
        produce: Produce,
        body_of: Callable[[Any], bytes],
        chunk_of: Callable[[T], Any],
        whole_of: Callable[[Any], T],
    ) -> Produce:
        """Return `produce` with a response cache before it.

        A kept answer is one chunk. A stream that comes to its end is kept under the key of the same request
        unstreamed; one that fails or is closed before is not, and none is shared while it is in flight.

        Args:
            produce: streams the answer to an input; see `Step`.
            body_of: returns the body of the request for a whole answer.
            chunk_of: returns an answer as its only chunk.
            whole_of: returns the answer that the sum of its chunks stands for.
        """

        def kept_or_produced(value: Any, strand: Strand) -> AsyncIterator[Any]:
            kept = cache_of(strand.config)
            return produce(value, strand) if kept is None else looked_up(kept, value, strand)

        async def looked_up(kept: ResponseCache, value: Any, strand: Strand) -> AsyncIterator[Any]:
            key = self.key(body_of(value))
            answer = self._look(kept, key)
            if answer is not None:
                self._count(strand)
                yield chunk_of(answer)
                return
            chunks, received = produce(value, strand), list[Any]()
            async with Closing(chunks):
                async for chunk in chunks:
                    received.append(chunk)
                    yield chunk
            if received:
                self._keep(kept, key, whole_of(sum_of(received)))

        return kept_or_produced

    def _count(self, strand: Strand) -> None:
        strand.item.add_usage(Usage(), self._model)
        strand.run.counts.add(cached=1)

    async def _fly(
        self, kept: ResponseCache, place: tuple[bytes, object], ask: Callable[[], Awaitable[T]]
    ) -> T:
        flight = kept.flights[place] = _Flight[T]()
        try:
            answer = flight.answer = await ask()
            self._keep(kept, place[0], answer)
        finally:
            del kept.flights[place]
            flight.land()
        return answer

    async def _join(self, flight: _Flight[T], strand: Strand) -> T | None:
        """Wait for a request in flight, and return its answer if it has one."""
        signal = Signal()
        flight.waiting.append(signal)
        strand.wait_throttled()
        try:
            await signal.wait()
        finally:
            strand.release()
        return flight.answer

    async def many(
        self,
        kept: ResponseCache,
        bodies: Sequence[bytes],
        strand: Strand,
        ask: Callable[[list[int]], Awaitable[Sequence[Any]]],
    ) -> list[Any]:
        """Return the answers of a list, those that are not kept from `ask`, which gets their places.

        An answer that is an exception is that part's error. The tokens billed for the others are divided
        among all parts of the list.
        """
        keys = list(map(self.key, bodies))
        answers: list[Any] = [self._look(kept, key) for key in keys]
        missing = [place for place, answer in enumerate(answers) if answer is None]
        found = len(keys) - len(missing)
        if found:
            strand.item.add_usage(Usage(), self._model)
            # What is not sent is no part of the list that the caller counts.
            strand.run.counts.add(cached=found, list_inputs=-found, lists=0 if missing else -1)
        if missing:
            payer, strand.spending = strand.spending, part_of(strand.spending, bodies, missing)
            try:
                sent = await ask(missing)
            finally:
                strand.spending = payer
            for place, answer in zip(missing, sent, strict=True):
                answers[place] = answer
                if not isinstance(answer, Exception):
                    self._keep(kept, keys[place], answer)
        return answers

    def forget(self, kept: ResponseCache, body: bytes) -> None:
        """Forget the answer to a request, which turned out to be unusable."""
        kept.discard(self.key(body))

    def _look(self, kept: ResponseCache, key: bytes) -> T | None:
        encoded = kept.get(key)
        if encoded is None:
            return None
        try:
            return self._decode(encoded)
        except ValueError:  # of another version of this package
            return None

    def _keep(self, kept: ResponseCache, key: bytes, answer: T) -> None:
        encoded = self._encode(answer)
        if encoded is not None:
            kept.put(key, encoded)


@cache
def _messages() -> TypeAdapter[AIMessage]:
    from pydantic import TypeAdapter

    return TypeAdapter(AIMessage)


def encode_message(message: AIMessage) -> bytes | None:
    """Return a message as JSON; `None` for one that was cut off or is a refusal."""
    reason = message.finish_reason
    if message.refusal is not None or (reason is not None and reason.lower() not in _WHOLE):
        return None
    try:
        return _messages().dump_json(message, exclude={"usage", "role"}, exclude_defaults=True)
    except ValueError:  # half a surrogate pair
        return None


def decode_message(encoded: bytes) -> AIMessage:
    """Return the message; it was not billed again."""
    return replace(_messages().validate_json(encoded), usage=Usage())
