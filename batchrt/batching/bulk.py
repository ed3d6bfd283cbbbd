"""Inputs for a step that does nothing but take lists: packed and sent as they are.

No input waits for others to arrive, so that there is no task and no queue for each.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, cast

import anyio
import anyio.lowlevel

from batchrt.batching.distinct import DistinctInputs, read_lists, read_lists_async
from batchrt.batching.list_call import ListCall, Part, share_bills
from batchrt.config import RunConfig
from batchrt.errors import SpendingLimitError
from batchrt.runtime.event_loop import OwnTask
from batchrt.runtime.exception_notes import add_note
from batchrt.runtime.run import Item, Step, Strand

__all__ = ["Bulk", "BulkList"]

Put: TypeAlias = "Callable[[Item, Any, Exception | None], object]"

_STRIDE: Final = 1000
"""Inputs to take in between checkpoints: a millisecond or two."""


class BulkList(NamedTuple):
    """Name the values of one list, by their numbers among the values of `inputs`."""

    inputs: DistinctInputs
    numbers: range


class Bulk:
    """Carry inputs through a `ListCall` in a run whose items are lists.

    Either all inputs are known (`look_at`, then `lists`) and equal ones are sent once, or they are read while
    lists are sent (`read`), and equal ones of one list are sent once.

    Args:
        call: what takes the lists.
        config: the items' configuration.
        put: is given each input's outcome.
        fail_fast: raise the first error instead of putting it.
        parent: the item this is nested in.

    Attributes:
        ended: why not all lists were sent, if the run had spent what it may.
    """

    def __init__(
        self, call: ListCall, config: RunConfig, put: Put, *, fail_fast: bool, parent: Item | None
    ) -> None:
        self._call = call
        self._config = config
        self._put = put
        self._fail_fast = fail_fast
        self._parent = parent
        self._inputs = DistinctInputs(call, config)
        self.ended: SpendingLimitError | None = None

    async def look_at(self, inputs: Iterable[Any]) -> int:
        """Take all inputs in and return how many there are.

        Raises:
            Exception: the error of the first input that is wrong by itself, if `fail_fast`.
        """
        distinct = self._inputs
        for place, value in enumerate(inputs):
            if place % _STRIDE == 0:
                await anyio.lowlevel.checkpoint()
            distinct.add(value)
            if distinct.errors:
                self._fail(place, distinct.errors.pop(place))
        distinct.seal()
        return distinct.count

    def lists(self) -> Iterator[BulkList]:
        """Yield the run's items: lists of the inputs that were taken in."""
        return (BulkList(self._inputs, numbers) for numbers in self._inputs.lists())

    def read(
        self, inputs: Iterable[Any] | AsyncIterable[Any], *, patience: float | None = None
    ) -> Iterator[BulkList] | AsyncIterator[BulkList]:
        """Return the run's items, read lazily from `inputs`; for `patience` see `read_lists_async`.

        The errors of inputs that are wrong by themselves are put when their list is carried.
        """
        if isinstance(inputs, AsyncIterable):
            return self._read_async(inputs, patience)
        return map(_whole, read_lists(self._call, self._config, inputs))

    async def _read_async(
        self, inputs: AsyncIterable[Any], patience: float | None
    ) -> AsyncIterator[BulkList]:
        lists = read_lists_async(self._call, self._config, inputs, patience=patience)
        try:
            async for each in lists:
                yield _whole(each)
        finally:
            await lists.aclose()

    @property
    def step(self) -> Step:
        """The run's step."""
        return Step(self._carry)

    def fail_rest(self, bulk_list: BulkList, error: Exception) -> None:
        """Put `error` for the inputs of a list that have no outcome yet."""
        inputs, numbers = bulk_list.inputs, bulk_list.numbers
        self._put_errors(inputs)
        for number in inputs.unfinished(numbers):
            for place in inputs.places_of(number):
                self._fail(inputs.start + place, error)

    async def _carry(self, bulk_list: BulkList, strand: Strand) -> None:
        inputs, started = bulk_list.inputs, anyio.current_time()
        self._put_errors(inputs)
        give = partial(self._give, inputs, started)
        await inputs.carry(bulk_list.numbers, strand, give, own=OwnTask())

    def _put_errors(self, inputs: DistinctInputs) -> None:
        while inputs.errors:
            place = next(iter(inputs.errors))
            self._fail(inputs.start + place, inputs.errors.pop(place))

    def _give(self, inputs: DistinctInputs, started: float, part: Part) -> None:
        shares = share_bills(part.book, inputs.costs(part))
        for number, result, bills in zip(range(part.start, part.stop), part.each(), shares, strict=True):
            share = bills
            for place in inputs.places_of(number):
                item = Item(inputs.start + place, self._parent)
                item.retries, item.started, item.finished = part.book.retries, started, anyio.current_time()
                item.request_seconds = part.book.request_seconds
                item.add_bills(share)
                share = None  # billed once, however many inputs there are
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
            self._fail(item.index, error, item)

    def _fail(self, place: int, error: Exception, item: Item | None = None) -> None:
        if issubclass(type(error), SpendingLimitError):
            # An end, and not a failure: requests in flight are finished.
            self.ended = cast("SpendingLimitError", error)
            self.ended.started = True
        elif self._fail_fast:
            add_note(error, f"batchrt: item {place} failed; the rest was cancelled")
            raise error
        self._put(item or Item(place, self._parent), None, error)


def _whole(inputs: DistinctInputs) -> BulkList:
    return BulkList(inputs, inputs.numbers())
