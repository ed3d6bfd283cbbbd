"""Inputs for a step that does nothing but take lists: packed and sent as they are.

No input waits for others to arrive, so that there is no task and no queue for each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, Final, NamedTuple, TypeAlias, cast

import anyio
import anyio.lowlevel

from batchrt.batching.distinct import (
    UNBOUNDED_LIST,
    DistinctInputs,
    Examined,
    ListBuffer,
    examiner,
    read_lists,
)
from batchrt.batching.list_call import Limits, ListCall, Part, share_bills
from batchrt.config import RunConfig
from batchrt.errors import SpendingLimitError
from batchrt.runtime.async_input import AsyncInput, is_iterable
from batchrt.runtime.event_loop import OwnTask
from batchrt.runtime.exception_notes import add_note
from batchrt.runtime.item import Item
from batchrt.runtime.step import Step, StepCall
from batchrt.runtime.strand import Strand

__all__ = ["Bulk", "BulkList"]

Put: TypeAlias = "Callable[[Item, Any, Exception | None], object]"

_STRIDE: Final = 1000
"""Inputs to take in between checkpoints: a millisecond or two."""

PATIENCE: Final = 1.0
"""Seconds that a list of async inputs waits for more after its first one: they may never come."""


class BulkList(NamedTuple):
    """Name the values of one list, by their numbers among the values of `inputs`."""

    inputs: DistinctInputs
    numbers: range


class Bulk:
    """Carry inputs through a `ListCall` in a run whose items are lists.

    Either all inputs are known (`look_at`, then `lists`) and equal ones are sent once, or they are pulled as
    lists are asked for (`pack`), and equal ones of one list are sent once.

    Args:
        call: sends the lists.
        config: the items' configuration.
        put: is given each input's outcome.
        fail_fast: raise the first error instead of putting it.
        parent: the item this is nested in.
        before: an inline step's call, applied to each input first.

    Attributes:
        ended: the spending limit that was reached before all lists were sent, if any.
        pulled: how many inputs were taken in.
    """

    def __init__(
        self,
        call: ListCall,
        config: RunConfig,
        put: Put,
        *,
        fail_fast: bool,
        parent: Item | None,
        before: StepCall | None = None,
    ) -> None:
        self._call = call
        self._examine = examiner(call, config, None if before is None else _numbered(before))
        self._put = put
        self._fail_fast = fail_fast
        self._parent = parent
        self._inputs = DistinctInputs(call)
        self._carried: dict[int, BulkList] = {}
        self.ended: SpendingLimitError | None = None
        self.pulled: int = 0

    async def look_at(self, inputs: Iterable[Any]) -> int:
        """Take all inputs in and return how many there are.

        Raises:
            Exception: the error of the first input that is wrong by itself, if `fail_fast`.
        """
        distinct, examined = self._inputs, map(self._examine, iter(inputs))
        while distinct.extend(islice(examined, _STRIDE)):
            self._put_errors(distinct)
            await anyio.lowlevel.checkpoint()
        distinct.seal()
        self.pulled = distinct.count
        return self.pulled

    def lists(self) -> Iterator[BulkList]:
        """Yield the run's items: lists of the inputs that were taken in."""
        return (BulkList(self._inputs, numbers) for numbers in self._inputs.lists())

    def pack(self, inputs: Iterable[Any] | AsyncIterable[Any]) -> Iterator[BulkList] | AsyncInput:
        """Return the run's items: lists of `inputs`, which are pulled as lists are asked for.

        The errors of inputs that are wrong by themselves are put when their list is carried.
        """
        if not is_iterable(inputs):
            return ListInput(aiter(cast("AsyncIterable[Any]", inputs)), self)
        return map(_whole, read_lists(self.bounded(), map(self.take_in, inputs)))

    def take_in(self, value: Any) -> Examined:
        """Examine the next input that was pulled."""
        self.pulled += 1
        return self._examine(value)

    def bounded(self) -> ListCall:
        """Return the call, with a bound for lists that have none."""
        limits = self._call.limits
        return replace(self._call, limits=lambda: Limits(limits().size or UNBOUNDED_LIST, limits().cost))

    @property
    def step(self) -> Step:
        """The run's step."""
        return Step(self._carry)

    def end_list(self, index: int, error: Exception | None) -> int:
        """End the list at `index` and return how many inputs it has; those without an outcome get `error`."""
        inputs, numbers = self._carried.pop(index)
        if error is not None:
            for number in inputs.unfinished(numbers):
                for place in inputs.places_of(number):
                    self._put(Item(inputs.start + place, self._parent), None, error)
        return inputs.count

    def unsettled(self, index: int) -> int:
        """Return how many inputs of the list at `index`, if it was begun, have no outcome yet."""
        if index not in self._carried:
            return 0
        inputs, numbers = self._carried[index]
        return inputs.count_unfinished(numbers)

    async def _carry(self, bulk_list: BulkList, strand: Strand) -> None:
        inputs, started = bulk_list.inputs, anyio.current_time()
        if inputs is not self._inputs:
            self._carried[strand.item.index] = bulk_list
            self._put_errors(inputs)
        give = partial(self._give, inputs, started)
        await inputs.carry(bulk_list.numbers, strand, give, own=OwnTask())

    def _put_errors(self, inputs: DistinctInputs) -> None:
        """Put the errors of inputs that are wrong by themselves."""
        errors, inputs.errors = inputs.errors, {}
        for place, error in errors.items():
            self._fail(Item(inputs.start + place, self._parent), error)

    def _give(self, inputs: DistinctInputs, started: float, part: Part) -> None:
        shares, finished = share_bills(part.book, inputs.costs(part)), anyio.current_time()
        for number, result, share in zip(range(part.start, part.stop), part.each(), shares, strict=True):
            for place in inputs.places_of(number):
                item = Item(inputs.start + place, self._parent)
                item.retries, item.started, item.finished = part.book.retries, started, finished
                item.request_seconds = part.book.request_seconds
                if place == inputs.places[number]:  # billed once, however many inputs there are
                    item.add_bills(share)
                self._put_result(item, result)

    def _put_result(self, item: Item, result: Any) -> None:
        output, error = result, None
        try:
            if isinstance(result, BaseException):
                raise BaseException.with_traceback(result, None)
            if self._call.finish is not None:
                output = self._call.finish(result)
        except Exception as failure:  # noqa: BLE001  this item's outcome
            output, error = None, failure
        if error is None:
            self._put(item, output, None)
        else:
            self._fail(item, error)

    def _fail(self, item: Item, error: Exception) -> None:
        if issubclass(type(error), SpendingLimitError):
            # An end, and not a failure: requests in flight are finished.
            self.ended = cast("SpendingLimitError", error)
            self.ended.started = True
        elif self._fail_fast:
            add_note(error, f"batchrt: item {item.index} failed; the rest was cancelled")
            raise error
        self._put(item, None, error)


