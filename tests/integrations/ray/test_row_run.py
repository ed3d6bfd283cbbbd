"""The run of a worker, on rows of several blocks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

import batchrt.integrations.ray.row_run as module
from batchrt import (
    AuthenticationError,
    ChatOpenAI,
    OpenAIEmbeddings,
    RunnableLambda,
    RunStoppedError,
    SpendingLimitError,
    StrOutputParser,
)
from batchrt.integrations.ray.row_run import RowRun
from batchrt.runnables.base import Runnable
from batchrt.runtime.outcome import Outcome
from batchrt.testing import MockProvider


@contextmanager
def running(chain: Runnable[Any, Any], **config: Any) -> Iterator[RowRun]:
    run = RowRun(chain, config)  # type: ignore[arg-type]
    try:
        yield run
    finally:
        run.close()


@contextmanager
def blocks_of(run: RowRun, *blocks: Sequence[Any]) -> Iterator[list[Future[list[Outcome[Any]]]]]:
    with ThreadPoolExecutor(len(blocks)) as pool:
        yield [pool.submit(run.outcomes, block) for block in blocks]


class Gates:
    """Let functions on the event loop wait for the test."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self._released: dict[int, threading.Event] = {}
        self._lock = threading.Lock()

    def gate(self, number: int) -> threading.Event:
        with self._lock:
            return self._released.setdefault(number, threading.Event())

    async def wait(self, number: int) -> int:
        self.begun.append(number)
        while not self.gate(number).is_set():  # noqa: ASYNC110  the test sets it in another thread
            await anyio.sleep(0.001)
        return number


