"""Runs in virtual time are the same every time: an assertion about one holds on every machine."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
import trio

from batchrt.runtime.clock import Clock, common_offset
from tests import virtual
from tests.trace import digest_of, trace

# What `python -m tests.trace trio` prints, hashed. A change of when requests are sent, or of
# the mock provider's answers, needs new ones here, the same for every Python.
TRACES = {"trio": "4cd2ecc67c0f758b", "asyncio": "2fe8e630d1bcfcbb"}

ROOT = Path(__file__).parent.parent


def trace_of_process(backend: str, hash_seed: int) -> list[str]:
    """Return the trace of a run in a process of its own."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.trace", backend],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    return found.stdout.splitlines()


@pytest.mark.parametrize("backend", TRACES)
def test_virtual_trace_is_the_same_in_every_process(backend: str) -> None:
    """Whatever the seed of its hashes, and whatever it did before; request by request."""
    here = trace(backend)
    assert {line.split()[2] for line in here} > {"200", "429", "500", "503", "None"}
    for hash_seed in (0, 4242):
        assert trace_of_process(backend, hash_seed) == here


@pytest.mark.parametrize("backend", TRACES)
def test_virtual_trace_is_the_same_on_every_python(backend: str) -> None:
    """It is the one that is written here."""
    assert digest_of(trace(backend)) == TRACES[backend]


def test_virtual_trace_depends_on_the_seed() -> None:
    """So that many seeds are many runs."""
    assert trace("trio", seed=1) != trace("trio", seed=2)


@pytest.mark.parametrize("backend", TRACES)
def test_virtual_time_holds_for_everything_that_tells_the_time(backend: str) -> None:
    """The loop's, the one that loops have in common, and that of the calendar."""

    async def main() -> list[float]:
        def times() -> tuple[float, float, float]:
            return anyio.current_time(), Clock().now() + common_offset(), Clock().wall()

        before = times()
        await anyio.sleep(1000)
        return [after - earlier for after, earlier in zip(times(), before, strict=True)]

    assert virtual.run(main, backend=backend) == pytest.approx([1000] * 3)


def test_virtual_order_of_tasks_is_drawn_from_the_seed() -> None:
    """Also of those whose timeouts end together, which Trio orders by their addresses."""

    async def main() -> tuple[int, ...]:
        order = []

        async def one(number: int) -> None:
            await trio.sleep(1)
            order.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, number)
        return tuple(order)

    orders = [[virtual.run(main, seed=seed) for _ in range(3)] for seed in range(3)]
    assert [len(set(same)) for same in orders] == [1, 1, 1]
    assert len({same[0] for same in orders}) == 3


def test_virtual_chance_is_given_back() -> None:
    """Draws of a test outside do not depend on the runs in it, and clocks outside draw as ever."""
    with virtual.repeatable_order("outside"):
        expected = [random.random(), random.random()]
    with virtual.repeatable_order("outside"):
        first = random.random()
        virtual.run(lambda: anyio.sleep(1))
        assert [first, random.random()] == expected
    assert Clock().random() != Clock().random()
