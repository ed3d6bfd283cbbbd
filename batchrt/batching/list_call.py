"""List calls: a list packed, sent, and split where it fails."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import accumulate, islice
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import anyio

from batchrt.config import RunConfig
from batchrt.errors import ListLengthError, SpendingLimitError, StrayCancelledError
from batchrt.messages import Usage
from batchrt.runtime.async_input import length_of
from batchrt.runtime.event_loop import OwnTask, cancellation_is_real
from batchrt.runtime.fork import fork
from batchrt.runtime.item import Item
from batchrt.runtime.observers import SentList, sending_list
from batchrt.runtime.strand import Strand

__all__ = [
    "LINGER",
    "MAX_LINGER",
    "SHARED_LINGER",
    "SHARED_MAX_LINGER",
    "Limits",
    "ListCall",
    "Part",
    "RepackError",
    "Split",
    "carry",
    "check_length",
    "lingering",
    "pack",
    "share",
    "share_bills",
]

T = TypeVar("T")

LINGER: Final = 0.05
"""Seconds for which a list waits after the last arrival. Measured on chains with a slow tail: pauses between
arrivals are seldom longer while there is work, so that lists stay full, and the total is that of 0.01."""
MAX_LINGER: Final = 1.0
"""Seconds after the first arrival: bounds the wait under a steady trickle of arrivals."""
SHARED_LINGER: Final = 0.005
SHARED_MAX_LINGER: Final = 0.05
"""The same for shared lists, in seconds: a request waits for each of them."""


def lingering(linger: float | None, max_linger: float | None, *, shared: bool) -> tuple[float, float]:
    """Return how long lists wait after the last and the first arrival, in seconds; `None` for the default."""
    usual, longest = (SHARED_LINGER, SHARED_MAX_LINGER) if shared else (LINGER, MAX_LINGER)
    return usual if linger is None else linger, longest if max_linger is None else max_linger


_FAILURES_BEYOND_DEPTH: Final = 4
"""Failures in a row, beyond those that finding one guilty item takes, after which a list whose errors look
like an outage is not split any further."""


_UNCAPPED_LISTS: Final = 16
"""Lists at a time, of one that is packed again, in a run without a cap."""


class Limits(NamedTuple):
    """Bound a list.

    Attributes:
        size: the most items; `None` for no bound.
        cost: the most their costs may add up to; `None` for no bound. An item that costs more by itself
            goes alone.
    """

    size: int | None = None
    cost: float | None = None


class RepackError(Exception):
    """Raised by a `ListCall.call` whose list was refused as too large, once it has lowered its limits.

    The same items are packed again. `__cause__` is the refusal; it becomes their error if the limits
    did not change anything.
    """


class Split(Enum):
    """Say whether a list that failed is worth sending in halves."""

    NEVER = "never"
    """The error says nothing about the list's values: a wrong key, a rate limit, no connection."""
    CAUTIOUSLY = "cautiously"
    """The error may be that of an outage: end when nothing but failures has come of it for long."""
    FULLY = "fully"
    """The error blames the values: end when the guilty one stands alone."""


def _fully(_error: Exception) -> Split:
    return Split.FULLY


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class ListCall:
    """Describe how a step takes lists.

    Attributes:
        name: the name of the step in errors.
        call: returns one result for each value, in their order; gets a strand that holds a slot. An exception
            in place of a result is that item's error.
        limits: returns how long a list may be; called for every list.
        cost: returns the amount that a value adds to its list's cost.
        prepare: returns the value to queue for an input, or raises the input's own error. Called inline, as
            the item arrives.
        key: values of equal keys are sent once, as long as the first one is queued or in flight.
        configured: the values are pairs of an input and its item's configuration.
        remembered: bytes of results to cache for values of equal keys that arrive later in the run; the
            results have to be `bytes`.
        finish: turns a result into an item's output; called once for each item, inline.
        split: whether a list that failed for good with this error is sent in halves.
        linger: seconds after the last arrival for which a list waits to be filled.
        max_linger: seconds after the first one.
    """

    name: str
    call: Callable[[list[Any], Strand], Awaitable[Sequence[Any]]]
    limits: Callable[[], Limits] = Limits
    cost: Callable[[Any], float] | None = None
    prepare: Callable[[Any], Any] | None = None
    key: Callable[[Any], Hashable] | None = None
    configured: bool = False
    remembered: int = 0
    finish: Callable[[Any], Any] | None = None
    split: Callable[[Exception], Split] = _fully
    linger: float = LINGER
    max_linger: float = MAX_LINGER

    def queued(self, value: Any, config: RunConfig) -> Any:
        """Return the value to queue for an input.

        Raises:
            Exception: the input's own error.
        """
        if self.prepare is not None:
            value = self.prepare(value)
        return (value, config) if self.configured else value


