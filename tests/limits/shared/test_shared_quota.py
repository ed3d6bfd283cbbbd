"""One quota for several workers, in virtual time."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from batchrt import CooledDown, Quota, QuotaEvent, SharedQuotaAway, SharedQuotaBack
from batchrt.errors import AuthenticationError, RateLimitError
from batchrt.limits.shared.carrier import CarrierAwayError, CarrierRefusedError
from batchrt.limits.shared.lease_messages import LeaseReply, LeaseRequest
from batchrt.testing import RateLimits
from tests.limits.quotas import BACKENDS, Counter, virtually
from tests.limits.shared.cluster import Cluster, FlakyCarrier, Outcome, simulate

LIMITS = RateLimits(requests_per_minute=6_000, burst_seconds=1, headers="none")
GIVEN = {"requests_per_minute": 6_000, "burst_seconds": 1}


def is_whole(outcome: Outcome, items: int) -> bool:
    """Whether each prompt was answered once, and none was refused."""
    failed = [answer for answer in outcome.answers.values() if isinstance(answer, Exception)]
    return len(outcome.answers) == items and not failed and not outcome.verdict.rejected


@pytest.mark.parametrize("backend", BACKENDS)
def test_shared_quota_is_used_by_fifty_workers_and_never_exceeded(backend: str) -> None:
    """At least 97 % of the limit, no refusal, at most two messages of a worker in any second."""
    outcome = simulate(Cluster(50, LIMITS, GIVEN, 40, max_concurrency=10, backend=backend))
    assert is_whole(outcome, 2_000)
    assert outcome.used >= 0.97
    assert outcome.carrier.most_in_a_second() <= 2


def test_shared_quota_learns_its_limit_from_headers() -> None:
    """Without a given limit, the first answer's headers tell it to all workers."""
    outcome = simulate(
        Cluster(4, RateLimits(requests_per_minute=6_000, burst_seconds=1, headers="all"), {}, 500)
    )
    assert is_whole(outcome, 2_000)
    assert outcome.used >= 0.97


def test_shared_quota_bounds_requests_in_flight() -> None:
    """All workers together keep to `max_in_flight`, and use it."""
    limits = RateLimits(max_parallel_requests=20, headers="none")
    outcome = simulate(Cluster(5, limits, {"max_in_flight": 20}, 100))
    assert is_whole(outcome, 500)
    assert outcome.verdict.peak_in_flight == 20


def test_shared_quota_bounds_tokens() -> None:
    """A limit of tokens, whose use answers tell only afterwards, is kept and used."""
    limits = RateLimits(tokens_per_minute=60_000, headers="none", burst_seconds=5)
    outcome = simulate(
        Cluster(4, limits, {"tokens_per_minute": 60_000, "burst_seconds": 5}, 400, max_concurrency=200)
    )
    assert is_whole(outcome, 1_600)
    assert outcome.used >= 0.97


def test_shared_quota_survives_a_killed_worker_and_takes_a_new_one() -> None:
    """The share of a worker that is killed is used by the others, and one that joins gets its own."""

    async def kill(cluster: Cluster) -> None:
        await anyio.sleep(5)
        left = cluster.kill(3)
        await anyio.sleep(1)
        await cluster.work(4, left)

    outcome = simulate(Cluster(4, LIMITS, GIVEN, 500, meanwhile=kill))
    assert is_whole(outcome, 2_000)
    assert outcome.used >= 0.97


