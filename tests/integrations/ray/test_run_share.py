"""The share of one worker in the slots and the budget of a cluster's run."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from batchrt import ChatOpenAI, Quota, RunConfig, RunnableLambda, SpendingLimitError
from batchrt.integrations.ray.budget_ledger import BudgetLedger, BudgetReply, BudgetRequest
from batchrt.integrations.ray.row_run import RowRun
from batchrt.integrations.ray.run_share import RunShare
from batchrt.limits.shared.carrier import CarrierAwayError
from batchrt.limits.shared.coordinator import Coordinator
from batchrt.limits.shared.lease_messages import LeaseReply, LeaseRequest
from batchrt.testing import MockProvider
from tests import virtual


class Carrier:
    """The coordinator of a cluster, in this process; it can be lost and away."""

    name = "the test"

    def __init__(self, *, virtual: bool = False) -> None:
        self.lock = threading.Lock()
        self.is_away = False
        self._virtual = virtual
        self.lose(learns_until=None)

    def lose(self, learns_until: float | None) -> None:
        self.coordinator = Coordinator(learns=learns_until is not None)
        self.budgets = BudgetLedger() if learns_until is None else BudgetLedger(learns_until)

    async def _now(self) -> float:
        await anyio.lowlevel.checkpoint()
        if self.is_away:
            raise CarrierAwayError("away")
        return anyio.current_time() if self._virtual else monotonic()

    async def exchange(self, key: str, request: LeaseRequest) -> LeaseReply:
        now = await self._now()
        with self.lock:
            return self.coordinator.exchange(key, request, now)

    async def exchange_budget(self, _key: str, request: BudgetRequest) -> BudgetReply:
        now = await self._now()
        with self.lock:
            return self.budgets.exchange(request, now)


class User:
    """A run that takes as many slots as it may, or gives them back when `busy` is over."""

    def __init__(self) -> None:
        self.allowed = -1
        self.taken = 0
        self.busy = True

    def slots_taken(self) -> int:
        self.taken = min(max(self.allowed, 0), 100) if self.busy else 0
        return self.taken

    def rows_left(self) -> int:
        return 100 if self.busy else 0

    def allow(self, slots: int) -> None:
        self.allowed = slots


def shares(carrier: Carrier, config: RunConfig) -> Iterator[RunShare]:
    return (RunShare(carrier, "run", config) for _ in itertools.count())


def test_run_share_divides_the_slots_among_busy_workers() -> None:
    """Workers that come later get their fair share; never are more allowed than there are."""

    async def main() -> None:
        carrier, users = Carrier(virtual=True), [User() for _ in range(4)]
        for user, share in zip(users, shares(carrier, {"max_concurrency": 40}), strict=False):
            with anyio.move_on_after(5):
                await share.begin(user)
            assert sum(max(0, each.slots_taken()) for each in users) <= 40
        for _ in range(200):
            await anyio.sleep(0.1)
            assert sum(each.slots_taken() for each in users) <= 40
        assert [user.allowed for user in users] == [10] * 4

    virtual.run(main)


def test_run_share_gives_the_slots_of_an_idle_worker_to_the_others() -> None:
    """Slots follow the rows."""

    async def main() -> None:
        carrier, (idle, busy) = Carrier(virtual=True), (User(), User())
        share = shares(carrier, {"max_concurrency": 40})
        await next(share).begin(idle)
        idle.busy = False
        await anyio.sleep(2)
        await next(share).begin(busy)
        await anyio.sleep(3)
        assert busy.allowed == 40

    virtual.run(main)


def test_run_share_ends_with_its_lease() -> None:
    """While the coordinator is away for longer than a lease no slot may be taken."""

    async def main() -> None:
        carrier, user = Carrier(virtual=True), User()
        await RunShare(carrier, "run", {"max_concurrency": 40}).begin(user)
        await anyio.sleep(2)
        assert user.allowed == 40
        carrier.is_away = True
        await anyio.sleep(5)
        assert user.allowed == 0
        carrier.is_away = False
        await anyio.sleep(2)
        assert user.allowed == 40

    virtual.run(main)


def test_run_share_keeps_the_cap_when_the_coordinator_loses_its_state() -> None:
    """A new coordinator learns what the workers have, and allows no more than there are."""

    async def main() -> None:
        carrier, users = Carrier(virtual=True), [User() for _ in range(3)]
        share = shares(carrier, {"max_concurrency": 30})
        for user in users[:2]:
            await next(share).begin(user)
        await anyio.sleep(10)
        carrier.lose(anyio.current_time() + 3)
        async with anyio.create_task_group() as group:
            group.start_soon(next(share).begin, users[2])
            for _ in range(150):
                await anyio.sleep(0.1)
                assert sum(each.slots_taken() for each in users) <= 30
        assert [user.allowed for user in users] == [10] * 3

    virtual.run(main)


@contextmanager
def workers(number: int, chain: Any, carrier: Carrier, config: RunConfig) -> Iterator[list[RowRun]]:
    made = [RowRun(chain, config, RunShare(carrier, "run", config)) for _ in range(number)]
    try:
        yield made
    finally:
        for each in made:
            each.close()


def test_run_share_caps_the_leaf_calls_of_all_workers() -> None:
    """`max_concurrency` is that of all workers together, and one that has all the rows gets all of it."""
    lock, now, most = threading.Lock(), 0, 0

    async def count(_: int) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        await anyio.sleep(0.005)
        with lock:
            now -= 1

    carrier = Carrier()
    with (
        workers(3, RunnableLambda(count), carrier, {"max_concurrency": 6}) as runs,
        ThreadPoolExecutor() as pool,
    ):
        done = [pool.submit(run.outcomes, range(400)) for run in runs]
        assert all(outcome.ok for each in done for outcome in each.result())
        assert most == 6


def test_run_share_spends_the_budget_once() -> None:
    """Workers spend nearly all of `max_tokens_total` together, and no more; each row has one outcome."""
    provider = MockProvider()
    model = ChatOpenAI("model", api_key="none", transport=provider.transport(), max_tokens=10)
    config: RunConfig = {"max_tokens_total": 4000, "max_concurrency": 8}
    with workers(3, model, Carrier(), config) as runs, ThreadPoolExecutor() as pool:
        done = [pool.submit(run.outcomes, ["hello"] * 200) for run in runs]
        outcomes = [outcome for each in done for outcome in each.result()]
    assert len(outcomes) == 600
    assert {type(outcome.error) for outcome in outcomes} == {type(None), SpendingLimitError}
    spent = sum(outcome.usage.total_tokens for outcome in outcomes if outcome.usage is not None)
    assert 0.9 * 4000 < spent <= 4000
    assert provider.log.snapshot().requests == sum(outcome.ok for outcome in outcomes)


def test_run_share_has_slots_for_rows_that_waited_for_a_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that gave its slot up gets one again, also where no other row is left to be begun."""
    monkeypatch.setattr("batchrt.integrations.ray.run_share.ROUND", 0.01)
    provider = MockProvider()
    quota = Quota(requests_per_minute=600, burst_seconds=0.1)
    model = ChatOpenAI("model", api_key="none", transport=provider.transport(), quota=quota)
    config: RunConfig = {"max_concurrency": 8}
    with workers(1, model, Carrier(), config) as (run,):
        assert all(outcome.ok for outcome in run.outcomes(["hello"] * 12))


def test_run_share_without_limits_needs_no_coordinator() -> None:
    """A run without a cap and a budget sends no message."""
    carrier = Carrier()
    carrier.is_away = True
    with workers(1, RunnableLambda(lambda number: number), carrier, {}) as (run,):
        assert [outcome.output for outcome in run.outcomes([1, 2])] == [1, 2]


def test_run_share_gives_rows_up_where_no_budget_can_be_leased(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that stays away ends the rows with an error, and sends nothing."""
    monkeypatch.setattr("batchrt.integrations.ray.run_share.PATIENCE", 0.05)
    monkeypatch.setattr("batchrt.integrations.ray.run_share.ROUND", 0.01)
    carrier = Carrier()
    carrier.is_away = True
    with workers(1, RunnableLambda(lambda number: number), carrier, {"max_tokens_total": 100}) as (run,):
        assert [type(outcome.error) for outcome in run.outcomes([1, 2])] == [SpendingLimitError] * 2
