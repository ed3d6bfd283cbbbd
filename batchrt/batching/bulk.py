"""Lists made of a run's inputs, for a step that does nothing but take lists.

Items do not have to meet, so there is neither a task nor a queue for each of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, cast

import anyio
import anyio.lowlevel

from batchrt.batching.list_call import Limits, ListCall, Part, carry, pack, share_bills
from batchrt.config import RunConfig
from batchrt.errors import SpendingLimitError
from batchrt.runtime.async_input import AsyncInput, is_iterable
from batchrt.runtime.event_loop import OwnTask
from batchrt.runtime.exception_notes import add_note
from batchrt.runtime.item import Item
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand

__all__ = ["Bulk"]

Put: TypeAlias = "Callable[[Item, Any, Exception | None], object]"

_STRIDE: Final = 1000
"""Inputs to look at between checkpoints: a millisecond or two."""

_UNBOUNDED: Final = 2048
"""Inputs that make a list, of those that are pulled as they are needed, where the step sets no bound."""

_LINGER: Final = 1.0
"""Seconds that a list of async inputs waits to be filled, after its first one: more may never come."""


class _Entry(NamedTuple):
    """A value to send, what it costs, and the places of the inputs that are equal to it."""

    value: Any
    cost: float
    places: list[int]
    key: Hashable | None = None
    error: Exception | None = None

    @property
    def place(self) -> int:
        """The place of the first of them, whose entry it was made for."""
        return self.places[0]


class Bulk:
    """Carry inputs through a `ListCall` in a run whose items are lists.

    Args:
        call: what takes the lists.
        config: the items' configuration.
        put: is given each input's outcome.
        fail_fast: raise the first error instead of putting it.
        parent: the item this is nested in.

    Attributes:
        ended: why not all lists were sent, if the run had spent what it may.
        pulled: how many inputs were taken in.
    """

    def __init__(
        self, call: ListCall, config: RunConfig, put: Put, *, fail_fast: bool, parent: Item | None
    ) -> None:
        self._call = call
        self._on_entries = _on_entries(call)
        self._config = config
        self._put = put
        self._fail_fast = fail_fast
        self._parent = parent
        self._entries: list[_Entry] = []
        self._open: set[int] = set()
        self._under_way: dict[int, list[_Entry]] = {}
        self._packs = False
        self.ended: SpendingLimitError | None = None
        self.pulled: int = 0

    async def look_at(self, inputs: Iterable[Any]) -> int:
        """Take the inputs in, and return how many there are; those of equal keys are sent once.

        Raises:
            Exception: what is wrong with the first input that is wrong by itself, if `fail_fast`.
        """
        known: dict[Hashable, _Entry] = {}
        place = -1
        for place, value in enumerate(inputs):
            if place % _STRIDE == 0:
                await anyio.lowlevel.checkpoint()
            try:
                self._add(place, value, known)
            except Exception as error:  # noqa: BLE001  this item's outcome
                self._fail(place, error)
        self.pulled = place + 1
        return self.pulled

    def _add(self, place: int, value: Any, known: dict[Hashable, _Entry]) -> None:
        queued, key = self._keyed(value)
        if key is not None and key in known:
            known[key].places.append(place)
            return
        entry = _Entry(queued, self._cost(queued), [place], key)
        self._entries.append(entry)
        if key is not None:
            known[key] = entry

    def _keyed(self, value: Any) -> tuple[Any, Hashable | None]:
        queued = self._call.queued(value, self._config)
        return queued, None if self._call.key is None else self._call.key(queued)

    def _cost(self, queued: Any) -> float:
        return 0.0 if self._call.cost is None else self._call.cost(queued)

    def take_in(self, value: Any) -> _Entry:
        """Return the entry of the next input; of one that is wrong by itself it has the error."""
        place = self.pulled
        self.pulled += 1
        self._open.add(place)
        try:
            queued, key = self._keyed(value)
            return _Entry(queued, self._cost(queued), [place], key)
        except Exception as error:  # noqa: BLE001  this item's outcome
            return _Entry(None, 0.0, [place], error=error)

    def pack(self, inputs: Iterable[Any] | AsyncIterable[Any]) -> Iterator[list[_Entry]] | AsyncInput:
        """Give lists of `inputs`, which are pulled as lists are asked for.

        Equal inputs of a list are sent once. They count towards its length, and so do wrong inputs, so that
        a list holds a bounded number of inputs.
        """
        self._packs = True
        if not is_iterable(inputs):
            return _ListInput(aiter(cast("AsyncIterable[Any]", inputs)), self)
        return pack(map(self.take_in, inputs), self.bounded())

    def bounded(self) -> ListCall:
        """Return the call for entries, with a bound for lists that have none."""
        call = self._on_entries
        limits = call.limits
        return replace(call, limits=lambda: Limits(limits().size or _UNBOUNDED, limits().cost))

    def end_list(self, index: int, error: Exception | None) -> int:
        """End a list, give `error` to its inputs without an outcome, and return how many inputs it has."""
        entries = self._under_way.pop(index)
        if error is not None:
            for place in self._places_left(entries):
                self._give_out(Item(place, self._parent), None, error)
        return len(entries)

    def unsettled(self, index: int) -> int:
        """Return how many inputs of a list under way have no outcome yet."""
        return sum(1 for _ in self._places_left(self._under_way.get(index, ())))

    def _places_left(self, entries: Sequence[_Entry]) -> Iterator[int]:
        return (entry.place for entry in entries if entry.place in self._open)

    def _distinct(self, entries: Sequence[_Entry]) -> list[_Entry]:
        """Return the entries to send; those of wrong inputs have ended, and equal ones are one."""
        distinct: list[_Entry] = []
        known: dict[Hashable, _Entry] = {}
        for entry in entries:
            if entry.error is not None:
                self._fail(entry.place, entry.error)
            elif entry.key is None:
                distinct.append(entry)
            elif entry.key in known:
                known[entry.key].places.append(entry.place)
            else:
                known[entry.key] = entry
                distinct.append(entry)
        return distinct

    def _give_out(self, item: Item, output: Any, error: Exception | None) -> None:
        self._open.discard(item.index)
        self._put(item, output, error)

    def lists(self) -> Iterator[list[_Entry]]:
        """Yield the run's inputs."""
        return pack(self._entries, self._on_entries)

    @property
    def step(self) -> Step:
        """The run's step."""
        return Step(self._carry)

    async def _carry(self, entries: list[_Entry], strand: Strand) -> None:
        started = anyio.current_time()
        if self._packs:
            self._under_way[strand.item.index] = entries
            entries = self._distinct(entries)
            if not entries:
                return
        give = partial(self._give, entries, started)
        await carry(self._on_entries, entries, strand, give, OwnTask())

    def _give(self, entries: Sequence[_Entry], started: float, part: Part) -> None:
        given = entries[part.start : part.stop]
        results: Sequence[Any] = part.results if part.error is None else [part.error] * len(given)
        shares = share_bills(part.book, [entry.cost for entry in given])
        for entry, result, bills in zip(given, results, shares, strict=True):
            for place in entry.places:
                item = Item(place, self._parent)
                item.retries, item.started, item.finished = part.book.retries, started, anyio.current_time()
                item.request_seconds = part.book.request_seconds
                if place == entry.places[0]:
                    item.add_bills(bills)
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
            self._give_out(item, output, None)
        else:
            self._fail(item.index, error, item)

    def _fail(self, place: int, error: Exception, item: Item | None = None) -> None:
        if issubclass(type(error), SpendingLimitError):
            # An end, and not a failure: what is under way is finished.
            self.ended = cast("SpendingLimitError", error)
            self.ended.started = True
        elif self._fail_fast:
            add_note(error, f"batchrt: item {place} failed; the rest was cancelled")
            raise error
        self._give_out(item or Item(place, self._parent), None, error)