class Part(NamedTuple):
    """Hold the outcome of the values from `start` to `stop` of a list.

    Attributes:
        start: the first value's place in the list.
        stop: the place after the last one's.
        results: one for each value, unless there is an error.
        error: the error of all of the values; `None` if there are results.
        book: the tokens that were billed for all of them together, the retries, and the requests' seconds.
    """

    start: int
    stop: int
    results: Sequence[Any]
    error: Exception | None
    book: Item

    def each(self) -> Sequence[Any]:
        """Return one result, or error, for each value."""
        return self.results if self.error is None else [self.error] * (self.stop - self.start)

    def moved(self, by: int) -> Part:
        """Return the same part of a list in which it begins `by` places later."""
        return self._replace(start=self.start + by, stop=self.stop + by)


Give: TypeAlias = "Callable[[Part], None]"


def pack(values: Iterable[T], call: ListCall) -> Iterator[list[T]]:
    """Yield `values` in lists within the limits, each as long as they allow, in order and lazily."""
    cost_of = call.cost
    packed: list[T] = []
    total = 0.0
    limits = call.limits()
    size = math.inf if limits.size is None else limits.size
    most = math.inf if cost_of is None or limits.cost is None else limits.cost
    for value in values:
        cost = 0.0 if cost_of is None else cost_of(value)
        if packed and (len(packed) >= size or total + cost > most):
            yield packed
            packed, total = [], 0.0
            limits = call.limits()
            size = math.inf if limits.size is None else limits.size
            most = math.inf if cost_of is None or limits.cost is None else limits.cost
        packed.append(value)
        total += cost
    if packed:
        yield packed


async def carry(
    call: ListCall, values: Sequence[Any], strand: Strand, give: Give, own: OwnTask | None = None
) -> None:
    """Send `values` as one list, and call `give` once for each part.

    A list that fails for good is halved until the guilty item stands alone (see `Split`), one part after the
    other on the one slot. A list that is refused as too large is packed again, and its parts run at the same
    time. `own` is the current task if the runtime started it and no user code is between it and this call.

    Raises:
        BaseException: only a cancellation, an error of `give`, and an error that is no `Exception`.
    """
    item = strand.item
    whole = None if strand.run.observer is None else sending_list.get() or SentList(len(values))
    try:
        await _carry_parts(call, values, strand, give, own, whole)
    finally:
        strand.item = item
        if whole is not None:
            sending_list.set(None)  # the item, if it went alone, may send other requests later


async def _carry_parts(  # noqa: PLR0917  the arguments of `carry`
    call: ListCall,
    values: Sequence[Any],
    strand: Strand,
    give: Give,
    own: OwnTask | None,
    whole: SentList | None,
) -> None:
    parts = [(0, len(values))]
    failures, patience = 0, 2 * math.ceil(math.log2(max(2, len(values)))) + _FAILURES_BEYOND_DEPTH
    while parts:
        start, stop = parts.pop()
        part = list(values[start:stop])
        strand.item = book = Item(-1)
        if whole is not None:
            sending_list.set(whole.part(start, stop))
        results, failure = await _attempt(call, part, strand, own)
        if failure is not None and issubclass(type(failure), RepackError):
            lists = list(pack(part, call))
            if len(lists) > 1:
                await _carry_apart(call, lists, strand, give, start)
                continue
            failure = _cause_of(failure)
        if failure is None:
            failures = 0
        else:
            failures += 1
            split = _split(call, failure) if len(part) > 1 else Split.NEVER
            if split is Split.FULLY or (split is Split.CAUTIOUSLY and failures <= patience):
                middle = (start + stop + 1) // 2
                parts += [(middle, stop), (start, middle)]
                continue
        give(Part(start, stop, results, failure, book))


async def _attempt(
    call: ListCall, part: list[Any], strand: Strand, own: OwnTask | None
) -> tuple[Sequence[Any], Exception | None]:
    """Send one part and return its results, or the error of all of its values."""
    results: Sequence[Any] = ()
    failure: Exception | None = None
    try:
        await strand.take()
        results = check_length(call, part, await call.call(part, strand))
        strand.run.counts.add(lists=1, list_inputs=len(part))
    except anyio.get_cancelled_exc_class() as error:
        if own.is_cancelled() if own else cancellation_is_real():
            raise
        failure = StrayCancelledError.of(error)
    except Exception as error:  # noqa: BLE001  the items' outcome
        failure = error
        _count_failed(len(part), error, strand)
    if own and own.is_disturbed():
        await own.put_right()
    return results, failure


