"""Deadlines of many exchanges by one alarm, in virtual time."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio
import trio.testing

from batchrt.providers.http.deadlines import Deadlines

Expired: TypeAlias = list[tuple[str, float]]


class Work:
    """An exchange that records when its deadline came."""

    deadline = math.inf

    def __init__(self, expired: Expired, name: str) -> None:
        self._expired = expired
        self._name = name

    def expire(self) -> None:
        self._expired.append((self._name, trio.current_time()))


def run(main: Callable[[Deadlines, Expired], Awaitable[None]]) -> Expired:
    """Run `main` with deadlines of ten seconds; return which exchanges expired, and after how many."""
    expired: Expired = []

    async def program() -> float:
        began = trio.current_time()
        await main(Deadlines(10.0, trio.current_time), expired)
        return began

    began = trio.run(program, clock=trio.testing.MockClock(autojump_threshold=0))
    return [(name, round(when - began, 6)) for name, when in expired]


def test_deadlines_expire_each_at_its_own_time() -> None:
    """One alarm serves them all."""

    async def main(deadlines: Deadlines, expired: Expired) -> None:
        works = [Work(expired, name) for name in "abc"]
        for work in works:
            deadlines.begin(work, trio.current_time())
            await trio.sleep(3)
        await trio.sleep(20)

    assert run(main) == [("a", 10.0), ("b", 13.0), ("c", 16.0)]


def test_deadlines_of_ended_exchanges_do_not_come() -> None:
    """Those that began later still have theirs."""

    async def main(deadlines: Deadlines, expired: Expired) -> None:
        first, second = Work(expired, "a"), Work(expired, "b")
        deadlines.begin(first, trio.current_time())
        await trio.sleep(3)
        deadlines.begin(second, trio.current_time())
        deadlines.end(first)
        await trio.sleep(20)
        deadlines.end(second)
        deadlines.end(second)

    assert run(main) == [("b", 13.0)]


def test_deadlines_begin_again_after_a_pause() -> None:
    """The alarm of an exchange that ended long ago serves the next."""

    async def main(deadlines: Deadlines, expired: Expired) -> None:
        for name in "abc":
            work = Work(expired, name)
            deadlines.begin(work, trio.current_time())
            await trio.sleep(4)
            deadlines.end(work)
        last = Work(expired, "d")
        deadlines.begin(last, trio.current_time())
        await trio.sleep(100)

    assert run(main) == [("d", 22.0)]


def test_deadlines_that_come_together_all_expire() -> None:
    """In the order in which they began."""

    async def main(deadlines: Deadlines, expired: Expired) -> None:
        for number in range(1000):
            deadlines.begin(Work(expired, str(number)), trio.current_time())
        await trio.sleep(20)

    assert run(main) == [(str(number), 10.0) for number in range(1000)]


def test_deadlines_cleared_come_no_more() -> None:
    """The loop ends."""

    async def main(deadlines: Deadlines, expired: Expired) -> None:
        deadlines.begin(Work(expired, "a"), trio.current_time())
        deadlines.clear()
        await trio.sleep(100)

    assert run(main) == []
