"""Cancellation before every step of small runs: nothing is left, whichever step it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.reliability.conftest import Figure
from tests.reliability.history_checks import check
from tests.reliability.simulation import Simulation
from tests.reliability.tiers import tiers

MOST_STEPS = 400
"""Longer runs repeat what shorter ones have."""


def small(backend: str) -> Iterator[tuple[int, int]]:
    """Yield seeds of short runs that nothing else cancels, and their numbers of steps."""
    seed = -1
    while True:
        seed += 1
        simulation = Simulation(seed)
        first = simulation.clients[0]
        if first.numbers and first.cancelled_at is None:
            steps = simulation.run(backend)
            if steps <= MOST_STEPS:
                yield seed, steps


@pytest.mark.parametrize(("runs", "stride"), tiers((12, 9), (150, 1)))
@pytest.mark.parametrize(("backend", "native"), [("trio", False), ("asyncio", False), ("asyncio", True)])
def test_checkpoints_leave_nothing_behind_when_cancelled(
    backend: str, native: bool, runs: int, stride: int, figure: Figure
) -> None:
    """By a scope or by the task: no leaf, task, slot or permit, and outcomes until then are right."""
    cuts = 0
    for (seed, steps), _ in zip(small(backend), range(runs), strict=False):
        for step in range(seed % stride, steps, stride):
            simulation = Simulation(seed)
            try:
                simulation.run(backend, cut_at=step, native=native)
                check(simulation)
            except BaseException as error:
                error.add_note(f"cut before step {step} of {steps}; {simulation.describe()}")
                raise
            cuts += 1
    figure(runs=runs, cuts=cuts)
