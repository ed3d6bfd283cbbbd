"""Helpers for tests of quotas: virtual time on asyncio and Trio, and requests without a provider."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, TypeVar

import anyio
from anyio.abc import TaskGroup

from batchrt.errors import ProviderError
from batchrt.limits.error_kinds import Failure
from batchrt.limits.permit import Permit
from batchrt.limits.quota import Quota
from batchrt.messages import Usage
from batchrt.runtime.item import Item
from batchrt.runtime.retry import MAX_RETRY_AFTER
from batchrt.runtime.run import Run
from batchrt.runtime.slots import Slots
from batchrt.runtime.strand import Strand
from tests import virtual

__all__ = ["BACKENDS", "Counter", "Sending", "is_idle", "should_retry", "usage_of", "virtually"]

T = TypeVar("T")

BACKENDS: Final = ("asyncio", "trio")


def virtually(backend: str, main: Callable[[], Awaitable[T]], *, seed: int = 0) -> T:
    """Run `main` in virtual time and return its result; another `seed` is another order and jitter."""
    return virtual.run(main, backend=backend, seed=seed, longest=10_000)


def should_retry(error: BaseException | None, longest: float = MAX_RETRY_AFTER) -> bool:
    """Whether another attempt may succeed after `error`."""
    return isinstance(error, ProviderError) and Failure.of(error).is_worth_retrying(longest)


def usage_of(tokens: int, output: int = 0) -> Usage:
    """Return the usage of an answer."""
    return Usage(tokens, output, tokens + output)


class Sending(NamedTuple):
    """Hold which request was sent, and when."""

    name: Any
    at: float


class Counter:
    """Send requests through a quota, as an endpoint does; there is no provider behind it.

    Attributes:
        sent: those that were let in, in order.
        peak: the most that were under way at once.
    """

    def __init__(self, quota: Quota, slots: int | None = None) -> None:
        self.quota = quota
        self.run = Run(Slots(slots))
        self.sent: list[Sending] = []
        self.peak = 0
        self._active = 0
        self._began = self.run.now()

    @property
    def names(self) -> list[Any]:
        return [sending.name for sending in self.sent]

    @property
    def times(self) -> list[float]:
        return [sending.at for sending in self.sent]

    def now(self) -> float:
        return self.run.now() - self._began

    async def send(
        self,
        name: Any = None,
        *,
        tokens: float = 0,
        seconds: float = 0.0,
        again: bool = False,
        error: ProviderError | None = None,
        usage: Usage | None = None,
        answers: int = 0,
        **options: Any,
    ) -> None:
        """Send a request of so many `tokens` that takes `seconds` and then fails with `error`, if any."""
        strand = Strand(self.run, Item(0), {}, self.run.slots)
        permit = Permit(int(4 * tokens), answers=answers, **options)
        permit.again = again
        try:
            await strand.take()
            if not self.quota.admit_nowait(permit, strand):
                await self.quota.admit(permit, strand)
            self.sent.append(Sending(name, self.now()))
            self._active += 1
            self.peak = max(self.peak, self._active)
            try:
                await anyio.sleep(seconds)
            finally:
                self._active -= 1
            if error is None:
                self.quota.answered(permit, usage, self.run.now())
            else:
                self.quota.failed(permit, Failure.of(error), self.run.now())
        finally:
            if permit.granted:
                self.quota.abandoned(permit, self.run.now())
            strand.close()

    def start(self, group: TaskGroup, name: Any = None, **options: Any) -> None:
        """Have a request sent by a task of its own."""

        async def send() -> None:
            await self.send(name, **options)

        group.start_soon(send)


def is_idle(quota: Quota) -> bool:
    """Whether `quota` is empty, and holds nothing of requests that ended."""
    statistics = quota.statistics()
    return (
        statistics.in_flight == 0
        and statistics.waiting == 0
        and not quota._queue._loops
        and not quota.retries.awaited
        and not quota._queue
    )
