"""Inputs of lists, of which equal ones are sent once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import pytest

from batchrt.batching.distinct import DistinctInputs, ListBuffer, examiner, read_lists, read_lists_async
from batchrt.batching.list_call import Limits, ListCall, Part
from batchrt.runtime.batch import Job, collect
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand
from tests.runtime.harness import config, on_trio

pytestmark = pytest.mark.anyio


def list_call(size: int | None = None, cost: float | None = None) -> ListCall:
    """Return a call that doubles numbers, refuses text, and fails a list with a 13 in it."""

    def prepare(value: Any) -> int:
        if isinstance(value, str):
            raise TypeError(value)
        return int(value)

    async def call(values: list[int], strand: Strand) -> Sequence[int]:
        await anyio.sleep(1)
        if 13 in values:
            raise ValueError("13")
        return [2 * value for value in values]

    return ListCall(
        name="doubles",
        call=call,
        limits=lambda: Limits(size, cost),
        cost=float,
        prepare=prepare,
        key=lambda value: value,
    )


def inputs_of(call: ListCall, values: Sequence[Any]) -> DistinctInputs:
    inputs = DistinctInputs(call)
    inputs.extend(map(examiner(call, config()), values))
    return inputs


def test_distinct_inputs_keep_one_value_of_equal_inputs_and_the_errors_of_wrong_ones() -> None:
    """Each input has a place; a value has the places of all inputs that are equal to it."""
    inputs = inputs_of(list_call(), [5, 7, "no", 5, 5])
    assert (inputs.count, inputs.values, list(inputs.errors)) == (5, [5, 7], [2])
    assert [list(inputs.places_of(number)) for number in inputs.numbers()] == [[0, 3, 4], [1]]
    assert list(inputs_of(list_call(cost=8), [5, 1, 5, 3, 6]).lists()) == [range(2), range(2, 3), range(3, 4)]


@pytest.mark.parametrize("values", [[5, 7, 9, 11], [5, 7, 5, 9, 9, 7]], ids=["different", "equal"])
def test_distinct_inputs_count_inputs_without_a_result(values: list[int]) -> None:
    """All of equal ones; of lists that were begun and of those that were not."""
    inputs = inputs_of(list_call(), values)
    first, rest = inputs.numbers()[:2], inputs.numbers()[2:]
    counted = [inputs.count_unfinished(inputs.numbers())]

    async def step(_: object, strand: Strand) -> None:
        for numbers in (first, rest):
            await inputs.carry(numbers, strand, lambda _: None)
            counted.append(inputs.count_unfinished(inputs.numbers()))
            assert counted[-1] == inputs.count_unfinished(rest)

    on_trio(lambda: collect(Job.of(Step(step), [None], None), return_exceptions=False))
    assert counted == [len(values), 2, 0]


def test_distinct_inputs_hand_out_each_part_once_in_numbers() -> None:
    """A list that fails is halved, and values without a part are unfinished."""
    call = list_call()
    inputs, parts = inputs_of(call, [1, 2, 12, 13, 14, 2]), list[Part]()

    async def step(numbers: range, strand: Strand) -> None:
        await inputs.carry(numbers, strand, parts.append)

    async def main() -> None:
        assert inputs.unfinished(inputs.numbers()) == [0, 1, 2, 3, 4]
        await collect(Job.of(Step(step), [range(1, 5)], config()), return_exceptions=False)

    on_trio(main)
    found = {
        number: result
        for part in parts
        for number, result in zip(range(part.start, part.stop), part.each(), strict=True)
    }
    assert {number: found[number] for number in (1, 2, 4)} == {1: 4, 2: 24, 4: 28}
    assert str(found[3]) == "13"
    assert sum(part.stop - part.start for part in parts) == 4
    assert inputs.unfinished(inputs.numbers()) == [0]


def test_read_lists_count_equal_and_wrong_inputs_towards_a_list() -> None:
    """A list holds a bounded number of inputs, read no further than its end."""
    call, read = list_call(size=3), list[Any]()

    def values() -> Any:
        for value in [1, 1, "no", 4, 5, 5, 6]:
            read.append(value)
            yield value

    lists = read_lists(call, map(examiner(call, config()), values()))
    first = next(lists)
    assert (first.start, first.count, first.values, list(first.errors)) == (0, 3, [1], [2])
    assert len(read) <= 4
    assert [(each.start, each.count, each.values) for each in lists] == [(3, 3, [4, 5]), (6, 1, [6])]


@pytest.mark.parametrize(("size", "cost"), [(3, None), (None, None), (4, 8.0), (1, None)])
async def test_read_lists_async_gives_the_lists_of_read_lists(size: int | None, cost: float | None) -> None:
    """An async iterable is packed as an iterable is, and a generator is closed."""
    call, closed = list_call(size, cost), list[bool]()
    given = [1, 1, 5, 3, 2, 2, 2, 9, 1, 1]

    async def values() -> AsyncIterator[int]:
        try:
            for value in given:
                yield value
        finally:
            closed.append(True)

    examine = examiner(call, config())
    expected = [(each.start, each.count, each.values) for each in read_lists(call, map(examine, given))]
    lists = [each async for each in read_lists_async(call, examine, values())]
    assert [(each.start, each.count, each.values) for each in lists] == expected
    assert closed == [True]


def test_list_buffer_keeps_a_list_that_has_room() -> None:
    """Only full lists are taken until the rest is asked for; a bound that was lowered holds at once."""
    limits = [Limits(4)]
    call = ListCall(name="any", call=list_call().call, limits=lambda: limits[0])
    buffer, examine = ListBuffer(call), examiner(call, config())
    buffer.waiting += map(examine, range(3))
    assert (buffer.full, buffer.take(rest=False)) == (False, [])
    limits[0] = Limits(2)
    assert (buffer.full, len(buffer.waiting)) == (True, 3)
    assert [each.values for each in buffer.take(rest=False)] == [[0, 1]]
    assert [(each.start, each.values) for each in buffer.take(rest=True)] == [(2, [2])]
    assert buffer.take(rest=True) == []
