"""The budget of a cluster's run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from batchrt.integrations.ray.budget_ledger import NOTHING, Amount, BudgetLedger, BudgetRequest

LIMIT = Amount(1000.0, 10.0)


@dataclass
class Worker:
    name: str
    granted: Amount = NOTHING
    spent: Amount = NOTHING
    used: Amount = NOTHING

    def ask(self, ledger: BudgetLedger, now: float = 0.0, *, wants: bool = True) -> float:
        request = BudgetRequest(self.name, LIMIT, self.granted, self.spent, self.used, wants)
        reply = ledger.exchange(request, now)
        self.granted, self.used = reply.granted, reply.used
        return reply.learning

    def spend_all(self) -> None:
        self.spent = self.granted


@dataclass
class Cluster:
    ledger: BudgetLedger = field(default_factory=BudgetLedger)
    workers: list[Worker] = field(default_factory=lambda: [Worker(str(number)) for number in range(4)])

    @property
    def granted(self) -> float:
        return sum(worker.granted.tokens for worker in self.workers)


def test_budget_ledger_grants_all_of_it_and_no_more() -> None:
    """Workers that spend what they get are granted the whole limit, and then nothing."""
    cluster = Cluster()
    for _ in range(200):
        for worker in cluster.workers:
            worker.ask(cluster.ledger)
            worker.spend_all()
    assert math.isclose(cluster.granted, LIMIT.tokens)
    assert all(worker.granted.tokens > LIMIT.tokens / 20 for worker in cluster.workers)


def test_budget_ledger_leaves_something_for_workers_that_come_later() -> None:
    """The first worker gets a part, however often the others have not asked yet."""
    cluster = Cluster()
    cluster.workers[0].ask(cluster.ledger)
    assert cluster.granted <= LIMIT.tokens / 2


def test_budget_ledger_gives_nothing_to_a_worker_that_only_tells() -> None:
    """A worker that wants nothing is granted nothing."""
    worker = Worker("a")
    worker.ask(BudgetLedger(), wants=False)
    assert worker.granted == NOTHING


def test_budget_ledger_ends_at_the_first_limit() -> None:
    """Where the money is spent, tokens are of no use."""
    ledger = BudgetLedger()
    first, second = Worker("a"), Worker("b")
    first.spent = Amount(1.0, 10.0)
    first.ask(ledger)
    second.ask(ledger)
    assert second.granted == NOTHING


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "restart", "die", "overspend"]), st.integers(0, 3), st.floats(0, 2)
        ),
        max_size=60,
    )
)
def test_budget_ledger_grants_never_more_than_the_limit(events: list[tuple[str, int, float]]) -> None:
    """Whatever dies: grants, those of the dead included, stay within the limit.

    Each worker has exchanged a message between two deaths, as it does at least once a second.
    """
    cluster, now, dead, over = Cluster(), 0.0, 0.0, 0.0
    for event, number, seconds in events:
        now += seconds
        worker = cluster.workers[number]
        if event == "ask":
            worker.ask(cluster.ledger, now)
            worker.spend_all()
        elif event == "overspend":
            more = Amount(seconds, 0.0)
            over += seconds
            worker.spent = worker.granted.most(worker.spent).plus(more)
            worker.granted = worker.spent
            worker.ask(cluster.ledger, now, wants=False)
        elif event == "restart":
            for each in cluster.workers:
                each.ask(cluster.ledger, now, wants=False)
            cluster.ledger = BudgetLedger(now + 3.0)
            for each in cluster.workers:
                assert each.ask(cluster.ledger, now) > 0
            now += 3.0
        else:
            for each in cluster.workers:
                each.ask(cluster.ledger, now, wants=False)
            dead += worker.granted.tokens
            cluster.workers[number] = Worker(f"{worker.name}'")
        assert cluster.granted + dead <= LIMIT.tokens + over + 1e-6
