"""A list carried through a step that takes lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from batchrt import ListLengthError, Usage
from batchrt.batching.list_call import (
    Limits,
    ListCall,
    Part,
    RepackError,
    Split,
    carry,
    check_length,
    pack,
    share,
)
from batchrt.runtime.batch import Job, collect
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand
from tests.runtime.harness import config, on_trio

pytestmark = pytest.mark.anyio


class Server:
    """Take lists up to a size that it does not tell beforehand."""

    def __init__(self, takes: int, seconds: float = 1.0) -> None:
        self.takes = takes
        self.seconds = seconds
        self.size = 100
        self.sizes: list[int] = []
        self.active = 0
        self.peak = 0

    def list_call(self, **options: Any) -> ListCall:
        return ListCall(name="server", call=self.call, limits=lambda: Limits(self.size), **options)

    async def call(self, values: list[int], strand: Strand) -> Sequence[int]:
        self.sizes.append(len(values))
        self.active += 1
        self.peak = max(self.peak, self.active)
        await anyio.sleep(self.seconds)
        self.active -= 1
        if len(values) > self.takes:
            self.size = self.takes
            raise RepackError from ValueError("too many")
        return [value + 1 for value in values]


def carried(call: ListCall, values: Sequence[int], **keys: Any) -> list[Part]:
    """Carry one list through in a run of its own, in virtual time."""
    parts: list[Part] = []

    async def step(value: Sequence[int], strand: Strand) -> None:
        await carry(call, value, strand, parts.append)

    async def main() -> None:
        await collect(Job.of(Step(step), [values], config(**keys)), return_exceptions=False)

    on_trio(main)
    return sorted(parts)


def test_list_call_a_list_that_is_too_large_is_packed_again_and_runs_at_the_same_time() -> None:
    """The rest of it does not wait in line for the one slot that the large list had."""
    server = Server(takes=10)
    parts = carried(server.list_call(), range(100), max_concurrency=4)
    assert server.sizes == [100, *[10] * 10]
    assert server.peak == 4
    assert [value for part in parts for value in part.results] == list(range(1, 101))
    assert [(part.start, part.stop) for part in parts] == [(n, n + 10) for n in range(0, 100, 10)]


def test_list_call_the_cap_holds_for_a_list_that_is_packed_again() -> None:
    """Also at one."""
    server = Server(takes=10)
    carried(server.list_call(), range(100), max_concurrency=1)
    assert server.peak == 1


def test_list_call_packed_again_without_a_cap_sends_a_bounded_number_at_once() -> None:
    """Sixteen lists: the server has just refused one as too large."""
    server = Server(takes=1)
    carried(server.list_call(), range(100), max_concurrency=None)
    assert server.sizes == [100, *[1] * 100]
    assert server.peak == 16


def test_list_call_limits_that_did_not_help_are_the_refusals_own_error() -> None:
    """What cannot be packed in smaller lists is not sent again."""
    server = Server(takes=0)

    async def call(values: list[int], strand: Strand) -> Sequence[int]:
        server.sizes.append(len(values))
        raise RepackError from ValueError("too many")

    list_call = ListCall(name="server", call=call, limits=lambda: Limits(1))
    (part,) = carried(list_call, [1])
    assert isinstance(part.error, ValueError)
    assert server.sizes == [1]


def failing(error: Exception, bad: set[int], **options: Any) -> tuple[ListCall, list[int]]:
    """Return a call that fails for lists with something bad in them, and the sizes it is given."""
    sizes: list[int] = []

    async def call(values: list[int], strand: Strand) -> Sequence[int]:
        sizes.append(len(values))
        if bad.intersection(values):
            raise error
        return values

    return ListCall(name="call", call=call, **options), sizes


def test_list_call_errors_that_say_nothing_about_items_are_not_split() -> None:
    """A wrong key is everybody's error, after one call."""
    call, sizes = failing(
        ValueError(), {3}, split=lambda error: Split.NEVER if isinstance(error, ValueError) else Split.FULLY
    )
    (part,) = carried(call, range(64))
    assert (part.start, part.stop) == (0, 64)
    assert sizes == [64]