def _count_failed(inputs: int, error: Exception, strand: Strand) -> None:
    """Count a list that failed, unless it was never sent."""
    kind = type(error)
    if issubclass(kind, SpendingLimitError) or (issubclass(kind, RepackError) and error.__cause__ is None):
        return
    # The inputs of a list that is packed again are sent once more.
    strand.run.counts.add(lists=1, list_inputs=0 if issubclass(kind, RepackError) else inputs)


def share_bills(book: Item, costs: Sequence[float]) -> Iterator[Mapping[str, Usage] | None]:
    """Yield each value's share of a list's bill by model, in proportion to its cost; `None` for no bill."""
    if book.bills is None:
        yield from (None for _ in costs)
        return
    if len(book.bills) == 1:
        ((model, bill),) = book.bills.items()
        yield from ({model: usage} for usage in share(bill, costs))
        return
    shares = [share(usage, costs) for usage in book.bills.values()]
    for usages in zip(*shares, strict=True):
        yield dict(zip(book.bills, usages, strict=True))


_DETAILS: Final = (
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
)
_COUNTED: Final = ("input_tokens", "output_tokens", "total_tokens", *_DETAILS)


def share(usage: Usage, costs: Sequence[float]) -> Iterator[Usage]:
    """Yield each value's share of a list's tokens, in proportion to its cost; the shares add up exactly."""
    total = sum(costs)
    if not total > 0:
        costs, total = [1.0] * len(costs), float(len(costs))
    if not any(getattr(usage, name) for name in _DETAILS):
        yield from _share_plain(usage, costs, total)
        return
    whole = [getattr(usage, name) for name in _COUNTED]
    reached, done = 0.0, [0] * len(whole)
    for cost in costs:
        reached += cost
        now = [round(count * reached / total) for count in whole]
        inputs, outputs, both, *details = [count - before for count, before in zip(now, done, strict=True)]
        named = dict(zip(_DETAILS, details, strict=True))
        yield Usage(inputs, outputs, both, service_tier=usage.service_tier, **named)
        done = now


def _share_plain(usage: Usage, costs: Sequence[float], total: float) -> Iterator[Usage]:
    """Do the same for a bill without details, as most are: a list has thousands of values."""
    tier, reached, inputs, outputs, both = usage.service_tier, 0.0, 0, 0, 0
    for cost in costs:
        reached += cost
        now = round(usage.input_tokens * reached / total)
        now_outputs = round(usage.output_tokens * reached / total)
        now_both = round(usage.total_tokens * reached / total)
        yield Usage(now - inputs, now_outputs - outputs, now_both - both, service_tier=tier)
        inputs, outputs, both = now, now_outputs, now_both


def _split(call: ListCall, failure: Exception) -> Split:
    if issubclass(type(failure), ListLengthError):
        return Split.NEVER  # the step's own error: its parts cannot be trusted either
    try:
        return call.split(failure)
    except Exception:  # noqa: BLE001  an error's attributes may raise
        return Split.FULLY


async def _carry_apart(
    call: ListCall, lists: Sequence[list[Any]], strand: Strand, give: Give, start: int
) -> None:
    """Carry consecutive lists, the first of which begins at `start`, at the same time."""
    starts = accumulate((len(values) for values in lists), initial=start)
    source = zip(starts, lists, strict=False)
    whole = sending_list.get()

    async def work(own: Strand) -> None:
        own.visit(*strand.passed())
        for begin, values in source:
            if whole is not None:
                sending_list.set(whole.part(begin - start, begin - start + len(values)))
            await carry(call, values, own, partial(_give_moved, give, begin))

    width = min(len(lists), strand.slots.limit or _UNCAPPED_LISTS)
    await fork(strand, [work] * width)


def _give_moved(give: Give, begin: int, part: Part) -> None:
    give(part.moved(begin))


def _cause_of(error: Exception) -> Exception:
    return error.__cause__ if isinstance(error.__cause__, Exception) else error


def check_length(call: ListCall, part: Sequence[Any], results: Any) -> Sequence[Any]:
    """Return `results` as a list if it is one that is as long as `part`.

    The results are counted: `len()` may be wrong.

    Raises:
        ListLengthError: if not.
    """
    if isinstance(results, str | bytes | Mapping) or not hasattr(type(results), "__getitem__"):
        raise ListLengthError(
            f"{call.name} was given a list of {len(part)} and gave a {type(results).__name__}; "
            "it must give a list with one output for each input, in their order",
            expected=len(part),
            received=None,
        )
    outputs = results if type(results) is list else list(islice(iter(results), len(part) + 1))
    if len(outputs) == len(part):
        return outputs
    received = max(len(outputs), length_of(results) or 0) if len(outputs) > len(part) else len(outputs)
    raise ListLengthError(
        f"{call.name} was given a list of {len(part)} and gave {received}; it must give one "
        "output for each input, in their order, and none of them can be trusted",
        expected=len(part),
        received=received,
    )
