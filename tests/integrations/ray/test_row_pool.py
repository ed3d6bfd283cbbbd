"""Pools of row workers, in one process: workers die, refuse and come back as the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from batchrt import (
    AuthenticationError,
    ChatOpenAI,
    ChatPromptTemplate,
    Outcome,
    RunnableLambda,
    RunStoppedError,
    StrOutputParser,
    Usage,
)
from batchrt.integrations.ray.row_pool import PooledChain, RowPool
from batchrt.integrations.ray.row_worker import Numbered, Settled
from batchrt.jobs.identity import Identity
from batchrt.testing import MockProvider

REFUSED = AuthenticationError("no key", status=401)


class LostError(Exception):
    """The process of a worker has ended."""


class Worker:
    """Answers rows as `answer` says, a message at a time; a worker that died has lost its rows."""

    def __init__(self, answer: Callable[[Any], Outcome[Any]] | None = None) -> None:
        self.messages: list[list[Any]] = []
        self.is_stopped = False
        self.comes_back = True
        self.holds = False
        self._answer = answer or done
        self._rows: list[tuple[int, Any]] = []
        self._taking: Future[Settled] | None = None

    def ready(self) -> Future[Any]:
        return completed(None) if self.comes_back else failed(LostError("gone"))

    def put(self, rows: Numbered) -> Future[Any]:
        self.messages.append([value for _, value in rows])
        self._rows += rows
        self.go_on()
        return completed(None)

    def take(self) -> Future[Settled]:
        taking = self._taking = Future()
        self.go_on()
        return taking

    def stop(self) -> Future[Any]:
        self.is_stopped = True
        self._answer = lambda _: failure(RunStoppedError("stopped"))
        self.holds = False
        self.go_on()
        return completed(None)

    def is_gone(self, error: Exception) -> bool:
        return isinstance(error, LostError)

    def go_on(self) -> None:
        if self._taking is not None and self._rows and not self.holds:
            taking, self._taking = self._taking, None
            rows, self._rows = self._rows, []
            taking.set_result([(number, self._answer(value)) for number, value in rows])

    def die(self) -> None:
        self._rows = []
        taking, self._taking = self._taking, None
        assert taking is not None
        taking.set_exception(LostError("died"))


def completed(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def failed(error: Exception) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def done(value: Any, **facts: Any) -> Outcome[Any]:
    return Outcome(0, f"answer to {value}", None, 1, 0.0, **{"usage": None, **facts})


def failure(error: Exception) -> Outcome[Any]:
    return Outcome(0, None, error, 0, 0.0, None)


async def outcomes_of(pool: RowPool, values: Iterable[Any]) -> list[Outcome[Any]]:
    found: dict[int, Outcome[Any]] = {}

    async def ask(place: int, value: Any) -> None:
        found[place] = await pool.outcome(value)

    async with anyio.create_task_group() as tasks:
        for place, value in enumerate(values):
            tasks.start_soon(ask, place, value)
    return [found[place] for place in sorted(found)]


@asynccontextmanager
async def asking(pool: RowPool, values: Iterable[Any]) -> AsyncIterator[list[Outcome[Any]]]:
    """Ask beside the block; its list has the outcomes once the block has been left."""
    found: list[Outcome[Any]] = []

    async def ask() -> None:
        found.extend(await outcomes_of(pool, values))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        yield found


@pytest.mark.anyio
async def test_row_pool_hands_rows_out_many_at_a_time() -> None:
    """Rows that come together are few messages, to each worker its part, and each has its own outcome."""
    workers = [Worker(), Worker()]
    outcomes = await outcomes_of(RowPool(workers, 300), range(600))
    assert [outcome.output for outcome in outcomes] == [f"answer to {number}" for number in range(600)]
    assert sorted(sum(map(len, worker.messages)) for worker in workers) == [300, 300]
    assert sum(len(worker.messages) for worker in workers) <= 6


@pytest.mark.anyio
async def test_row_pool_gives_a_worker_no_more_rows_than_it_may_have() -> None:
    """Others wait until it has ended some."""
    worker = Worker()
    worker.holds = True
    pool = RowPool([worker], 10)
    async with anyio.create_task_group() as tasks:
        for number in range(25):
            tasks.start_soon(pool.outcome, number)
        await settled(lambda: bool(worker.messages))
        assert (pool.under_way, sum(map(len, worker.messages))) == (10, 10)
        worker.holds = False
        worker.go_on()
    assert sum(map(len, worker.messages)) == 25


@pytest.mark.anyio
async def test_row_pool_rows_of_a_dead_worker_go_to_others() -> None:
    """Each row has one outcome, and the worker gets rows again once it is back."""
    dying, other = Worker(), Worker()
    dying.holds = True
    pool = RowPool([dying, other], 100)
    async with asking(pool, range(40)) as found:
        await settled(lambda: bool(dying.messages))
        dying.holds = False
        dying.die()
    assert [outcome.output for outcome in found] == [f"answer to {number}" for number in range(40)]
    assert pool.lost == 1
    await outcomes_of(pool, range(40))
    assert len(dying.messages) > 1


@pytest.mark.anyio
async def test_row_pool_fails_a_row_that_workers_die_of() -> None:
    """It is sent alone after two deaths, so that the rows beside it are answered."""

    class Mortal(Worker):
        def go_on(self) -> None:
            if self._taking is not None and any(value == "poison" for _, value in self._rows):
                self.die()
            super().go_on()

    worker = Mortal()
    outcomes = await outcomes_of(RowPool([worker], 100), ["a", "poison", "b"])
    assert [outcome.output for outcome in outcomes] == ["answer to a", None, "answer to b"]
    assert "died each of the 4 times" in str(outcomes[1].error)
    assert worker.messages.count(["poison"]) == 2


@pytest.mark.anyio
async def test_row_pool_prefers_workers_whose_provider_lets_requests_through() -> None:
    """Rows that a worker without a key hands back unsent are answered by another."""
    asked = 0

    def refuse(_: Any) -> Outcome[Any]:
        nonlocal asked
        asked += 1
        return failure(REFUSED if asked <= 5 else RunStoppedError("not sent"))

    keyless, other = Worker(refuse), Worker()
    outcomes = await outcomes_of(RowPool([keyless, other], 100), range(100))
    assert sum(outcome.error is REFUSED for outcome in outcomes) == 5
    assert sum(outcome.error is None for outcome in outcomes) == 95
    assert len(keyless.messages) == 1


@pytest.mark.anyio
async def test_row_pool_that_is_stopped_starts_no_more_rows() -> None:
    """Workers are told, and rows in the queue are not started."""
    worker = Worker()
    worker.holds = True
    pool = RowPool([worker], 10)
    async with asking(pool, range(25)) as found:
        await settled(lambda: bool(worker.messages))
        pool.stop()
    assert worker.is_stopped
    assert [outcome.status for outcome in found] == ["not started"] * 25


@pytest.mark.anyio
async def test_row_pool_without_workers_ends() -> None:
    """Rows are not started, and the job is told why."""
    worker = Worker()
    worker.comes_back = False
    pool = RowPool([worker], 10)
    ended: list[bool] = []
    pool.on_end = lambda: ended.append(True)
    outcomes = await outcomes_of(pool, range(3))
    assert [outcome.status for outcome in outcomes] == ["not started"] * 3
    assert (ended, str(pool.problem)) == ([True], "gone")


@pytest.mark.anyio
async def test_row_pool_forgets_a_cancelled_row() -> None:
    """Its place is free for another."""
    worker = Worker()
    worker.holds = True
    pool = RowPool([worker], 1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pool.outcome, "a")
        tasks.start_soon(pool.outcome, "b")
        await settled(lambda: bool(worker.messages))
        tasks.cancel_scope.cancel()
    assert pool.under_way == 0
    worker.holds = False
    worker.go_on()
    [outcome] = await outcomes_of(pool, ["c"])
    assert outcome.output == "answer to c"


async def settled(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await anyio.lowlevel.checkpoint()


def priced(tokens: int) -> Callable[[Any], Outcome[Any]]:
    usage = Usage(tokens - 1, 1, tokens)
    facts = {"usage": usage, "usage_by_model": {"model": usage}, "request_seconds": 0.1, "request_id": "id 1"}
    return lambda value: done(value, **facts)


def chain_of(provider: MockProvider) -> Any:
    model = ChatOpenAI("model", api_key="none", transport=provider.transport())
    return ChatPromptTemplate.from_template("Say {n}") | model | StrOutputParser()


def test_pooled_chain_reports_what_the_workers_do() -> None:
    """Tokens, attempts and the request id are the row's own, and the run's."""

    def answer(value: Any) -> Outcome[Any]:
        usage = Usage(input_tokens=3, output_tokens=1)
        facts = {"usage": usage, "usage_by_model": {"model": usage}, "request_seconds": 0.1}
        return Outcome(0, value["n"], None, 3, 0.0, request_id="id 7", **facts)  # type: ignore[arg-type]

    chain = PooledChain(chain_of(MockProvider()), RowPool([Worker(answer)], 100))
    with chain.run_iter([{"n": number, "unused": "x" * 1000} for number in range(5)]) as outcomes:
        found = list(outcomes)
        told = outcomes.statistics()
    assert [(each.output, each.attempts, each.request_id) for each in found] == [
        (number, 3, "id 7") for number in range(5)
    ]
    assert found[0].usage == Usage(input_tokens=3, output_tokens=1)
    assert (told.retries, told.cached) == (10, 0)


def test_pooled_chain_sends_the_fields_that_the_chain_uses() -> None:
    """The other columns of a row stay here."""
    worker = Worker()
    chain = PooledChain(chain_of(MockProvider()), RowPool([worker], 100))
    chain.batch([{"n": 1, "unused": "x"}])
    assert worker.messages == [[{"n": 1}]]


@pytest.mark.parametrize("tokens", [10, 1000])
def test_pooled_chain_keeps_the_limit_of_spending(tokens: int) -> None:
    """What workers have is set aside, so that the run ends within the limit."""
    chain = PooledChain(chain_of(MockProvider()), RowPool([Worker(priced(tokens))], 100), max_tokens=20)
    result = chain.run([{"n": number} for number in range(500)], {"max_tokens_total": 100 * tokens})
    assert result.ended is not None
    assert 80 * tokens <= result.usage.total_tokens <= 100 * tokens
    assert {outcome.status for outcome in result} <= {"done", "not started", "cancelled"}


def test_pooled_chain_has_the_identity_of_its_chain() -> None:
    """A journal of the chain itself is that of the chain in a pool."""
    chain = RunnableLambda(lambda row: row, inline=True, name="prompt values") | chain_of(MockProvider())
    inside, outside = Identity(PooledChain(chain, RowPool([Worker()], 1)), "1"), Identity(chain, "1")
    assert inside.parts == outside.parts
    assert inside.keys({"n": 1}, b"{}") == outside.keys({"n": 1}, b"{}")


def test_pooled_chain_counts_answers_of_the_cache() -> None:
    """An answer without a request was kept from before."""
    worker = Worker(lambda value: done(value, usage=Usage(), usage_by_model={"model": Usage()}))
    chain = PooledChain(chain_of(MockProvider()), RowPool([worker], 100))
    with chain.run_iter([{"n": 1}, {"n": 2}]) as outcomes:
        assert len(list(outcomes)) == 2
        assert outcomes.statistics().cached == 2
