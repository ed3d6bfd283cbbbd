"""Another attempt for the item that failed; a strand that sleeps holds no slot."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest
import tenacity

from batchrt import RetryPolicy, RunnableLambda
from batchrt.runtime.item import Item
from batchrt.runtime.retry import first_failure, note_failure, wait_exponential_jitter
from batchrt.runtime.run import Run
from batchrt.runtime.slots import Slots
from batchrt.runtime.strand import Strand
from tests.runtime.harness import Boom, Watch, all_slots_come_back, config, on_trio

pytestmark = pytest.mark.anyio

WAIT = {"initial": 100.0, "jitter": 0.0}


def state(attempt: int) -> tenacity.RetryCallState:
    nothing: Any = None
    made = tenacity.RetryCallState(nothing, None, (), {})
    made.attempt_number = attempt
    return made


def test_retry_waits_grow_exponentially_with_jitter_up_to_the_most() -> None:
    """Waits grow exponentially with jitter up to the most."""
    wait = wait_exponential_jitter(lambda: 0.5, initial=1, exp_base=2, max=10, jitter=2)
    assert [wait(state(attempt)) for attempt in (1, 2, 3, 4, 5)] == [2, 3, 5, 9, 10]


def test_retry_wait_that_overflows_is_the_most() -> None:
    """A wait that overflows is the most."""
    wait = wait_exponential_jitter(lambda: 0.0, max=60)
    assert wait(state(100_000)) == 60


def test_retry_parts_default_to_tenacitys() -> None:
    """The parts default to tenacitys."""
    ours = wait_exponential_jitter(lambda: 0.0)
    theirs = tenacity.wait_exponential_jitter(jitter=0)
    assert [ours(state(n)) for n in range(1, 9)] == [theirs(state(n)) for n in range(1, 9)]


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        *(({name: 3}, TypeError, f"{name} must be one of tenacity's") for name in ("retry", "stop", "wait")),
        *(
            ({name: value}, kind, f"{name} must be {says}")
            for name in ("max_retry_after", "patience")
            for value, kind, says in (
                ("5", TypeError, "a number of seconds"),
                (None, TypeError, "a number of seconds"),
                (True, TypeError, "a number of seconds"),
                (-1, ValueError, "0 seconds or more, and finite"),
                (math.inf, ValueError, "0 seconds or more, and finite"),
                (math.nan, ValueError, "0 seconds or more, and finite"),
            )
        ),
    ],
)
def test_retry_policy_refuses_options_that_make_no_sense(
    options: dict[str, Any], kind: type[Exception], says: str
) -> None:
    """By name, before anything is sent; 0 seconds are fine."""
    with pytest.raises(kind, match=says):
        RetryPolicy(**options)
    assert RetryPolicy(max_retry_after=0, patience=0).patience == 0


def test_retry_state_measures_seconds_by_the_clock_of_the_run() -> None:
    """So that `stop_after_delay` counts virtual seconds where the loop's time is virtual."""

    async def main() -> None:
        slots = Slots(1)
        strand = Strand(Run(slots), Item(0), {}, slots)
        made = first_failure(Boom(), strand)
        assert made.seconds_since_start == 0
        await anyio.sleep(100)
        note_failure(made, Boom(), strand)
        assert made.seconds_since_start == pytest.approx(100)

    on_trio(main)


def test_retry_others_work_while_an_item_sleeps() -> None:
    """At cap 1: the second item is done long before the first one's next attempt."""
    events: list[str] = []
    failed: set[int] = set()

    async def leaf(value: int) -> int:
        events.append(f"{value} at {trio_time():g}")
        if value == 0 and value not in failed:
            failed.add(value)
            raise Boom
        return value

    def trio_time() -> float:
        return anyio.current_time() - started[0]

    started = [0.0]
    chain = RunnableLambda(leaf).with_retry(exponential_jitter_params=WAIT)

    async def main() -> None:
        started[0] = anyio.current_time()
        with all_slots_come_back():
            assert await chain.abatch([0, 1, 2], config(max_concurrency=1)) == [0, 1, 2]

    on_trio(main)
    assert events == ["0 at 0", "1 at 0", "2 at 0", "0 at 100"]


def test_retry_retries_of_many_items_sleep_at_the_same_time() -> None:
    """There is no round and no barrier: a thousand sleep as long as one, at cap 1."""
    failed: set[int] = set()

    async def leaf(value: int) -> int:
        if value not in failed:
            failed.add(value)
            raise Boom
        return value

    chain = RunnableLambda(leaf).with_retry(exponential_jitter_params=WAIT)

    async def main() -> float:
        before = anyio.current_time()
        outputs = await chain.abatch(range(1000), config(max_concurrency=1))
        assert outputs == list(range(1000))
        return anyio.current_time() - before

    assert on_trio(main) == 100


def test_retry_timeout_covers_an_items_retries_and_waits() -> None:
    """A timeout covers an items retries and waits."""
    attempts: list[float] = []

    async def leaf(_: object) -> None:
        attempts.append(anyio.current_time())
        raise Boom

    chain = RunnableLambda(leaf).with_retry(stop_after_attempt=10, exponential_jitter_params=WAIT)

    async def main() -> Any:
        before = anyio.current_time()
        outcome = (await chain.abatch([0], config(timeout=350), return_exceptions=True))[0]
        assert anyio.current_time() - before == 350
        return outcome

    assert type(on_trio(main)).__name__ == "ItemTimeoutError"
    assert [attempt - attempts[0] for attempt in attempts] == [0, 100, 300]


async def test_retry_only_what_failed_is_tried_again() -> None:
    """Only what failed is tried again."""
    watch, calls = Watch(), []

    async def leaf(value: int) -> int:
        with watch:
            calls.append(value)
            if value == 1 and calls.count(1) < 3:
                raise Boom
            return value

    chain = RunnableLambda(leaf).with_retry(wait_exponential_jitter=False)
    result = await chain.arun(range(3), config(max_concurrency=1))
    assert result.outputs == [0, 1, 2]
    assert sorted(calls) == [0, 1, 1, 1, 2]
    assert [outcome.attempts for outcome in result] == [1, 3, 1]
    assert watch.peak == 1


async def test_retry_last_error_is_raised_as_itself() -> None:
    """The last error is raised as itself."""
    errors = [Boom(1), Boom(2), Boom(3)]
    left = iter(errors)

    async def leaf(_: object) -> None:
        raise next(left)

    chain = RunnableLambda(leaf).with_retry(wait_exponential_jitter=False)
    with pytest.raises(Boom) as caught:
        await chain.abatch([0])
    assert caught.value is errors[-1]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_retry_interrupt_is_not_tried_again(kind: type[BaseException]) -> None:
    """An interrupt is not tried again."""
    calls: list[int] = []

    async def leaf(value: int) -> None:
        calls.append(value)
        raise kind

    chain = RunnableLambda(leaf).with_retry(
        retry_if_exception_type=(BaseException,), wait_exponential_jitter=False
    )
    with pytest.raises(kind):
        await chain.abatch([0], return_exceptions=True)
    assert calls == [0]