class ListInput(AsyncInput):
    """Hand out lists of the values of an async source, which may be long in coming.

    A list is handed out when it is full, when the source ends, or `PATIENCE` seconds after its first value.
    """

    def __init__(self, source: AsyncIterator[Any], bulk: Bulk) -> None:
        super().__init__(source)
        self._examine = bulk.take_in
        self._buffer = ListBuffer(bulk.bounded())
        self._full: deque[BulkList] = deque()
        self._over = self._stopped = False

    async def peek(self) -> BulkList:
        """Return the next list, and keep it until `take`."""
        while not (self._full or self._over):
            await self._gather()
        if self._stopped or not self._full:
            raise StopAsyncIteration
        return self._full[0]

    def take(self) -> None:
        """Let the next list follow."""
        self._full.popleft()

    def stop(self) -> None:
        """Have the source end, without the lists that were not taken."""
        self._stopped = self._over = True
        super().stop()

    async def _gather(self) -> None:
        """Wait until a list is full, the source ends, or a list has waited long enough."""
        buffer, due = self._buffer, True
        try:
            if not buffer.waiting:
                await self._pull()
            with anyio.move_on_after(PATIENCE):
                while not buffer.full:
                    await self._pull()
                due = False
        except StopAsyncIteration:
            self._over = True
        self._full.extend(map(_whole, buffer.take(rest=due)))

    async def _pull(self) -> None:
        value = await super().peek()
        super().take()
        self._buffer.waiting.append(self._examine(value))


class _Place:
    """Stand in for the strand of an input that an inline step is called with."""

    def __init__(self) -> None:
        self.item = Item(0)


def _numbered(before: StepCall) -> Callable[[Any], Any]:
    """Return an inline step as a function of the inputs, one after the other."""
    place = _Place()

    def apply(value: Any) -> Any:
        try:
            return before(value, cast("Strand", place))
        finally:
            place.item.index += 1

    return apply


def _whole(inputs: DistinctInputs) -> BulkList:
    return BulkList(inputs, inputs.numbers())
