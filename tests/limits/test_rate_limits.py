"""Known rate limits: given by hand or told by answers, and the charges of requests."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.limits.events import BY_HAND
from batchrt.limits.permit import RequestAccount
from batchrt.limits.rate_limits import KnownRateLimits, RateLimitStatus
from batchrt.limits.token_bucket import Period, TokenBucket, Unit

Change = tuple[str, float | None, float, str]

RPM: tuple[Unit, Period] = ("requests", "minute")
TPM: tuple[Unit, Period] = ("tokens", "minute")
TPD: tuple[Unit, Period] = ("tokens", "day")


class Requests:
    """Charge requests, and record which limits change."""

    def __init__(self, limits: Any = (), burst_seconds: float | None = None) -> None:
        self.changes: list[Change] = []
        self.rate_limits = KnownRateLimits(
            dict(limits), burst_seconds, lambda *change: self.changes.append(change)
        )

    def charge(self, now: float = 0.0, tokens: float = 0.0, most: float | None = None) -> RequestAccount:
        charge = RequestAccount(most)
        charge.input = tokens
        self.wait(now)
        self.rate_limits.charge(charge, now)
        return charge

    def wait(self, now: float, tokens: float = 0.0, *, wanted: bool = False) -> float:
        charge = RequestAccount()
        charge.input = tokens
        return self.rate_limits.wait_for(charge, now, wanted=wanted, late=0.0)

    def answer(self, now: float, *limits_told: RateLimitStatus, tokens: float | None = None) -> None:
        charge = self.charge(now)
        self.rate_limits.settle(charge, tokens)
        self.rate_limits.learn(limits_told, charge, now, refused=False)


def test_rate_limits_admit_everything_where_none_is_known() -> None:
    """Nothing is known, nothing is waited for."""
    requests = Requests()
    for _ in range(1000):
        requests.charge()
    assert requests.wait(0.0, 10**9) == 0
    assert requests.rate_limits.limits() == {}
    assert requests.rate_limits.used(0.0) == {}


def test_rate_limits_all_have_to_fit() -> None:
    """The longest of their waits counts."""
    requests = Requests({RPM: 60, TPM: 6000}, burst_seconds=1)
    requests.charge(tokens=50)
    assert requests.wait(0.0, 10) == pytest.approx(1)
    assert requests.wait(1.0, 100) == 0
    requests.charge(1.0, tokens=100)
    requests.charge(1.0, tokens=400)
    assert requests.wait(1.0, 10) == pytest.approx(4.1)


def test_rate_limits_are_told_by_answers() -> None:
    """Its state is that when the request arrived; charges since then are subtracted."""
    requests = Requests()
    first, second = requests.charge(0.0), requests.charge(0.1)
    requests.rate_limits.settle(first, None)
    requests.rate_limits.learn([RateLimitStatus("requests", 60, 1, None)], first, 0.2, refused=False)
    assert requests.rate_limits.limits() == {"requests_per_minute": 60}
    assert requests.changes == [("requests_per_minute", None, 60, "told by the provider")]
    assert requests.wait(0.2) == pytest.approx(0.8 + 0.1, abs=0.05), (
        "one is left, the second took it, 0.2 came in"
    )
    assert second.counted[0] == 2


def test_rate_limits_are_not_corrected_by_earlier_answers() -> None:
    """Answers come in another order than their requests were sent."""
    requests = Requests()
    early, late = requests.charge(0.0), requests.charge(5.0)
    for charge, remaining in ((late, 2.0), (early, 59.0)):
        requests.rate_limits.settle(charge, None)
        requests.rate_limits.learn(
            [RateLimitStatus("requests", 60, remaining, None)], charge, 6.0, refused=False
        )
    bucket = requests.rate_limits.limited[0].bucket
    assert bucket.level == pytest.approx(3)


def test_rate_limits_keep_the_tighter_of_given_and_told() -> None:
    """A limit that was raised by hand above the provider's is of no use."""
    requests = Requests({RPM: 600})
    requests.answer(0.0, RateLimitStatus("requests", 60, 0, None))
    assert requests.rate_limits.limits() == {"requests_per_minute": 60}
    assert requests.wait(0.0) > 0.9
    requests.rate_limits.set_limits({RPM: 6})
    assert requests.rate_limits.limits() == {"requests_per_minute": 6}
    assert requests.changes[-1] == ("requests_per_minute", 600, 6, "given by hand")