def until(condition: Callable[[], bool]) -> None:
    for _ in range(20_000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it never came true")


def test_row_run_keeps_the_order_of_each_block() -> None:
    """Each block gets its own outcomes, in its own order, also with blocks from several threads."""

    async def double(number: int) -> int:
        await anyio.sleep(0.001 * (number % 5))
        return 2 * number

    blocks = [list(range(start, start + 40)) for start in range(0, 400, 40)]
    with running(RunnableLambda(double), max_concurrency=16) as run, blocks_of(run, *blocks) as futures:
        outputs = [[outcome.output for outcome in future.result()] for future in futures]
    assert outputs == [[2 * number for number in block] for block in blocks]


def test_row_run_is_not_held_up_by_a_slow_row() -> None:
    """While the last row of one block is slow, rows of other blocks use the other slots."""
    gates = Gates()
    for number in range(1, 8):
        gates.gate(number).set()
    with running(RunnableLambda(gates.wait), max_concurrency=2) as run:
        with blocks_of(run, [0, 1, 2], [3, 4], [5, 6, 7]) as (slow, *others):
            assert [[outcome.output for outcome in other.result()] for other in others] == [[3, 4], [5, 6, 7]]
            assert not slow.done()
            gates.gate(0).set()
            assert [outcome.output for outcome in slow.result()] == [0, 1, 2]


def test_row_run_caps_the_blocks_together() -> None:
    """`max_concurrency` holds for all blocks of a worker together."""
    now = most = 0

    async def count(_: int) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await anyio.sleep(0.002)
        now -= 1

    with running(RunnableLambda(count), max_concurrency=3) as run:
        with blocks_of(run, *[range(20)] * 4) as futures:
            assert [len(future.result()) for future in futures] == [20] * 4
    assert most == 3


def test_row_run_gives_each_row_its_own_error() -> None:
    """A row that fails has its error as its outcome, and the others their outputs."""

    async def invert(number: int) -> float:
        return 1 / number

    with running(RunnableLambda(invert)) as run:
        outcomes = run.outcomes([1, 0, 2])
    assert [outcome.output for outcome in outcomes] == [1.0, None, 0.5]
    assert isinstance(outcomes[1].error, ZeroDivisionError)


def test_row_run_of_lists_needs_no_further_block() -> None:
    """A list of embeddings that is not full is sent though the run goes on."""
    provider = MockProvider(dimensions=4)
    model = OpenAIEmbeddings("model", api_key="none", transport=provider.transport(), max_batch_size=8)
    with running(model) as run:
        outcomes = run.outcomes([f"text {number}" for number in range(11)])
    assert [len(outcome.output or ()) for outcome in outcomes] == [4] * 11


def test_row_run_does_nothing_for_a_block_without_rows() -> None:
    """A block without rows has no outcomes, and does not wait."""
    with running(RunnableLambda(lambda number: number)) as run:
        assert run.outcomes([]) == []


def test_row_run_is_begun_anew_after_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is refused fails the rows at hand with few requests, and a later block is tried again."""
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    provider = MockProvider(api_key="sk-right")
    bad = ChatOpenAI("model", api_key="sk-wrong", transport=provider.transport())
    good = ChatOpenAI("model", api_key="sk-right", transport=provider.transport())
    key_is_right = threading.Event()

    async def ask(text: str) -> Any:
        return await (good if key_is_right.is_set() else bad).ainvoke(text)

    with running(RunnableLambda(ask) | StrOutputParser(), max_concurrency=2) as run:
        refused = run.outcomes(["hello"] * 200)
        kinds = [type(outcome.error) for outcome in refused]
        assert kinds.count(AuthenticationError) < 10
        assert set(kinds) == {AuthenticationError, RunStoppedError}
        assert all(
            "refused" in str(each.error) for each in refused if isinstance(each.error, RunStoppedError)
        )
        key_is_right.set()
        answered = run.outcomes(["hello"] * 20)
    assert [outcome.output for outcome in answered] == [provider.answer_to("hello")] * 20


def test_row_run_ends_at_a_limit_of_spending() -> None:
    """Rows after the limit are outcomes with its error, also those of later blocks."""
    provider = MockProvider()
    model = ChatOpenAI("model", api_key="none", transport=provider.transport(), max_tokens=10)
    with running(model, max_tokens_total=300, max_concurrency=1) as run:
        outcomes = run.outcomes(["hello"] * 100)
        assert isinstance(run.outcomes(["again"])[0].error, SpendingLimitError)
    spent = sum(outcome.usage.total_tokens for outcome in outcomes if outcome.usage is not None)
    assert 0 < spent <= 300
    assert {type(outcome.error) for outcome in outcomes} == {type(None), SpendingLimitError}


def test_row_run_closes_while_a_block_is_under_way() -> None:
    """`close` waits for the rows that were handed in; later ones fail."""
    gates = Gates()
    run = RowRun(RunnableLambda(gates.wait), {})
    with blocks_of(run, [0]) as (future,):
        until(lambda: gates.begun == [0])
        closing = threading.Thread(target=run.close)
        closing.start()
        gates.gate(0).set()
        assert future.result()[0].output == 0
        closing.join()
    assert isinstance(run.outcomes([1])[0].error, RunStoppedError)


def test_row_run_survives_a_config_that_its_run_refuses() -> None:
    """An error of the run itself is the outcome of every row."""
    with running(RunnableLambda(lambda number: number), max_concurrency=0) as run:
        outcomes = run.outcomes([1, 2])
    assert [type(outcome.error) for outcome in outcomes] == [ValueError, ValueError]


def test_row_run_tells_outcomes_as_they_come() -> None:
    """A row that has ended is told while others of its block wait."""
    gates, told = Gates(), threading.Event()
    found: dict[int, Any] = {}

    def put(place: int, outcome: Outcome[Any]) -> None:
        found[place] = outcome.output
        told.set()

    with running(RunnableLambda(gates.wait)) as run:
        run.begin([4, 5], put)
        gates.gate(5).set()
        assert told.wait(30)
        assert found == {1: 5}
        gates.gate(4).set()
    assert found == {0: 4, 1: 5}


def test_row_run_that_is_stopped_finishes_rows_in_flight() -> None:
    """Those that wait for a slot, and later ones, are not started."""
    gates, began = Gates(), threading.Event()
    found: dict[int, Outcome[Any]] = {}

    async def wait(number: int) -> int:
        began.set()
        return await gates.wait(number)

    with running(RunnableLambda(wait), max_concurrency=1) as run:
        run.begin([1, 2], found.__setitem__)
        assert began.wait(30)
        run.stop()
        gates.gate(1).set()
    assert [found[place].status for place in (0, 1)] == ["done", "not started"]
    assert gates.begun == [1]
