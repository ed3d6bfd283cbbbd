"""Time is the loop's, and chance is the caller's."""

from __future__ import annotations

import random

import anyio
import pytest

from batchrt.runtime.clock import Clock, common_offset
from tests.limits.quotas import BACKENDS, virtually
from tests.runtime.harness import in_thread, on_trio


def test_clock_sleeping_moves_with_the_loops_clock() -> None:
    """Sleeping moves with the loops clock."""

    async def main() -> float:
        clock = Clock()
        before = clock.now()
        await clock.sleep(3600)
        return clock.now() - before

    assert on_trio(main) == 3600


def test_clock_randomness_and_wall_time_can_be_replaced() -> None:
    """Randomness and wall time can be replaced."""
    clock = Clock(random=random.Random(7).random, wall=lambda: 12.0)
    assert clock.random() == random.Random(7).random()
    assert clock.wall() == 12.0


def test_clock_two_clocks_draw_different_numbers() -> None:
    """Two clocks draw different numbers."""
    assert [Clock().random() for _ in range(3)] != [Clock().random() for _ in range(3)]
    assert all(0 <= Clock().random() < 1 for _ in range(20))


@pytest.mark.parametrize("backend", BACKENDS)
def test_clock_loops_have_one_time_in_common(backend: str) -> None:
    """It runs as fast as the loop's own, also where that is virtual, and its offset stays."""

    async def main() -> None:
        offset, before = common_offset(), Clock().now()
        await anyio.sleep(1000)
        assert common_offset() == offset
        assert Clock().now() + common_offset() - (before + offset) == pytest.approx(1000)

    virtually(backend, main)


def test_clock_two_loops_agree_on_what_time_it_is() -> None:
    """Though each counts from where it likes."""

    async def main() -> float:
        return Clock().now() + common_offset()

    first = in_thread(lambda: anyio.run(main, backend="trio"))
    second = in_thread(lambda: anyio.run(main, backend="asyncio"))
    assert 0 <= second - first < 60