def test_rate_limits_follow_the_providers_changes() -> None:
    """And said so."""
    requests = Requests()
    requests.answer(0.0, RateLimitStatus("requests", 60, 50, None))
    requests.answer(1.0, RateLimitStatus("requests", 30, 20, None))
    requests.answer(2.0, RateLimitStatus("requests", 30, 20, None))
    assert requests.changes == [
        ("requests_per_minute", None, 60, "told by the provider"),
        ("requests_per_minute", 60, 30, "changed by the provider"),
    ]
    assert requests.rate_limits.limits() == {"requests_per_minute": 30}


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "name"),
    [
        (60, 50, 10.0, "requests_per_minute"),
        (60, 0, 60.0, "requests_per_minute"),
        (60, 0, 61.0, "requests_per_minute"),
        (60, 50, None, "requests_per_minute"),
        (200, 0, 86_400.0, "requests_per_day"),
        (200, 100, 43_200.0, "requests_per_day"),
        (60, 0, 90.0, "requests_per_minute"),
    ],
)
def test_rate_limits_reset_tells_a_minute_from_a_day(
    limit: float, remaining: float, reset: float, name: str
) -> None:
    """The used part of a day's limit comes back at a day's rate."""
    requests = Requests()
    requests.answer(0.0, RateLimitStatus("requests", limit, remaining, reset))
    assert requests.rate_limits.limits() == {name: limit}


def test_rate_limits_drop_a_told_limit_that_answers_no_longer_report() -> None:
    """After twenty answers in a row about the unit's other period; other units do not count."""
    requests = Requests()
    day, minute = RateLimitStatus("requests", 200, 100, 43_200.0), RateLimitStatus("requests", 60, 50, 10.0)
    tokens = RateLimitStatus("tokens", 1000, 900, 6.0)
    requests.answer(0.0, day)
    for _ in range(19):
        requests.answer(0.0, minute, tokens)
    requests.answer(0.0, day)
    for _ in range(19):
        requests.answer(0.0, minute)
        assert "requests_per_day" in requests.rate_limits.limits()
    requests.answer(0.0, minute)
    assert set(requests.rate_limits.limits()) == {"requests_per_minute", "tokens_per_minute"}
    assert {limit.bucket.period for limit in requests.rate_limits.limited} == {"minute"}


def test_rate_limits_reset_tells_the_buckets_capacity() -> None:
    """A strict one, that holds a second of its limit."""
    requests = Requests()
    requests.answer(0.0, RateLimitStatus("requests", 600, 4, 0.6))
    assert requests.rate_limits.limited[0].bucket.capacity == pytest.approx(10)


@pytest.mark.parametrize("request_counts", [True, False])
def test_rate_limits_undo_leaves_no_trace(*, request_counts: bool) -> None:
    """Neither in a bucket nor in the totals."""
    requests = Requests({RPM: 60, TPM: 600}, burst_seconds=60)
    before = requests.rate_limits._counted
    charge = requests.charge(0.0, tokens=100, most=50.0)
    if request_counts:
        requests.rate_limits.settle(charge, 0.0, request=False)
    else:
        requests.rate_limits.undo(charge)
    assert tuple(requests.rate_limits._counted) == tuple(before)
    assert requests.rate_limits.used(0.0) == {"requests_per_minute": 0, "tokens_per_minute": 0}
    assert requests.rate_limits._outstanding == [0, 0, 0]