@pytest.mark.parametrize("loses_state", [False, True])
def test_shared_quota_is_not_exceeded_by_a_carrier_that_is_away(loses_state: bool) -> None:
    """Meanwhile workers use up their leases and wait; when it is back, also without its state, they go on."""
    events: list[QuotaEvent] = []
    waited: list[Any] = []

    async def stop(cluster: Cluster) -> None:
        await anyio.sleep(5)
        with cluster.quotas[0].listening(events.append):
            cluster.carrier.away = True
            await anyio.sleep(8)
            waited.append(cluster.quotas[0].statistics().shared)
            await anyio.sleep(2)
            if loses_state:
                cluster.carrier.restart()
            cluster.carrier.away = False
            await anyio.sleep(5)

    cluster = Cluster(4, LIMITS, GIVEN, 500, meanwhile=stop)
    outcome = simulate(cluster)
    assert is_whole(outcome, 2_000)
    assert waited[0].lease_left == 0
    assert waited[0].waits_for == "a test's memory (it was stopped)"
    assert cluster.provider.verdict(since=9.0, until=14.0).sent == 0
    assert [type(event) for event in events if isinstance(event, SharedQuotaAway | SharedQuotaBack)] == [
        SharedQuotaAway,
        SharedQuotaBack,
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_shared_quota_quiets_all_when_one_is_refused(backend: str) -> None:
    """A wait that the provider asks of one worker holds the requests of another within a second."""

    async def main() -> tuple[list[float], list[QuotaEvent], str]:
        carrier = FlakyCarrier()
        first, second = (Quota(shared=carrier, requests_per_minute=600) for _ in range(2))
        one, other = Counter(first), Counter(second)
        events: list[QuotaEvent] = []
        with second.listening(events.append):
            await other.send()
            await one.send(seconds=0.1, error=RateLimitError("429", status=429, retry_after=10.0))
            await anyio.sleep(1.2)
            await other.send()
        return other.times, events, repr(second.statistics().quiet_for)

    (before, after), events, _ = virtually(backend, main)
    assert after - before >= 10
    assert any(isinstance(event, CooledDown) and "another process" in event.reason for event in events)


def test_shared_quota_sends_nothing_without_a_first_lease() -> None:
    """A quota whose carrier was never reached lets no request go, and says what it waits for."""

    async def main() -> tuple[int, str]:
        carrier = FlakyCarrier()
        carrier.away = True
        quota = Quota(shared=carrier)
        counter = Counter(quota)
        with anyio.move_on_after(30):
            await counter.send()
        shared = quota.statistics().shared
        assert shared is not None
        return len(counter.sent), shared.waits_for

    assert virtually("asyncio", main) == (0, "a test's memory (it was stopped)")


class RefusingCarrier(FlakyCarrier):
    """A carrier that refuses a worker while it is away."""

    async def exchange(self, key: str, request: LeaseRequest) -> LeaseReply:
        try:
            return await super().exchange(key, request)
        except CarrierAwayError as error:
            raise CarrierRefusedError("wrong password") from error


@pytest.mark.parametrize("backend", BACKENDS)
def test_shared_quota_that_is_refused_fails_what_waits(backend: str) -> None:
    """Without a first lease each request fails with the reason; after one, they wait for another."""

    async def main() -> tuple[list[BaseException], int, int]:
        carrier = RefusingCarrier()
        carrier.away = True
        counter = Counter(Quota(shared=carrier))
        failed: list[BaseException] = []

        async def fail() -> None:
            with pytest.raises(
                AuthenticationError, match=r"a test's memory refuses .*wrong password"
            ) as raised:
                await counter.send()
            failed.append(raised.value)

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(fail)
        carrier.away = False
        await counter.send()
        carrier.away = True
        await anyio.sleep(10)
        with anyio.move_on_after(30):
            await counter.send()
        carrier.away = False
        before = len(counter.sent)
        await counter.send()
        return failed, before, len(counter.sent)

    failed, before, after = virtually(backend, main)
    assert len({id(error) for error in failed}) == 3
    assert (before, after) == (1, 2)


def test_shared_quota_reports_a_faulty_carrier_once(caplog: pytest.LogCaptureFixture) -> None:
    """A carrier's unexpected error is logged with its traceback once, and ends no event loop."""

    class FaultyCarrier(FlakyCarrier):
        async def exchange(self, key: str, request: LeaseRequest) -> LeaseReply:
            if self.away:
                raise KeyError("a fault of a user's own")
            return await super().exchange(key, request)

    async def main() -> int:
        carrier = FaultyCarrier()
        counter = Counter(Quota(shared=carrier))
        await counter.send()
        carrier.away = True
        await anyio.sleep(10)  # the farewell fails too
        with anyio.move_on_after(30):
            await counter.send()
        return len(counter.sent)

    assert virtually("asyncio", main) == 1
    assert [record.exc_info is not None for record in caplog.records].count(True) == 1


@pytest.mark.parametrize(
    ("workers", "given", "headers", "warnings"),
    [
        (2, {}, "none", 2),
        (1, {}, "none", 0),
        (2, {"requests_per_minute": 6_000}, "none", 0),
        (2, {}, "all", 0),
        (2, {}, "success", 0),
    ],
)
def test_shared_quota_warns_of_a_limit_that_is_unknown(
    workers: int, given: dict[str, Any], headers: Any, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Refusals that nothing explains are one WARNING of each of several workers, which says what to set."""
    limits = RateLimits(requests_per_minute=120, burst_seconds=1, headers=headers)
    outcome = simulate(Cluster(workers, limits, given, 40, max_concurrency=10))
    assert outcome.verdict.rejected
    found = [
        record for record in caplog.records if "requests_per_minute= on the Quota" in record.getMessage()
    ]
    assert len(found) == warnings
    assert all(
        record.levelname == "WARNING" and "which 2 workers use" in record.getMessage() for record in found
    )


def test_shared_quota_is_returned_when_it_is_idle() -> None:
    """A worker without requests returns its lease and sends no messages."""

    async def main() -> tuple[int, int]:
        carrier = FlakyCarrier()
        first, second = (Quota(shared=carrier, requests_per_minute=600) for _ in range(2))
        await Counter(first).send()
        await anyio.sleep(5)
        messages = sum(map(len, carrier.sent.values()))
        await anyio.sleep(100)
        assert sum(map(len, carrier.sent.values())) == messages
        await Counter(second).send()
        shared = second.statistics().shared
        assert shared is not None
        return messages, shared.workers

    messages, workers = virtually("trio", main)
    assert messages <= 6
    assert workers == 1


def test_shared_quota_changes_its_limits_for_all() -> None:
    """A limit that is set in one process is that of all."""

    async def main() -> list[float]:
        carrier = FlakyCarrier()
        first, second = (Quota(shared=carrier, requests_per_minute=600) for _ in range(2))
        await Counter(second).send()
        await Counter(first).send()
        first.set_limits(requests_per_minute=60)
        await Counter(first).send()
        await anyio.sleep(1)
        await Counter(second).send()
        return [quota.statistics().limits["requests_per_minute"] for quota in (first, second)]

    assert virtually("asyncio", main) == [60, 60]


def test_shared_quota_without_sharing_has_no_keeper() -> None:
    """A quota of one process takes the short way, and has no status of a shared one."""
    quota = Quota()
    assert quota._keeper is None
    assert quota.statistics().shared is None