class _ListInput(AsyncInput):
    """Hand out lists of the values of an async source, which may be long in coming.

    A list is handed out when it is full, when the source ends, or `_LINGER` seconds after its first value.
    """

    def __init__(self, source: AsyncIterator[Any], bulk: Bulk) -> None:
        super().__init__(source)
        self._bulk = bulk
        self._call = bulk.bounded()
        self._gathered: list[_Entry] = []
        self._full: deque[list[_Entry]] = deque()
        self._over = self._stopped = False

    async def peek(self) -> list[_Entry]:
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
        gathered, most = self._gathered, self._call.limits().size or _UNBOUNDED
        try:
            while not gathered:
                await self._pull()
            with anyio.move_on_after(_LINGER):
                # One value more than a list takes tells that the list is full.
                while len(gathered) <= most:
                    await self._pull()
        except StopAsyncIteration:
            self._over = True
        lists = list(pack(gathered, self._call))
        self._gathered = lists.pop() if len(gathered) > most and lists else []
        self._full.extend(lists)

    async def _pull(self) -> None:
        value = await super().peek()
        super().take()
        self._gathered.append(self._bulk.take_in(value))


def _on_entries(call: ListCall) -> ListCall:
    """Return `call` for lists of entries."""

    async def on_entries(entries: Sequence[_Entry], strand: Strand) -> Sequence[Any]:
        return await call.call([entry.value for entry in entries], strand)

    return replace(call, call=on_entries, cost=None if call.cost is None else lambda entry: entry.cost)
