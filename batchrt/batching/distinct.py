"""Inputs of lists: equal ones are sent once, and each of them has the result.

The driver for inputs that do nothing but go through a `ListCall`: `Bulk` and the matrices of embeddings are
built on it. Items that arrive at a step in a chain are micro-batched instead.
"""

from __future__ import annotations

from array import array
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Hashable,
    Iterable,
    Iterator,
    Sequence,
)
from dataclasses import replace
from operator import itemgetter
from typing import Any, Final, TypeAlias

from batchrt.batching.list_call import Give, ListCall, Part, carry, pack
from batchrt.config import RunConfig
from batchrt.runtime.event_loop import OwnTask
from batchrt.runtime.strand import Strand

__all__ = [
    "UNBOUNDED_LIST",
    "DistinctInputs",
    "Examined",
    "ListBuffer",
    "Send",
    "examiner",
    "read_lists",
    "read_lists_async",
]

UNBOUNDED_LIST: Final = 2048
"""Inputs of an async iterable that make a list where nothing bounds lists."""

Send: TypeAlias = "Callable[[list[int], Strand], Awaitable[Sequence[Any]]]"
"""Sends the values of these numbers as one list, and returns their results."""

Examined: TypeAlias = "tuple[Any, float, Exception | None]"
"""A value to send and its cost, or the error of an input that is wrong by itself."""


def examiner(
    call: ListCall, config: RunConfig, before: Callable[[Any], Any] | None = None
) -> Callable[[Any], Examined]:
    """Return a function that examines one input.

    Args:
        call: sends the values.
        config: the inputs' configuration.
        before: applied to each input first; may raise the input's own error.
    """
    prepare, cost = call.prepare, call.cost
    configured = call.configured

    def examine(value: Any) -> Examined:
        try:
            if before is not None:
                value = before(value)
            if prepare is not None:
                value = prepare(value)
            if configured:
                value = (value, config)
            return value, 0.0 if cost is None else cost(value), None
        except Exception as error:  # noqa: BLE001  this input's outcome
            return None, 0.0, error

    return examine


class DistinctInputs:
    """Keep inputs, the distinct values among them, and which values have their results.

    Inputs are told apart by `ListCall.key`; without one all are distinct. An input's *place* is its position
    among all inputs here, a value's *number* its position among the distinct ones. Columns of numbers, and no
    object for each input: a matrix has millions of rows.

    Args:
        call: sends the values.
        start: the place of the first input among those of the whole run.

    Attributes:
        start: as it was given.
        count: how many inputs there are; the next one's place.
        values: the distinct values, in the order of their first inputs.
        places: the place of each value's first input.
        copies: the places of the other inputs that have the value, by its number; for most there are none.
        errors: the errors of inputs that are wrong by themselves, by their places.
    """

    def __init__(self, call: ListCall, *, start: int = 0) -> None:
        self.start: int = start
        self.count: int = 0
        self.values: list[Any] = []
        self.places: array[int] = array("q")
        self.copies: dict[int, list[int]] = {}
        self.errors: dict[int, Exception] = {}
        self._call = call
        self._costs: array[float] = array("d")
        self._known: dict[Hashable, int] = {}
        self._pending = bytearray()

    def extend(self, examined: Iterable[Examined]) -> int:
        """Take further inputs in, and return how many these were."""
        key, known = self._call.key, self._known
        values, places, costs = self.values, self.places, self._costs
        first = place = self.count
        for value, cost, error in examined:
            if error is not None:
                self.errors[place] = error
            elif key is not None and (number := known.setdefault(key(value), len(values))) < len(values):
                self.copies.setdefault(number, []).append(place)
            else:
                values.append(value)
                places.append(place)
                costs.append(cost)
            place += 1
        self.count = place
        return place - first

    def seal(self) -> None:
        """Free the memory that only telling equal inputs apart needs."""
        self._known = {}

    def numbers(self) -> range:
        """Return the numbers of all values."""
        return range(len(self.values))

    def lists(self) -> Iterator[range]:
        """Yield the numbers of values that go in one list, lazily; see `pack`."""
        for numbers in pack(self.numbers(), self._by_number(self._send)):
            yield range(numbers[0], numbers[-1] + 1)

    async def carry(
        self,
        numbers: range,
        strand: Strand,
        give: Give,
        *,
        own: OwnTask | None = None,
        send: Send | None = None,
    ) -> None:
        """Carry values through as one list; see `list_call.carry`.

        Args:
            numbers: of the values, which follow one another.
            strand: holds a slot, or takes one.
            give: is given each part once, its start and stop being numbers.
            own: see `list_call.carry`.
            send: sends a list, if not the `ListCall` itself.
        """

        def give_numbered(part: Part) -> None:
            part = part.moved(numbers.start)
            self._pending[part.start : part.stop] = bytes(part.stop - part.start)
            give(part)

        self._pending.extend(b"\1" * (len(self.values) - len(self._pending)))
        if numbers:
            await carry(self._by_number(send or self._send), numbers, strand, give_numbered, own)

    def costs(self, part: Part) -> Sequence[float]:
        """Return the cost of each value of a part."""
        return self._costs[part.start : part.stop]

    def places_of(self, number: int) -> Sequence[int]:
        """Return the places of all inputs that have a value."""
        first = self.places[number]
        return (first, *self.copies[number]) if number in self.copies else (first,)

    def unfinished(self, numbers: range) -> list[int]:
        """Return those of the numbers whose values have neither a result nor an error."""
        pending = self._pending
        return [number for number in numbers if number >= len(pending) or pending[number]]

    def count_unfinished(self, numbers: range) -> int:
        """Return how many inputs have those of the values that have neither a result nor an error."""
        if self.copies:
            return sum(1 + len(self.copies.get(number, ())) for number in self.unfinished(numbers))
        unknown = len(range(max(numbers.start, len(self._pending)), numbers.stop))
        return unknown + self._pending.count(1, numbers.start, numbers.stop)

    async def _send(self, numbers: list[int], strand: Strand) -> Sequence[Any]:
        values = self.values
        return await self._call.call([values[number] for number in numbers], strand)

    def _by_number(self, send: Send) -> ListCall:
        cost = None if self._call.cost is None else self._costs.__getitem__
        return replace(self._call, call=send, cost=cost)


