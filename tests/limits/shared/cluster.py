"""A cluster in virtual time: workers with a quota each, a carrier that can fail, and the mock's verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from batchrt import ChatOpenAI, Quota
from batchrt.limits.shared.carrier import Carrier, CarrierAwayError
from batchrt.limits.shared.coordinator import Coordinator
from batchrt.limits.shared.lease_messages import LeaseReply, LeaseRequest
from batchrt.limits.shared.memory_carrier import MemoryCarrier
from batchrt.testing import LogNormal, MockProvider, RateLimits, Verdict
from tests import virtual

__all__ = ["Cluster", "FlakyCarrier", "Outcome", "simulate"]


class FlakyCarrier:
    """A carrier in memory that can be away, and that counts the messages of each worker.

    Attributes:
        away: whether it cannot be reached.
        sent: when each worker sent its messages.
    """

    def __init__(self) -> None:
        self.name = "a test's memory"
        self.away = False
        self.sent: dict[str, list[float]] = {}
        self._carrier: Carrier = MemoryCarrier()

    def restart(self) -> None:
        """Lose the state."""
        self._carrier = MemoryCarrier(Coordinator(learns=True))

    async def exchange(self, key: str, request: LeaseRequest) -> LeaseReply:
        self.sent.setdefault(request.worker, []).append(anyio.current_time())
        if self.away:
            raise CarrierAwayError("it was stopped")
        return await self._carrier.exchange(key, request)

    def most_in_a_second(self) -> int:
        """Return the most messages of one worker within any second."""
        return max(
            sum(1 for other in times[place:] if other < time + 1 - 1e-6)
            for times in self.sent.values()
            for place, time in enumerate(times)
        )


@dataclass
class Outcome:
    """The end of a simulation.

    Attributes:
        verdict: the mock's, of the whole run.
        steady: of the time without the first and the last seconds.
        seconds: virtual seconds until the last answer.
        answers: the outcome of each prompt.
        carrier: the carrier.
        messages: messages per worker and second, on average.
    """

    verdict: Verdict
    steady: Verdict
    seconds: float
    answers: dict[str, Any]
    carrier: FlakyCarrier
    messages: float

    @property
    def used(self) -> float:
        """The share of the refill that was used between the first and the last seconds."""
        limit = self.steady.limits[0]
        return limit.spent / (limit.allowed - limit.held)


@dataclass
class Cluster:
    """The settings of a simulation.

    Attributes:
        workers: their number.
        limits: the provider's.
        given: the limits that the workers' quotas are given.
        items: prompts for each worker.
        max_concurrency: of each worker.
        latency: of an answer.
        steady: seconds at the begin and at the end that `Outcome.steady` leaves out.
        meanwhile: called with the cluster, and runs beside the workers.
        backend: the event loop.
        stopped: workers that were killed.
    """

    workers: int
    limits: RateLimits
    given: Mapping[str, Any]
    items: int
    max_concurrency: int = 100
    latency: LogNormal = field(default_factory=lambda: LogNormal(0.5, 0.5))
    steady: tuple[float, float] = (3.0, 5.0)
    meanwhile: Callable[[Cluster], Any] | None = None
    backend: str = "asyncio"
    carrier: FlakyCarrier = field(default_factory=FlakyCarrier)
    answers: dict[str, Any] = field(default_factory=dict)
    scopes: dict[int, anyio.CancelScope] = field(default_factory=dict)
    quotas: list[Quota] = field(default_factory=list)
    provider: MockProvider = field(init=False)

    def __post_init__(self) -> None:
        self.provider = MockProvider(latency=self.latency, rate_limits=self.limits, keep_records=1)

    async def work(self, number: int, prompts: list[str] | None = None) -> None:
        """Run one worker, until it is done or killed."""
        quota = Quota(shared=self.carrier, **self.given)
        self.quotas.append(quota)
        model = ChatOpenAI(
            "m", base_url="http://mock/v1", api_key="k", transport=self.provider.transport(), quota=quota
        )
        prompts = prompts or self.prompts(number)
        with anyio.CancelScope() as self.scopes[number]:
            async for index, answer in model.abatch_as_completed(
                prompts, {"max_concurrency": self.max_concurrency}, return_exceptions=True
            ):
                assert prompts[index] not in self.answers
                self.answers[prompts[index]] = answer

    def prompts(self, number: int) -> list[str]:
        """Return the prompts of a worker."""
        return [f"worker {number}, item {item}" for item in range(self.items)]

    def kill(self, number: int) -> list[str]:
        """Kill a worker, which says no farewell; return the prompts without an answer."""
        quota = self.quotas[number]
        assert quota._keeper is not None
        quota._keeper.carrier = _Dead()
        self.scopes[number].cancel()
        return [prompt for prompt in self.prompts(number) if prompt not in self.answers]

    async def main(self) -> Outcome:
        """Run all workers."""
        began = anyio.current_time()
        async with anyio.create_task_group() as group:
            for number in range(self.workers):
                group.start_soon(self.work, number)
            if self.meanwhile is not None:
                group.start_soon(self.meanwhile, self)
        seconds = anyio.current_time() - began
        sent = sum(map(len, self.carrier.sent.values()))
        return Outcome(
            self.provider.verdict(),
            self.provider.verdict(since=self.steady[0], until=seconds - self.steady[1]),
            seconds,
            self.answers,
            self.carrier,
            sent / len(self.carrier.sent) / seconds,
        )


class _Dead:
    name = "the carrier of a worker that was killed"

    async def exchange(self, key: str, request: LeaseRequest) -> LeaseReply:
        raise CarrierAwayError("the worker was killed")


def simulate(cluster: Cluster, *, seed: int = 0) -> Outcome:
    """Run a cluster in virtual time."""
    return virtual.run(cluster.main, backend=cluster.backend, seed=seed)