def test_list_call_error_that_cannot_be_judged_is_split() -> None:
    """`split` may raise, as attributes of an error may: only the guilty value fails then."""

    def split(error: Exception) -> Split:
        raise AttributeError

    call, _ = failing(ValueError(), {3}, split=split)
    parts = carried(call, range(8))
    assert [(part.start, part.stop) for part in parts if part.error] == [(3, 4)]


def test_list_call_an_outage_ends_the_splitting() -> None:
    """Of a thousand items that all fail, not two thousand lists are made."""
    call, sizes = failing(ValueError(), set(range(1024)), split=lambda _: Split.CAUTIOUSLY)
    parts = carried(call, range(1024))
    assert sum(part.stop - part.start for part in parts) == 1024
    assert len(sizes) < 60
    call, sizes = failing(ValueError(), {700}, split=lambda _: Split.CAUTIOUSLY)
    parts = carried(call, range(1024))
    assert [(part.start, part.stop) for part in parts if part.error] == [(700, 701)]


def test_list_call_packing_is_lazy_and_asks_for_the_limits_anew() -> None:
    """A limit that is learned on the way counts for the next list."""
    limits = [Limits(3)]
    pulled: list[int] = []

    def values() -> Any:
        for value in range(10):
            pulled.append(value)
            yield value

    async def call(values: list[int], strand: Strand) -> Sequence[int]:
        return values

    packed = pack(values(), ListCall(name="call", call=call, limits=lambda: limits[0]))
    assert next(packed) == [0, 1, 2]
    assert len(pulled) <= 4
    limits[0] = Limits(2)
    assert list(packed) == [[3, 4], [5, 6], [7, 8], [9]]


@pytest.mark.parametrize("costs", [[1.0] * 7, [0.0] * 3, [1, 2, 3.5, 0.1], [5.0]])
@pytest.mark.parametrize("tokens", [0, 1, 10, 1001])
def test_list_call_shares_add_up(costs: list[float], tokens: int) -> None:
    """To the last token."""
    shares = list(share(Usage(tokens, 2 * tokens, 3 * tokens), costs))
    assert len(shares) == len(costs)
    assert sum(each.input_tokens for each in shares) == tokens
    assert sum(each.total_tokens for each in shares) == 3 * tokens
    assert all(each.input_tokens >= 0 for each in shares)


def test_list_call_shares_have_the_details_too() -> None:
    """Exact to the last token, whatever is counted; the tier is that of the list."""
    whole = Usage(
        10,
        7,
        17,
        cached_input_tokens=5,
        reasoning_tokens=3,
        input_audio_tokens=2,
        output_audio_tokens=1,
        service_tier="flex",
    )
    shares = list(share(whole, [1.0, 2.0, 4.0]))
    assert sum(shares[1:], shares[0]) == whole
    assert [each.cached_input_tokens for each in shares] == [1, 1, 3]
    assert [each.service_tier for each in share(Usage(3, 0, 3), [1.0] * 3)] == [None] * 3


class Said(tuple[int, ...]):
    """A tuple that says it has another length."""

    __slots__ = ()

    def __len__(self) -> int:
        return 100


@pytest.mark.parametrize(
    ("results", "received"),
    [
        ([1], 1),
        ((1,), 1),
        ([1, 2, 3, 4, 5], 5),
        ((1, 2, 3, 4, 5), 5),
        (Said((1,)), 1),
        (Said((1, 2, 3, 4)), 100),
        ("ab", None),
        ({1: 2, 3: 4}, None),
        (iter([1, 2]), None),
        (None, None),
    ],
)
def test_list_call_results_of_another_length_are_counted(results: Any, received: int | None) -> None:
    """The error says how many there were, as far as that is known without asking for all of them."""
    call, _ = failing(ValueError(), set())
    with pytest.raises(ListLengthError) as caught:
        check_length(call, [1, 2], results)
    assert (caught.value.expected, caught.value.received) == (2, received)


@pytest.mark.parametrize("results", [[3, 4], (3, 4), Said((3, 4)), range(3, 5)])
def test_list_call_results_of_the_lists_length_are_a_list(results: Any) -> None:
    """Of any kind of sequence."""
    call, _ = failing(ValueError(), set())
    assert check_length(call, [1, 2], results) == [3, 4]