def read_lists(call: ListCall, examined: Iterable[Examined], start: int = 0) -> Iterator[DistinctInputs]:
    """Yield inputs in lists as long as the limits allow, lazily; `start` is the first one's place.

    Equal inputs of one list are sent once. They count towards its length all the same, and so do inputs that
    are wrong by themselves: a list holds a bounded number of inputs.
    """
    for packed in pack(examined, replace(call, cost=None if call.cost is None else itemgetter(1))):
        inputs = DistinctInputs(call, start=start)
        start += inputs.extend(packed)
        inputs.seal()
        yield inputs


class ListBuffer:
    """Buffer inputs that arrive one at a time until there are full lists of them.

    Args:
        call: says how long a list may be.

    Attributes:
        waiting: the inputs that are in no list yet.
    """

    def __init__(self, call: ListCall) -> None:
        self._call = call
        self._start = 0
        self.waiting: list[Examined] = []

    @property
    def full(self) -> bool:
        """Whether there is at least one full list."""
        return len(self.waiting) >= self._most

    @property
    def _most(self) -> int:
        return self._call.limits().size or UNBOUNDED_LIST

    def take(self, *, rest: bool) -> list[DistinctInputs]:
        """Return the full lists; with `rest`, also the last one that is not full."""
        lists = list(read_lists(self._call, self.waiting, self._start))
        if rest or (lists and lists[-1].count >= self._most):
            self.waiting.clear()
        elif lists:  # the last one has room
            del self.waiting[: -lists.pop().count]
        self._start += sum(inputs.count for inputs in lists)
        return lists


async def read_lists_async(
    call: ListCall, examine: Callable[[Any], Examined], inputs: AsyncIterable[Any]
) -> AsyncIterator[DistinctInputs]:
    """Do what `read_lists` does for an async iterable; a generator is closed here too.

    A list waits until it is full, however long that takes. The inputs are pulled in the caller's task, which
    costs less than pulling them in one of its own, as `ListInput` does.
    """
    source, buffer, ended = aiter(inputs), ListBuffer(call), False
    try:
        while not ended:
            try:
                while not buffer.full:
                    buffer.waiting.append(examine(await anext(source)))
            except StopAsyncIteration:
                ended = True
            for each in buffer.take(rest=ended):
                yield each
    finally:
        if isinstance(source, AsyncGenerator):
            await source.aclose()