def test_rate_limits_refusal_tells_the_level_of_a_given_limit() -> None:
    """Of the unit that it names, else of the one with the least left."""
    requests = Requests({RPM: 60, TPM: 6000}, burst_seconds=60)
    charge = requests.charge(0.0, tokens=10)
    requests.rate_limits.settle(charge, 0.0)
    requests.rate_limits.refuse(charge, 0.0, 3.0, "tokens", told=False)
    used = requests.rate_limits.used(0.0)
    assert used["tokens_per_minute"] > 0.99
    assert used["requests_per_minute"] < 0.05


def told_tokens(capacity: float = 1000.0) -> tuple[Requests, TokenBucket]:
    """Return requests whose answers told 60,000 tokens a minute and a bucket of `capacity`; the bucket."""
    requests = Requests()
    charge = requests.charge(0.0)
    requests.rate_limits.settle(charge, None)
    remaining = capacity / 2
    status = RateLimitStatus("tokens", 60_000, remaining, (capacity - remaining) / 1000)
    requests.rate_limits.learn([status], charge, 0.0)
    (limit,) = requests.rate_limits.limited
    assert limit.bucket.capacity == pytest.approx(capacity)
    return requests, limit.bucket


@pytest.mark.parametrize(
    ("seconds", "output", "weight"),
    [(0.5, 100.0, 0.5), (1.0, 100.0, 0.25), (1.0, 50.0, 0.5), (0.1, 100.0, 1.0), (1.0, 0.0, 1.0)],
)
def test_rate_limits_weigh_outstanding_tokens_by_the_latency(
    seconds: float, output: float, weight: float
) -> None:
    """A quarter of the bucket, in seconds of its rate, over the latency of the answers' own tokens."""
    requests, bucket = told_tokens()
    charge = requests.charge(1.0, tokens=100 - output)
    requests.rate_limits.settle(charge, 100)
    requests.rate_limits.answered(charge, 1.0 + seconds, output)
    assert bucket.weight == pytest.approx(weight)


def test_rate_limits_forget_outstanding_tokens_of_a_parent_process() -> None:
    """Requests in flight do not end in a fork."""
    requests, bucket = told_tokens()
    charge = RequestAccount()
    charge.output = 300
    requests.rate_limits.charge(charge, 0.0)
    assert bucket.outstanding == 300
    requests.rate_limits.forget_outstanding()
    assert bucket.outstanding == 0
    assert requests.rate_limits._outstanding == [0, 0, 0]


@pytest.mark.parametrize("first", ["given", "told"])
def test_rate_limits_use_the_stock_of_a_given_limit_where_the_provider_tells_its_own(first: str) -> None:
    """Its size is known then, so that nothing has to be found out; not where it was set by hand."""
    for burst_seconds, capacity in ((None, 600), (2.0, 20)):
        requests = Requests(burst_seconds=burst_seconds)
        if first == "given":
            requests.rate_limits.set_limits({RPM: 600})
            requests.wait(0.0)
        requests.answer(0.0, RateLimitStatus("requests", 600, 599, None))
        requests.rate_limits.set_limits({RPM: 600})
        requests.wait(0.0)
        given_bucket = requests.rate_limits.limited[0].bucket
        assert (given_bucket.capacity, given_bucket.stock) == (capacity, 0)


@pytest.mark.parametrize(("most", "charged"), [(None, 100.0), (400.0, 500.0)])
def test_rate_limits_do_not_charge_a_refused_request_to_the_told_level(
    most: float | None, charged: float
) -> None:
    """The provider's level is that before the request, which was given back here."""
    requests, bucket = told_tokens(6000)
    charge = requests.charge(1.0, tokens=100, most=most)
    requests.rate_limits.settle(charge, 0.0)
    status = RateLimitStatus("tokens", 60_000, 5000, None)
    requests.rate_limits.learn([status], charge, 1.0, refused=True)
    for limit in requests.rate_limits._all():
        assert limit.bucket.level == pytest.approx(5000 - requests.rate_limits._outstanding[limit.way])
    assert charge.counted[2] - charge.counted[1] == charged - 100
    assert bucket.limit == pytest.approx(60_000)


