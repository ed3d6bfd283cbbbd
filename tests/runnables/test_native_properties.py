"""Items that meet at a list call, over random sizes, costs, arrivals, failures and cancellations.

Time is virtual, so that arrivals, lingering and timeouts come in every order there is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from batchrt import ItemTimeoutError, Runnable, RunnableLambda
from tests.runnables.virtual import run_in_virtual_time

BACKENDS = ["asyncio", "trio"]

moments = st.sampled_from([0.0, 0.0, 0.001, 0.005, 0.01, 0.02, 0.1, 0.35, 1.0])


@dataclass
class Case:
    """Describe the items and the run."""

    arrivals: list[float]
    costs: list[int]
    guilty: set[int]
    size: int | None
    most: int | None
    seconds: float
    cap: int | None
    timeout: float | None
    window: int | None
    linger: float
    max_linger: float
    retried: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    count = draw(st.integers(1, 30))
    return Case(
        arrivals=draw(st.lists(moments, min_size=count, max_size=count)),
        costs=draw(st.lists(st.integers(1, 6), min_size=count, max_size=count)),
        guilty=draw(st.sets(st.integers(0, count - 1), max_size=3)),
        size=draw(st.sampled_from([1, 2, 3, 5, 8, None])),
        most=draw(st.sampled_from([4, 7, 12, None])),
        seconds=draw(moments),
        cap=draw(st.sampled_from([1, 2, 3, 7, None])),
        timeout=draw(st.sampled_from([None, None, 0.005, 0.05, 0.3])),
        window=draw(st.sampled_from([None, None, 1, 4])),
        linger=draw(st.sampled_from([0.0, 0.01, 0.2])),
        max_linger=draw(st.sampled_from([0.0, 0.1, 0.5])),
        retried=draw(st.booleans()),
    )


class Guilty(Exception):
    """The error of a list with a bad item in it."""


@dataclass
class Record:
    """Record the lists sent and the peak of concurrent calls."""

    lists: list[list[int]] = field(default_factory=list)
    answered: Counter[int] = field(default_factory=Counter)
    active: int = 0
    peak: int = 0

    def __enter__(self) -> None:
        self.active += 1
        self.peak = max(self.peak, self.active)

    def __exit__(self, *_: object) -> None:
        self.active -= 1


def chain_of(case: Case, record: Record) -> Runnable[int, str]:
    async def arrive(place: int) -> int:
        with record:
            await anyio.sleep(case.arrivals[place])
        return place

    class Lists(Runnable[int, int]):
        max_batch_size = case.size
        max_batch_cost = case.most
        linger = case.linger
        max_linger = case.max_linger

        def cost(self, place: int) -> int:
            return case.costs[place]

        async def abatch_native(self, places: list[int]) -> list[int]:
            record.lists.append(places)
            with record:
                await anyio.sleep(case.seconds)
            if case.guilty.intersection(places):
                raise Guilty(places)
            record.answered.update(places)
            return [place * 100 for place in places]

    async def store(value: int) -> str:
        with record:
            await anyio.sleep(0.001)
        return f"stored {value}"

    lists: Runnable[int, int] = Lists()
    if case.retried:
        lists = lists.with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
    return RunnableLambda(arrive) | lists | store


def config_of(case: Case) -> Any:
    keys = {"max_concurrency": case.cap, "timeout": case.timeout, "window": case.window}
    return {key: value for key, value in keys.items() if value is not None}


def check_lists(case: Case, record: Record) -> None:
    """Assert that the lists were within their bounds, and nothing was sent twice without a reason."""
    for places in record.lists:
        assert len(places) <= (case.size or len(places))
        assert len(places) == 1 or case.most is None or sum(case.costs[p] for p in places) <= case.most
        assert len(set(places)) == len(places)
    # Only in a list that failed may an item have been before.
    failed = Counter(place for places in record.lists if case.guilty.intersection(places) for place in places)
    sent = Counter(place for places in record.lists for place in places)
    assert all(sent[place] <= failed[place] + 1 for place in sent)
    assert all(times == 1 for times in record.answered.values())
    assert case.cap is None or record.peak <= case.cap
    assert record.active == 0


@pytest.mark.parametrize("backend", BACKENDS)
@given(case=cases())
def test_native_property_every_item_gets_its_own(backend: str, case: Case) -> None:
    """No list exceeds its bounds, nothing is sent twice, only bad items fail, and no run hangs."""
    record = Record()

    async def main() -> None:
        before = len(anyio.get_running_tasks())
        outputs: list[Any] = await chain_of(case, record).abatch(
            range(len(case.arrivals)), config_of(case), return_exceptions=True
        )
        for place, output in enumerate(outputs):
            if isinstance(output, ItemTimeoutError):
                assert case.timeout is not None
            elif place in case.guilty:
                assert isinstance(output, Guilty)
                assert output.args == ([place],)
            else:
                assert output == f"stored {place * 100}"
        assert len(anyio.get_running_tasks()) == before

    run_in_virtual_time(backend, main)
    check_lists(case, record)
    event(f"longest list {max((len(places) for places in record.lists), default=0)}")


@pytest.mark.parametrize("backend", BACKENDS)
@given(case=cases(), cut=moments)
def test_native_property_cancelling_ends_the_lists(backend: str, case: Case, cut: float) -> None:
    """After a cancellation at any moment, nothing of the call is running."""
    record = Record()

    async def main() -> None:
        before = len(anyio.get_running_tasks())
        with anyio.move_on_after(cut):
            await chain_of(case, record).abatch(
                range(len(case.arrivals)), config_of(case), return_exceptions=True
            )
        assert record.active == 0
        sent = len(record.lists)
        await anyio.sleep(5)
        assert len(record.lists) == sent
        assert len(anyio.get_running_tasks()) == before

    run_in_virtual_time(backend, main)
    check_lists(case, record)


@pytest.mark.parametrize("backend", BACKENDS)
@given(case=cases(), cuts=st.lists(st.sampled_from([0.0, 0.004, 0.03, 0.5, 9.0]), min_size=30, max_size=30))
def test_native_property_requests_share_lists_and_leave(backend: str, case: Case, cuts: list[float]) -> None:
    """A cancelled call takes nothing from the others."""
    record = Record()
    case.timeout = None

    async def main() -> None:
        before = len(anyio.get_running_tasks())
        chain = chain_of(case, record)
        (lists,) = (step for step in _unwrapped(chain) if isinstance(step, Runnable))
        lists.share_lists = True
        outputs: dict[int, Any] = {}

        async def request(place: int) -> None:
            with anyio.move_on_after(cuts[place]) as scope:
                try:
                    outputs[place] = await chain.ainvoke(place)
                except Guilty as error:
                    outputs[place] = error
            if scope.cancelled_caught:
                outputs[place] = None

        async with anyio.create_task_group() as group:
            for place in range(len(case.arrivals)):
                group.start_soon(request, place)
        for place, output in outputs.items():
            if output is None:
                continue
            if place in case.guilty:
                assert isinstance(output, Guilty)
                assert output.args == ([place],)
            else:
                assert output == f"stored {place * 100}"
        assert record.active == 0
        assert len(anyio.get_running_tasks()) == before

    case.cap = None
    run_in_virtual_time(backend, main)
    check_lists(case, record)


def _unwrapped(chain: Any) -> list[Any]:
    return [getattr(chain.middle[0], "bound", chain.middle[0])]
