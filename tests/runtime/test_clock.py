"""Time is the loop's, and chance is the caller's."""

from __future__ import annotations

import random

from batchrt.runtime.clock import Clock

from .harness import on_trio


def test_sleeping_moves_with_the_loops_clock() -> None:
    async def main() -> float:
        clock = Clock()
        before = clock.now()
        await clock.sleep(3600)
        return clock.now() - before

    assert on_trio(main) == 3600


def test_randomness_and_wall_time_can_be_replaced() -> None:
    clock = Clock(random=random.Random(7).random, wall=lambda: 12.0)
    assert clock.random() == random.Random(7).random()
    assert clock.wall() == 12.0


def test_two_clocks_draw_different_numbers() -> None:
    assert [Clock().random() for _ in range(3)] != [Clock().random() for _ in range(3)]
    assert all(0 <= Clock().random() < 1 for _ in range(20))