STANDINGS = st.builds(
    RateLimitStatus,
    unit=st.sampled_from(["requests", "tokens"]),
    limit=st.floats(1, 1e9),
    remaining=st.floats(0, 1e9),
    reset=st.one_of(st.none(), st.floats(0.001, 86_400)),
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["charge", "settle", "undo", "learn", "refuse", "wait"]),
            st.floats(0, 5),
            st.floats(0, 10_000),
            STANDINGS,
        ),
        max_size=60,
    ),
    st.booleans(),
)
def test_rate_limits_counts_balance_for_any_events(
    events: list[tuple[str, float, float, RateLimitStatus]], given_too: bool
) -> None:
    """When all requests have ended, nothing is outstanding, and a wait is bounded by the charges."""
    requests = Requests({RPM: 60, TPM: 6000} if given_too else {})
    now = 0.0
    open_: list[RequestAccount] = []
    for what, pause, tokens, status in events:
        now += pause
        told = status._replace(remaining=min(status.remaining, status.limit))
        if what == "charge" or not open_:
            open_.append(requests.charge(now, tokens, most=tokens if int(tokens) % 2 else None))
            continue
        if what == "wait":
            assert requests.wait(now, tokens, wanted=True) >= 0
            continue
        charge = open_.pop(0)
        if what == "undo":
            requests.rate_limits.undo(charge)
        else:
            requests.rate_limits.settle(charge, tokens)
        if what == "learn":
            requests.rate_limits.learn([told], charge, now, refused=False)
        if what == "refuse":
            requests.rate_limits.refuse(charge, now, pause, told.unit, told=False)
    for charge in open_:
        requests.rate_limits.settle(charge, None)
    assert requests.rate_limits._outstanding == pytest.approx([0, 0, 0], abs=1e-3)
    for share in requests.rate_limits.used(now).values():
        assert 0 <= share <= 1


def test_rate_limits_given_by_hand_are_changed_and_lifted() -> None:
    """Each change is told once, with its reason; a lifted limit holds nothing back."""
    requests = Requests({RPM: 60, TPM: 600}, burst_seconds=60)
    requests.charge(0.0, tokens=600)
    assert requests.wait(0.0, tokens=600) > 0
    requests.rate_limits.set_limits({RPM: 120, TPM: None, ("tokens", "day"): None})
    requests.rate_limits.set_limits({RPM: 120})
    assert requests.changes == [
        ("requests_per_minute", 60, 120, BY_HAND),
        ("tokens_per_minute", 600, None, "lifted by hand"),
    ]
    assert requests.rate_limits.given() == {"requests_per_minute": 120}
    assert requests.wait(0.0, tokens=600) == 0
    assert [limit.bucket.unit for limit in requests.rate_limits.limited] == ["requests"]
    assert requests.rate_limits.stale is False


def test_rate_limits_that_change_keep_what_was_used() -> None:
    """Capacity, level and stock change with the rate; the refill until then is the old rate's."""
    requests = Requests({RPM: 60}, burst_seconds=10)
    for _ in range(10):
        requests.charge(0.0)
    requests.rate_limits.set_limits({RPM: 120})
    assert requests.wait(2.0) == 0
    (limit,) = requests.rate_limits.limited
    bucket = limit.bucket
    assert (bucket.rate, bucket.capacity, bucket.level, bucket.stock) == (2, 20, 4, 0)
    requests.rate_limits.set_limits({RPM: 3})
    requests.wait(2.0)
    assert requests.rate_limits.limited[0].bucket is bucket
    assert (bucket.rate, bucket.capacity) == (0.05, 1), "one request always fits in the end"
    assert bucket.level == pytest.approx(0.1)
    unknown = Requests({RPM: 60})
    unknown.wait(0.0)
    unknown.rate_limits.set_limits({RPM: 120})
    unknown.wait(0.0)
    bucket = unknown.rate_limits.limited[0].bucket
    assert (bucket.capacity, bucket.level, bucket.stock) == (2, 2, 118)


