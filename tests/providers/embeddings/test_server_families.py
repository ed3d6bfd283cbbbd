"""Servers at random can be judged: their demands are possible for every client."""

from __future__ import annotations

import math

import anyio
import pytest

from batchrt.testing import MockProvider
from tests import virtual
from tests.providers.servers import Case, random_case
from tests.testing.virtual import Client


def patiently(case: Case) -> None:
    """Ask with a plain semaphore and no end of retries, a second apart at first."""

    async def main() -> None:
        client, limiter = Client(case.provider), anyio.CapacityLimiter(8)

        async def one(number: int) -> None:
            async with limiter:
                pause = 0.5
                while (await client.ask(f"{number}")).status != 200:
                    await anyio.sleep(pause)
                    pause = min(4.0, 1.3 * pause)

        async with anyio.create_task_group() as group:
            for number in range(min(case.items, 120)):
                group.start_soon(one, number)

    virtual.run(main, longest=3600)


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_server_families_random_servers_answer_patient_clients(first: int) -> None:
    """All of it, in no less than the least time."""
    for seed in range(first, first + 10):
        case = random_case(seed)
        patiently(case)
        verdict = case.provider.verdict()
        assert verdict.lost == 0, case.words
        assert verdict.accepted == min(case.items, 120), case.words
        assert 0 < verdict.least_seconds < math.inf, case.words
        assert verdict.seconds >= verdict.least_seconds - 1e-9, case.words


def test_server_families_random_servers_are_of_every_kind() -> None:
    """And the same ones every time."""
    words = [random_case(seed).words for seed in range(200)]
    assert words == [random_case(seed).words for seed in range(200)]
    for kind in (
        "rate,",
        "parallel,",
        "queue,",
        "both,",
        "noise,",
        "Stranger(",
        "named_wait=2.0",
        "waits=frozenset()",
    ):
        assert sum(kind in each for each in words) >= 5, kind
    assert isinstance(random_case(0).provider, MockProvider)
