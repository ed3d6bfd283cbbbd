"""What a run may spend: set aside, settled, and never more than the limit if estimates hold."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt import Price, SpendingLimitError, Usage
from batchrt.runtime.item import Item
from batchrt.runtime.run import Run
from batchrt.runtime.slots import Slots
from batchrt.runtime.spending import Reservation, Spending
from batchrt.runtime.strand import Strand
from tests.limits.quotas import BACKENDS, usage_of, virtually

on_both = pytest.mark.parametrize("backend", BACKENDS)


def new_strand(slots: Slots | None = None) -> Strand:
    slots = slots or Slots(None)
    return Strand(Run(slots), Item(0), {}, slots)


def of_tokens(limit: int, above: Spending | None = None) -> Spending:
    return Spending(limit, None, None, above)


def nothing_aside(spending: Spending) -> bool:
    """Whether no request is in flight or waits."""
    aside = (spending._tokens_aside, spending._cost_aside)
    return not spending._under_way and not spending._waiting and max(map(abs, aside)) < 1e-6


async def reserve(spending: Spending, tokens: float) -> Reservation:
    return await spending.reserve("m", lambda: (tokens, 0, True), new_strand())


def test_spending_what_is_billed_takes_the_place_of_what_was_set_aside() -> None:
    """For a bill of nothing, of another amount, and an unknown one, which counts as expected."""

    async def main() -> None:
        spending = of_tokens(100)
        spending.settle(await reserve(spending, 40), usage_of(10))
        assert spending.tokens == 10
        spending.release(await reserve(spending, 40))
        assert spending.tokens == 10
        spending.settle(await reserve(spending, 40), None)
        assert spending.tokens == 50
        assert nothing_aside(spending)

    virtually("trio", main)


def test_spending_exactly_the_limit_may_be_spent() -> None:
    """And not one token more."""

    async def main() -> None:
        spending = of_tokens(100)
        spending.settle(await reserve(spending, 100), usage_of(100))
        with pytest.raises(SpendingLimitError, match=r"max_tokens_total of 100 is reached: 100 were spent"):
            await reserve(spending, 1)
        assert nothing_aside(spending)

    virtually("trio", main)


def test_spending_money_is_counted_by_the_prices_of_the_model() -> None:
    """Of both kinds of tokens."""

    async def main() -> None:
        prices = {"cheap": Price(1e6), "dear": Price(2e6, 5e6)}
        spending = Spending(None, 100, prices)
        strand = new_strand()
        spending.settle(await spending.reserve("cheap", lambda: (10, 10, True), strand), Usage(10, 10, 20))
        assert spending.cost == 10
        spending.settle(await spending.reserve("dear", lambda: (10, 2, True), strand), Usage(10, 4, 14))
        assert spending.cost == 10 + 20 + 20
        with pytest.raises(SpendingLimitError, match="max_cost of 100 is reached: 50 was spent") as caught:
            await spending.reserve("dear", lambda: (0, 11, True), strand)
        assert (caught.value.limit, caught.value.cost, caught.value.tokens) == ("max_cost", 50, 34)
        assert caught.value.started

    virtually("trio", main)


def test_spending_what_a_cache_or_a_tier_saves_is_counted_and_expected() -> None:
    """A request is expected to cost the part of the full price that those before it did."""

    async def main() -> None:
        spending = Spending(None, 100.0, Price(1_000_000, 1_000_000), None)

        async def spend(usage: Usage) -> float:
            reservation = await spending.reserve("m", lambda: (10, 0, True), new_strand())
            ((_, aside),) = reservation._parts
            spending.settle(reservation, usage)
            return aside.cost

        assert await spend(Usage(10, 0, 10, cached_input_tokens=10)) == 10.0
        assert spending.cost == pytest.approx(1.0)
        assert await spend(Usage(10, 0, 10, service_tier="flex")) == pytest.approx(1.0)
        assert spending.cost == pytest.approx(6.0)
        assert await spend(Usage(10, 0, 10)) == pytest.approx(3.0)  # 6 of 20
        assert spending.cost == pytest.approx(16.0)
        other = await spending.reserve("n", lambda: (10, 0, True), new_strand())
        assert other._parts[0][1].cost == 10.0  # of another model nothing is known
        spending.release(other)
        assert nothing_aside(spending)

    virtually("trio", main)


@pytest.mark.parametrize(
    ("prices", "known"), [({"a": Price(1), "b": Price(2)}, "'a', 'b'"), (None, "none"), ({}, "none")]
)
def test_spending_model_without_a_price_cannot_be_held_to_a_limit_of_money(prices: Any, known: str) -> None:
    """It is no end of the run: others have prices. Without such a limit none is needed."""

    async def main() -> None:
        spending = Spending(None, 5, prices)
        with pytest.raises(ValueError, match=f"price for the model 'm'; prices has {known}"):
            await reserve(spending, 1)
        assert spending.ended is None
        assert nothing_aside(spending)
        of_both = Spending(100, None, prices)
        of_both.settle(await reserve(of_both, 10), usage_of(10))
        assert (of_both.tokens, of_both.cost) == (10, 0)

    virtually("trio", main)


@on_both
def test_spending_request_that_does_not_fit_waits_for_requests_in_flight(backend: str) -> None:
    """And goes on if less was billed than was set aside; without a slot meanwhile."""
    order: list[str] = []

    async def main() -> None:
        spending, slots = of_tokens(100), Slots(1)
        first = await reserve(spending, 80)

        async def second() -> None:
            strand = new_strand(slots)
            await strand.take()
            reservation = await spending.reserve("m", lambda: (50, 0, True), strand)
            order.append("second")
            spending.settle(reservation, usage_of(50))
            strand.close()

        async with anyio.create_task_group() as group:
            group.start_soon(second)
            await anyio.sleep(1)
            assert slots.try_take()
            slots.give()
            order.append("first")
            spending.settle(first, usage_of(20))
        assert order == ["first", "second"]
        assert spending.tokens == 70
        assert nothing_aside(spending)

    virtually(backend, main)


@on_both
def test_spending_waiting_requests_each_get_an_error_at_the_end(backend: str) -> None:
    """Each has an error of its own, as tracebacks grow."""

    async def main() -> None:
        spending = of_tokens(100)
        first = await reserve(spending, 80)
        errors: list[SpendingLimitError] = []

        async def other() -> None:
            with pytest.raises(SpendingLimitError) as caught:
                await reserve(spending, 50)
            errors.append(caught.value)

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(other)
            await anyio.sleep(1)
            assert errors == []
            spending.settle(first, usage_of(80))
        assert len({id(error) for error in errors}) == 20
        assert spending.ended is not None
        assert nothing_aside(spending)

    virtually(backend, main)


@on_both
def test_spending_later_request_does_not_overtake(backend: str) -> None:
    """Though it would fit beside what is under way: else what is large might wait for ever."""
    order: list[int] = []

    async def main() -> None:
        spending = of_tokens(100)
        first = await reserve(spending, 60)

        async def other(tokens: int) -> None:
            reservation = await reserve(spending, tokens)
            order.append(tokens)
            spending.settle(reservation, usage_of(tokens))

        async with anyio.create_task_group() as group:
            for tokens in (45, 5):
                group.start_soon(other, tokens)
                await anyio.sleep(1)
            assert order == []
            spending.settle(first, usage_of(10))
        assert sorted(order) == [5, 45]
        assert nothing_aside(spending)

    virtually(backend, main)


@on_both
def test_spending_what_is_known_in_the_meantime_counts(backend: str) -> None:
    """Waiting requests are judged by it, and a guess lets only a few through."""

    async def main() -> None:
        spending, expected, known = of_tokens(1000), 100.0, False
        reserved: list[Reservation] = []

        async def other() -> None:
            reserved.append(await spending.reserve("m", lambda: (expected, 0, known), new_strand()))

        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(other)
            await anyio.sleep(1)
            assert len(reserved) == 4
            expected, known = 10.0, True
            spending.settle(reserved[0], usage_of(10))
        assert len(reserved) == 50
        for reservation in reserved[1:]:
            spending.settle(reservation, usage_of(10))
        assert spending.tokens == 500
        assert nothing_aside(spending)

    virtually(backend, main)


@on_both
def test_spending_cancelled_waiter_leaves_nothing_behind(backend: str) -> None:
    """Neither in a run nor in the one around it."""

    async def main() -> None:
        above = of_tokens(100)
        inner = of_tokens(1000, above)
        first = await reserve(above, 80)
        with anyio.move_on_after(1) as scope:
            await reserve(inner, 50)
        assert scope.cancelled_caught
        assert inner._under_way == 0
        above.settle(first, usage_of(0))
        inner.settle(await reserve(inner, 100), usage_of(100))
        for spending in (inner, above):
            spending._wake_all()
            assert nothing_aside(spending)
            assert spending.tokens == 100

    virtually(backend, main)


def test_spending_what_is_nested_is_held_to_both_limits() -> None:
    """What it spends counts in both; an end of its own is none of the other."""

    async def main() -> None:
        above = of_tokens(100)
        inner = of_tokens(30, above)
        inner.settle(await reserve(inner, 20), usage_of(25))
        assert (inner.tokens, above.tokens) == (25, 25)
        with pytest.raises(SpendingLimitError, match="max_tokens_total of 30 "):
            await reserve(inner, 20)
        assert not above.ended
        other = of_tokens(1000, above)
        with pytest.raises(SpendingLimitError, match="max_tokens_total of 100 "):
            await reserve(other, 80)
        assert str(above.ended).startswith("the run's max_tokens_total")
        assert all(map(nothing_aside, (above, inner, other)))

    virtually("trio", main)


def test_spending_budget_has_ended_with_the_one_around_it() -> None:
    """Its own end comes first; without either there is none."""

    async def main() -> None:
        above = of_tokens(100)
        inner, poor = of_tokens(1000, above), of_tokens(10, above)
        assert (inner.ended, above.ended) == (None, None)
        with pytest.raises(SpendingLimitError):
            await reserve(poor, 20)
        assert (inner.ended, above.ended) == (None, None)
        with pytest.raises(SpendingLimitError):
            await reserve(above, 200)
        assert above.ended is not None
        assert inner.ended is above.ended
        assert poor.ended is not above.ended

    virtually("trio", main)


def test_spending_no_limit_is_none_of_its_own() -> None:
    """Then that of the run around it holds, if there is one; prices alone limit nothing."""
    above = of_tokens(5)
    assert Spending.of({}, None) is None
    assert Spending.of({"prices": Price(1), "max_cost": None}, above) is above
    assert Spending.of({"max_tokens_total": 5}, above) is not above


# Whatever requests cost


class Plan(NamedTuple):
    """Say what becomes of one request.

    Attributes:
        at: when it comes.
        expected: what it is expected to cost.
        billed: its cost; `None` if it is unknown.
        seconds: how long it takes.
        given_up: seconds after which its caller leaves, if at all.
        nested: in which of the runs it is.
    """

    at: float
    expected: int
    billed: int | None
    seconds: float
    given_up: float | None
    nested: int


PLANS = st.lists(
    st.builds(
        Plan,
        at=st.sampled_from([0.0, 0.0, 0.5, 3.0]),
        expected=st.integers(0, 40),
        billed=st.one_of(st.none(), st.just(0), st.integers(0, 60)),
        seconds=st.sampled_from([0.0, 0.5, 2.0]),
        given_up=st.sampled_from([None, None, 0.0, 0.7, 5.0]),
        nested=st.integers(0, 2),
    ),
    max_size=40,
)
LIMITS = st.tuples(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300))


async def carry_out(plans: Sequence[Plan], spendings: Sequence[Spending]) -> list[str]:
    """Send all requests as they are planned; return what became of each."""
    ends: list[str] = []

    async def send(plan: Plan) -> None:
        await anyio.sleep(plan.at)
        spending = spendings[plan.nested]
        end = "given up"
        with anyio.move_on_after(plan.given_up):
            try:
                reservation = await spending.reserve("m", lambda: (plan.expected, 0, True), new_strand())
            except SpendingLimitError:
                end = "not sent"
            else:
                try:
                    await anyio.sleep(plan.seconds)
                    end = "done"
                finally:
                    known = end == "done" and plan.billed is not None
                    spending.settle(reservation, usage_of(plan.billed or 0) if known else None)
        ends.append(end)

    async with anyio.create_task_group() as group:
        for plan in plans:
            group.start_soon(partial(send, plan))
    return ends


@given(PLANS, LIMITS, st.sampled_from(BACKENDS))
def test_spending_whatever_requests_cost_limits_hold_and_all_ends(
    plans: list[Plan], limits: tuple[int, int, int], backend: str
) -> None:
    """No more is spent than the limit and the shortfall of estimates; no request waits for ever."""

    async def main() -> None:
        above = of_tokens(limits[0])
        spendings = [above, of_tokens(limits[1], above), of_tokens(limits[2], above)]
        ends = await carry_out(plans, spendings)
        assert len(ends) == len(plans)
        short = sum(max(0, (plan.billed or 0) - plan.expected) for plan in plans)
        for spending, limit in zip(spendings, limits, strict=True):
            assert spending.tokens <= limit + short + 1e-6
            # Signals of those who left are harmless, and go with the next request.
            spending._wake_all()
            assert nothing_aside(spending)
        if "not sent" in ends:
            assert any(spending.ended for spending in spendings)

    virtually(backend, main)
