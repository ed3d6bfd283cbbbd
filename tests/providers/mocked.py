"""Runs against the mock provider in virtual time, and its verdict on them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import anyio
import httpx

from batchrt import BatchResult, ChatOpenAI, Quota
from batchrt.limits.quota_statistics import QuotaStatistics
from batchrt.testing import LogNormal, MockProvider
from batchrt.testing.faults.seeded import SeededDice
from batchrt.testing.verdict import Verdict
from tests.limits.quotas import is_idle, virtually

__all__ = ["LATENCY", "Network", "Simulated", "chat", "lengths", "respond", "simulate"]

LATENCY = LogNormal(1.0, 0.5)


class Simulated(NamedTuple):
    """Hold the results of a simulated run.

    Attributes:
        verdict: the provider's.
        seconds: how long it took.
        results: one for each run.
        ended: when each run was over.
        statistics: the quota's, in the end.
    """

    verdict: Verdict
    seconds: float
    results: list[BatchResult[Any]]
    ended: list[float]
    statistics: QuotaStatistics

    @property
    def errors(self) -> list[Exception]:
        return [error for result in self.results for error in result.errors.values()]


def lengths(body: Mapping[str, Any]) -> str:
    """Answer in lengths that differ by fifty times, from 10 to 500 tokens, unknown beforehand."""
    return "x" * int(40 + (zlib.crc32(str(body).encode()) % 100) ** 2 / 5)


def chat(provider: MockProvider, **options: Any) -> ChatOpenAI:
    """Return a model of `provider`, which never times out by itself."""
    given: dict[str, Any] = {"base_url": "http://mock/v1", "api_key": "k", "timeout": None, **options}
    given.setdefault("transport", provider.transport())
    return ChatOpenAI("m", **given)


class Network(httpx.AsyncBaseTransport):
    """Delay each request by up to a millisecond, and by more the first one on each connection.

    Requests that are sent at once arrive in another order, as on a socket.

    Args:
        inner: the provider's.
        seed: of the delays.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, seed: int) -> None:
        self._inner = inner
        self._dice = SeededDice(seed)
        self._open = self._connections = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._open += 1
        try:
            delay = self._dice.below(1000) / 1e6
            if self._open > self._connections:
                self._connections = self._open
                delay += self._dice.between(4000, 12000) / 1e6
            await anyio.sleep(delay)
            response = await self._inner.handle_async_request(request)
            await anyio.sleep(self._dice.below(1000) / 1e6)
            return response
        finally:
            self._open -= 1


def respond(
    handle: Callable[[httpx.Request], httpx.Response], seconds: float = 0.0, **options: Any
) -> ChatOpenAI:
    """Return a model whose requests `handle` answers after so many seconds."""

    async def answer(request: httpx.Request) -> httpx.Response:
        response = handle(request)
        if seconds:
            await anyio.sleep(seconds)
        return response

    given: dict[str, Any] = {"base_url": "http://mock/v1", "api_key": "k", "timeout": None, **options}
    return ChatOpenAI("m", transport=httpx.MockTransport(answer), **given)


def simulate(
    provider: MockProvider,
    items: int,
    *,
    backend: str = "trio",
    cap: Any = 50,
    runs: int = 1,
    quota: Quota | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    **options: Any,
) -> Simulated:
    """Ask for `items` answers, in `runs` that go on at the same time, and see that nothing stays behind.

    Another `seed` is another order of tasks and another jitter; what the provider draws has its own.
    """
    results: list[BatchResult[Any]] = []
    ended: list[float] = []

    async def main() -> QuotaStatistics:
        before = anyio.current_time()

        async def one(number: int) -> None:
            model = chat(provider, quota=quota, **options)
            inputs = [f"hello, number {number}-{item}" for item in range(items // runs)]
            given: Any = {"max_concurrency": cap, **(config or {})}
            results.append(await model.arun(inputs, given))
            ended.append(anyio.current_time() - before)

        async with anyio.create_task_group() as group:
            for number in range(runs):
                group.start_soon(one, number)
        used = chat(provider, quota=quota).quota
        assert is_idle(used)
        return used.statistics()

    statistics = virtually(backend, main, seed=seed)
    return Simulated(provider.verdict(), max(ended), results, ended, statistics)