@pytest.mark.parametrize(("between", "explained"), [(198, True), (197, False)])
def test_rate_limits_explain_refusals_until_they_are_more_than_one_in_a_hundred(
    *, between: int, explained: bool
) -> None:
    """Of all requests since the first of three waves; those that were not sent do not count."""
    requests = Requests({RPM: 6000}, burst_seconds=60)
    limits = requests.rate_limits

    def let_in(now: float, count: int) -> None:
        for _ in range(count):
            limits.settle(requests.charge(now), None)

    def refused(now: float) -> bool:
        charge = requests.charge(now)
        limits.settle(charge, 0.0, request=False)
        return not limits.refuse(charge, now, 0.0, None, told=False)

    assert not any(refused(0.0) for _ in range(2))
    let_in(0.0, 50)
    assert not refused(100.0)
    let_in(100.0, between // 2)
    assert not refused(101.0)
    let_in(101.0, between - between // 2)
    for _ in range(7):
        limits.undo(requests.charge(101.0))
    assert refused(102.0) is not explained


@pytest.mark.parametrize(
    ("wait", "unit", "told"), [(5.0, "tokens", True), (0.0, "tokens", False), (5.0, "requests", False)]
)
def test_rate_limits_refusal_that_says_nothing_new_changes_no_level(
    wait: float, unit: Unit, *, told: bool
) -> None:
    """One that told the state of the limits, or named no wait, or a limit that is not known."""
    requests, bucket = told_tokens()
    charge = requests.charge(0.0)
    requests.rate_limits.settle(charge, None)
    level = bucket.level
    assert requests.rate_limits.refuse(charge, 0.0, wait, unit, told=told)
    assert bucket.level == level


def test_rate_limits_refusal_is_that_of_a_told_limit_rather_than_of_a_given_one() -> None:
    """Without a known limit nothing explains it."""
    requests, bucket = told_tokens()
    requests.rate_limits.set_limits({TPM: 6_000})
    charge = requests.charge(0.0)
    requests.rate_limits.settle(charge, None)
    given = next(limit.bucket for limit in requests.rate_limits.limited if limit.bucket is not bucket)
    level = given.level
    assert requests.rate_limits.refuse(charge, 0.0, 5.0, "tokens", told=False)
    assert bucket.level == pytest.approx(-5000, abs=1)
    assert given.level == level
    nothing = Requests()
    assert not nothing.rate_limits.refuse(nothing.charge(), 0.0, 5.0, None, told=False)


def test_rate_limits_answer_of_few_tokens_has_its_share_of_one() -> None:
    """Half a token of one in an answer that took 50 s: half of them count for a bucket of 10 s."""
    requests, bucket = told_tokens(capacity=10_000)
    charge = requests.charge(1.0, tokens=0.5)
    requests.rate_limits.settle(charge, 1)
    requests.rate_limits.answered(charge, 51.0, 0.5)
    assert bucket.weight == pytest.approx(10 / (4 * 50 * 0.5))


def test_rate_limits_given_for_a_day_may_be_used_at_once() -> None:
    """All of it, whatever the burst of a minute's limits."""
    requests = Requests({("requests", "day"): 86_400}, burst_seconds=1)
    requests.wait(5.0)
    (limit,) = requests.rate_limits.limited
    assert (limit.bucket.rate, limit.bucket.capacity, limit.bucket.level, limit.bucket.at) == (
        1,
        86_400,
        86_400,
        5,
    )
    assert limit.bucket.stock == 0


def test_rate_limits_given_for_a_minute_begin_with_a_second() -> None:
    """At least with one request; the rest of the minute is a stock."""
    found = {}
    for given_ in (0.5, 30, 600):
        requests = Requests({RPM: given_})
        requests.wait(0.0)
        bucket = requests.rate_limits.limited[0].bucket
        found[given_] = bucket.capacity, bucket.stock
    assert found == {0.5: (1, 0), 30: (1, 29), 600: (10, 590)}


@pytest.mark.parametrize("burst_seconds", [None, 1.0])
@pytest.mark.parametrize(
    ("name", "limit"), [("requests_per_minute", RPM), ("tokens_per_minute", TPM), ("tokens_per_day", TPD)]
)
def test_rate_limits_name_the_tightest(
    burst_seconds: float | None, name: str, limit: tuple[Unit, Period]
) -> None:
    """The one that a request waits for longest; none if it fits into all."""
    requests = Requests({RPM: 6000, TPM: 6_000_000, TPD: 86_400_000, limit: 60}, burst_seconds)
    account = RequestAccount()
    account.input = 1
    requests.wait(0.0)
    assert requests.rate_limits.tightest(account) is None
    requests.charge(0.0, tokens=60)
    assert requests.rate_limits.tightest(account) == name


def test_rate_limits_told_below_what_the_request_had_are_not_believed() -> None:
    """It was let in; the other limits of the reply are."""
    requests = Requests()
    charge = requests.charge(0.0)
    requests.rate_limits.settle(charge, 150)
    tokens = RateLimitStatus("tokens", 100, 50, 1.0)
    calls = RateLimitStatus("requests", 100, 50, 1.0)
    requests.rate_limits.learn([tokens, calls], charge, 0.0, cost=150)
    assert requests.rate_limits.told() == {"requests_per_minute": 100}
    requests.rate_limits.learn([tokens], charge, 0.0, cost=100)
    assert requests.rate_limits.told() == {"requests_per_minute": 100, "tokens_per_minute": 100}


def test_rate_limits_told_reset_shows_a_debt() -> None:
    """Nothing remains, and all is back later than an empty bucket would be full; its capacity stays."""
    requests, bucket = told_tokens()
    charge = requests.charge(1.0)
    requests.rate_limits.settle(charge, None)
    requests.rate_limits.learn([RateLimitStatus("tokens", 60_000, 0, 3.0)], charge, 1.0)
    assert bucket.level == pytest.approx(-2000)
    assert bucket.capacity == pytest.approx(1000)


def test_rate_limits_told_by_an_earlier_request_leave_later_ones() -> None:
    """A limit that no later request told is learned from it all the same."""
    requests = Requests()
    first, second = requests.charge(0.0), requests.charge(1.0)
    for charge in (first, second):
        requests.rate_limits.settle(charge, None)
    requests.rate_limits.learn([RateLimitStatus("tokens", 60_000, 500, 0.5)], second, 1.0)
    bucket = requests.rate_limits.limited[0].bucket
    level = bucket.level
    statuses = [RateLimitStatus("tokens", 60_000, 10, 0.9), RateLimitStatus("requests", 60, 30, 30.0)]
    requests.rate_limits.learn(statuses, first, 1.0)
    assert bucket.level == level
    assert "requests_per_minute" in requests.rate_limits.told()


@pytest.mark.parametrize(("capacity", "reserve"), [(500.0, 50.0), (1000.0, 100.0), (5000.0, 100.0)])
def test_rate_limits_told_level_is_refilled_since_the_request_was_sent(
    capacity: float, reserve: float
) -> None:
    """And a reserve is kept: a tenth of a second, at most a tenth of the bucket."""
    requests, bucket = told_tokens(capacity)
    assert bucket.reserve == pytest.approx(reserve)
    charge = requests.charge(10.0)
    requests.rate_limits.settle(charge, None)
    status = RateLimitStatus("tokens", 60_000, capacity / 2, capacity / 2 / 1000)
    requests.rate_limits.learn([status], charge, 10.1)
    assert bucket.level == pytest.approx(capacity / 2 + 100)
