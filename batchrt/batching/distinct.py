"""Inputs of lists: equal ones are sent once, and each of them has the result.

The one way from inputs to a `ListCall` where nothing has to wait for an input's turn: `Bulk` and the
matrices of embeddings are built on it. Items that meet in a chain are micro-batched instead.
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
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Any, Final, TypeAlias

import anyio

from batchrt.batching.list_call import Give, ListCall, Part, carry, pack
from batchrt.config import RunConfig
from batchrt.runtime.async_input import AsyncInput
from batchrt.runtime.event_loop import OwnTask
from batchrt.runtime.run import Strand

__all__ = ["UNBOUNDED_LIST", "DistinctInputs", "Send", "read_lists", "read_lists_async"]

UNBOUNDED_LIST: Final = 2048
"""Inputs of an async iterable that make a list where nothing bounds lists."""

Send: TypeAlias = "Callable[[list[int], Strand], Awaitable[Sequence[Any]]]"
"""Sends the values of these numbers as one list, and returns their results."""

_Examined: TypeAlias = "tuple[Any, float, Exception | None]"
"""A value to send, its cost, and the error of an input that is wrong by itself."""


def _examined(call: ListCall, config: RunConfig, value: Any) -> _Examined:
    try:
        value = call.queued(value, config)
        return value, 0.0 if call.cost is None else call.cost(value), None
    except Exception as error:  # noqa: BLE001  this input's outcome
        return None, 0.0, error


class DistinctInputs:
    """Keep inputs, the distinct values among them, and which values have their results.

    Inputs are told apart by `ListCall.key`; without one all are distinct. An input's *place* is its position
    among all inputs here, a value's *number* its position among the distinct ones. Columns of numbers, and no
    object for each input: a matrix has millions of rows.

    Args:
        call: sends the values.
        config: the inputs' configuration.
        start: the place of the first input among those of the whole run.

    Attributes:
        start: as it was given.
        count: how many inputs there are; the next one's place.
        values: the distinct values, in the order of their first inputs.
        places: the place of each value's first input.
        copies: the places of the other inputs that have the value, by its number; for most there are none.
        errors: the errors of inputs that are wrong by themselves, by their places.
    """

    def __init__(self, call: ListCall, config: RunConfig, *, start: int = 0) -> None:
        self.start: int = start
        self.count: int = 0
        self.values: list[Any] = []
        self.places: array[int] = array("q")
        self.copies: dict[int, list[int]] = {}
        self.errors: dict[int, Exception] = {}
        self._call = call
        self._config = config
        self._key = call.key
        self._costs: array[float] = array("d")
        self._known: dict[Hashable, int] = {}
        self._pending = bytearray()

    def add(self, value: Any) -> None:
        """Take one more input in."""
        self._add(_examined(self._call, self._config, value))

    def _add(self, examined: _Examined) -> None:
        value, cost, error = examined
        place = self.count
        self.count += 1
        if error is not None:
            self.errors[place] = error
            return
        if self._key is not None:
            number = self._known.setdefault(self._key(value), len(self.values))
            if number < len(self.values):
                self.copies.setdefault(number, []).append(place)
                return
        self.values.append(value)
        self.places.append(place)
        self._costs.append(cost)
        self._pending.append(1)

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

        if numbers:
            await carry(self._by_number(send or self._send), numbers, strand, give_numbered, own)

    def costs(self, part: Part) -> Sequence[float]:
        """Return what each value of a part adds to its list's cost."""
        return self._costs[part.start : part.stop]

    def places_of(self, number: int) -> Iterator[int]:
        """Yield the places of all inputs that have a value."""
        yield self.places[number]
        yield from self.copies.get(number, ())

    def unfinished(self, numbers: range) -> list[int]:
        """Return those of the numbers whose values have neither a result nor an error."""
        return [number for number in numbers if self._pending[number]]

    async def _send(self, numbers: list[int], strand: Strand) -> Sequence[Any]:
        values = self.values
        return await self._call.call([values[number] for number in numbers], strand)

    def _by_number(self, send: Send) -> ListCall:
        cost = None if self._call.cost is None else self._costs.__getitem__
        return replace(self._call, call=send, cost=cost)


class _Packer:
    """Make `DistinctInputs` of each list of inputs that were read.

    Args:
        call: says how long a list may be.
        config: the inputs' configuration.
    """

    def __init__(self, call: ListCall, config: RunConfig) -> None:
        self._packing = replace(call, cost=None if call.cost is None else itemgetter(1))
        self._new = partial(DistinctInputs, call, config)
        self._start = 0

    def pack(self, examined: Iterable[_Examined]) -> Iterator[list[_Examined]]:
        return pack(examined, self._packing)

    def list_of(self, packed: list[_Examined]) -> DistinctInputs:
        inputs = self._new(start=self._start)
        for each in packed:
            inputs._add(each)
        inputs.seal()
        self._start += inputs.count
        return inputs


def read_lists(call: ListCall, config: RunConfig, inputs: Iterable[Any]) -> Iterator[DistinctInputs]:
    """Yield inputs in lists as long as the limits allow, lazily; equal ones of one list are sent once."""
    packer = _Packer(call, config)
    return map(packer.list_of, packer.pack(map(partial(_examined, call, config), inputs)))


async def read_lists_async(
    call: ListCall, config: RunConfig, inputs: AsyncIterable[Any], *, patience: float | None = None
) -> AsyncGenerator[DistinctInputs]:
    """Do what `read_lists` does for an async iterable; a generator is closed here.

    Args:
        call: sends the lists.
        config: the inputs' configuration.
        inputs: pulled in the caller's task; with `patience`, in a task of their own.
        patience: seconds that a list waits for more inputs after it has one, where they may be long in
            coming; `None` to wait until it is full.
    """
    packer, waiting = _Packer(call, config), list[_Examined]()
    ended, failure = False, None
    async with _pulling(inputs, interruptible=patience is not None) as pull:
        while not (ended or failure):
            goes = True  # a list that is not full, because it is the last one or has waited long enough
            try:
                if not waiting:
                    waiting.append(_examined(call, config, await pull()))
                with anyio.move_on_after(patience):
                    while len(waiting) < (call.limits().size or UNBOUNDED_LIST):
                        waiting.append(_examined(call, config, await pull()))
                    goes = False
            except StopAsyncIteration:
                ended = True
            except Exception as error:  # noqa: BLE001  raised below: a task group would wrap it
                failure = error
                continue
            *lists, last = [*packer.pack(waiting)] or [[]]
            goes = goes or len(last) == call.limits().size
            waiting = [] if goes else last
            for packed in [*lists, last] if goes and last else lists:
                yield packer.list_of(packed)
    if failure is not None:
        raise failure


@asynccontextmanager
async def _pulling(
    inputs: AsyncIterable[Any], *, interruptible: bool
) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    """Give a function that pulls the next input; `interruptible`: one that loses none if it is cancelled."""
    source = aiter(inputs)
    if interruptible:
        feeder = AsyncInput(source)
        async with anyio.create_task_group() as group:
            group.start_soon(feeder.run)
            try:
                yield feeder.get
            finally:
                await feeder.end()
        return
    try:
        yield source.__anext__
    finally:
        if isinstance(source, AsyncGenerator):
            await source.aclose()
