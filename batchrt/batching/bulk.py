"""Inputs that are all there, for a step that does nothing but take lists: packed and sent as they are.

Nobody has to meet anybody, so there is no task and no queue for each item.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, cast

import anyio
import anyio.lowlevel

from batchrt.batching.list_call import ListCall, Part, carry, pack, share_bills
from batchrt.config import RunConfig
from batchrt.errors import SpendingLimitError
from batchrt.runtime.event_loop import OwnTask
from batchrt.runtime.exception_notes import add_note
from batchrt.runtime.run import Item, Step, Strand

__all__ = ["Bulk"]

Put: TypeAlias = "Callable[[Item, Any, Exception | None], object]"

_STRIDE: Final = 1000
"""Inputs to look at between checkpoints: a millisecond or two."""


class _Entry(NamedTuple):
    """A value to send, what it costs, and the places of the inputs that are equal to it."""

    value: Any
    cost: float
    places: list[int]


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
        self.ended: SpendingLimitError | None = None

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
        return place + 1

    def _add(self, place: int, value: Any, known: dict[Hashable, _Entry]) -> None:
        call = self._call
        queued = call.queued(value, self._config)
        key = None if call.key is None else call.key(queued)
        if key is not None and key in known:
            known[key].places.append(place)
            return
        entry = _Entry(queued, 0.0 if call.cost is None else call.cost(queued), [place])
        self._entries.append(entry)
        if key is not None:
            known[key] = entry

    def lists(self) -> Iterator[list[_Entry]]:
        """Yield the run's inputs."""
        return pack(self._entries, self._on_entries)

    @property
    def step(self) -> Step:
        """The run's step."""
        return Step(self._carry)

    async def _carry(self, entries: list[_Entry], strand: Strand) -> None:
        started = anyio.current_time()
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
            self._put(item, output, None)
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
        self._put(item or Item(place, self._parent), None, error)


def _on_entries(call: ListCall) -> ListCall:
    """Return `call` for lists of entries."""

    async def on_entries(entries: Sequence[_Entry], strand: Strand) -> Sequence[Any]:
        return await call.call([entry.value for entry in entries], strand)

    return replace(call, call=on_entries, cost=None if call.cost is None else lambda entry: entry.cost)
