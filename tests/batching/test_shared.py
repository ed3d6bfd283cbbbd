"""Shared lists: the lists of concurrent runs that are joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from batchrt import ItemTimeoutError
from batchrt.batching.list_call import Limits, ListCall
from batchrt.batching.shared import shared
from batchrt.runtime.batch import Job, collect
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand
from tests.limits.quotas import BACKENDS, virtually
from tests.runtime.harness import config

on_both = pytest.mark.parametrize("backend", BACKENDS)

START = 100.0
"""Virtual seconds at which the first request comes: a time that is not 0."""


class Server:
    """Take lists of numbers, which cost as much as they are, in a second each.

    Attributes:
        lists: when each list was sent, in seconds since `START`, and its values.
        ended: when each call ended.
        left: when each request had its outcome.
    """

    def __init__(self, bad: Sequence[int] = (), **limits: Any) -> None:
        self.lists: list[tuple[float, list[int]]] = []
        self.ended: list[float] = []
        self.left: list[float] = []
        self.bad = bad
        self.call = shared(
            ListCall(
                name="server",
                call=self._send,
                limits=lambda: Limits(**limits),
                cost=float,
                linger=2.0,
                max_linger=5.0,
            )
        )

    async def _send(self, values: list[int], strand: Strand) -> Sequence[int]:
        self.lists.append((_now(), values))
        try:
            await anyio.sleep(1)
            if set(self.bad).intersection(values):
                raise ValueError(values)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.5)
            self.ended.append(_now())
        return [2 * value for value in values]

    async def request(self, values: Sequence[int], **keys: Any) -> Any:
        """Send `values` in a run of their own, and return the results or the error."""

        async def send(value: Any, strand: Strand) -> Sequence[int]:
            await strand.take()
            return await self.call.call(list(value), strand)

        (result,) = await collect(Job.of(Step(send), [values], config(**keys)), return_exceptions=True)
        return result

    def receive(self, backend: str, *requests: tuple[float, Sequence[int]], **keys: Any) -> list[Any]:
        """Make requests at these times, in seconds since `START`; return their results."""
        results: list[Any] = [None] * len(requests)

        async def main() -> None:
            await anyio.sleep(START)
            async with anyio.create_task_group() as group:
                for place, (at, values) in enumerate(requests):
                    group.start_soon(one, place, at, values)

        async def one(place: int, at: float, values: Sequence[int]) -> None:
            await anyio.sleep(at)
            results[place] = await self.request(values, **keys)
            self.left.append(_now())

        virtually(backend, main)
        return results


def _now() -> float:
    return round(anyio.current_time() - START, 3)


@on_both
def test_shared_list_waits_after_the_last_arrival_and_no_longer_than_its_bound(backend: str) -> None:
    """`linger` from the last request and `max_linger` from the first, which begins anew for each list."""
    server = Server()
    assert server.receive(backend, (0, [1]), (1, [2]), (10, [3])) == [[2], [4], [6]]
    assert server.lists == [(3, [1, 2]), (12, [3])]
    server = Server()
    server.receive(backend, *((at, [int(at)]) for at in (0.0, 1.9, 3.8, 5.7)))
    assert server.lists == [(5, [0, 1, 3]), (7.7, [5])]


@on_both
def test_shared_list_that_is_full_does_not_wait(backend: str) -> None:
    """By the number of values, or by their cost."""
    server = Server(size=3)
    assert server.receive(backend, (0, [1]), (1, [2, 3])) == [[2], [4, 6]]
    assert server.lists == [(1, [1, 2, 3])]
    server = Server(cost=6)
    server.receive(backend, (0, [1]), (1, [2, 3]), (10, [5]))
    assert server.lists == [(1, [1, 2, 3]), (12, [5])]


@on_both
def test_shared_list_leaves_a_request_that_does_not_fit_for_the_next(backend: str) -> None:
    """Requests are not taken apart; one that is too large by itself goes alone."""
    server = Server(size=3)
    server.receive(backend, (0, [1, 2]), (1, [3, 4]), (10, [5, 6, 7, 8]))
    assert server.lists == [(1, [1, 2]), (3, [3, 4]), (10, [5, 6, 7, 8])]
    server = Server(cost=6)
    server.receive(backend, (0, [1, 2]), (1, [1, 3]), (10, [9]))
    assert server.lists == [(1, [1, 2]), (3, [1, 3]), (10, [9])]


@on_both
def test_shared_list_that_no_request_waits_for_is_cancelled(backend: str) -> None:
    """And the last request ends when the call has; one that others wait for goes on."""
    server = Server()
    server.receive(backend, (0, [1]), (0.5, [2]), (2.6, [3]), timeout=2.75)
    assert server.lists == [(2.5, [1, 2]), (4.6, [3])]
    assert server.ended == [3.75, 5.85], "cancelled at 3.25 and 5.35"
    assert server.left == [2.75, 3.75, 5.85]
    server = Server()
    results = server.receive(backend, (0, [1]), (1.5, [2]), timeout=4.25)
    assert [type(result) for result in results] == [ItemTimeoutError, list]
    assert server.ended == [5]


@on_both
def test_shared_list_leaves_out_requests_that_were_cancelled_before(backend: str) -> None:
    """Its values are not sent."""
    server = Server()
    results = server.receive(backend, (0, [1]), (1.9, [2]), timeout=3.75)
    assert [type(result) for result in results] == [ItemTimeoutError, list]
    assert server.lists == [(3.9, [2])]


@on_both
def test_shared_list_that_fails_is_sent_request_by_request(backend: str) -> None:
    """Only the request with the bad value fails, and none is sent a third time."""
    server = Server(bad=[2])
    results = server.receive(backend, (0, [1]), (1, [2]), (1.5, [3]))
    assert [type(result) for result in results] == [list, ValueError, list]
    assert sorted(server.lists) == [(3.5, [1, 2, 3]), (5, [1]), (5, [2]), (5, [3])]
