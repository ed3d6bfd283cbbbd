"""Observers: installed for runs that begin, told of each run, item and request, and absent by default."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import Context, ContextVar
from typing import Any

import pytest

from batchrt import RunnableLambda
from batchrt.runtime import observers
from batchrt.runtime.observers import SentList, install, installed, remove
from tests.integrations.opentelemetry.recording import chat, embeddings

MARK: ContextVar[str] = ContextVar("mark", default="")


class Log:
    """An observer that keeps a list of all it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def run(self, run: Any, config: Any, context: Context) -> Any:
        self.told.append(("run", dict(config), context.get(MARK)))
        return RunLog(self.told)

    def single(self, run: Any, config: Any, step: Any) -> Any:
        self.told.append(("single", dict(config)))
        run.observer = RunLog(self.told)
        return step


class RunLog:
    def __init__(self, told: list[Any]) -> None:
        self.told = told

    def enter(self, context: Context) -> None:
        context.run(MARK.set, "entered")

    def step(self, step: Any) -> Any:
        self.told.append("step")
        return step

    def origin(self) -> object:
        return MARK.get()

    def request(self, target: Any, body: bytes, strand: Any, *, streamed: bool = False) -> Any:
        self.told.append(
            ("request", target.url, target.model, streamed, observers.sending_list.get(), MARK.get())
        )
        return RequestLog(self.told)

    def ended(self, error: BaseException | None, admitted: int) -> None:
        self.told.append(("ended", type(error), admitted))


class RequestLog:
    def __init__(self, told: list[Any]) -> None:
        self.told = told

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.told.append(("exit", kind))

    def sent(self) -> None:
        self.told.append("sent")

    def retried(self, error: Exception, wait: float, attempt: int) -> None:
        self.told.append(("retried", attempt))

    def reading(self, read: Any) -> Any:
        return read

    def chunk(self, chunk: Any) -> None:
        self.told.append("chunk")

    def answered(self, answer: Any) -> None:
        self.told.append("answered")


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    install(log)
    yield log
    remove(log)


def test_observer_is_absent_unless_installed() -> None:
    """The latest that is installed is in use; removing one twice is no error."""
    assert installed() is None
    first, second = Log(), Log()
    install(first)
    install(second)
    assert installed() is second
    remove(second)
    assert installed() is first
    remove(first)
    remove(first)
    assert installed() is None


@pytest.mark.anyio
async def test_observer_is_told_of_runs(log: Log) -> None:
    """Of many inputs and of one, in the caller's context, with the error at the end."""
    MARK.set("caller")

    def fail(value: int) -> int:
        raise KeyError(value)

    chain = RunnableLambda[int, int](fail)
    with pytest.raises(KeyError):
        await chain.abatch([1, 2], {"run_name": "x", "max_concurrency": 1})
    with pytest.raises(KeyError):
        await chain.ainvoke(1)
    config = {"run_name": "x", "max_concurrency": 1}
    assert log.told == [("run", config, "caller"), "step", ("ended", KeyError, 1), ("single", {})]


@pytest.mark.anyio
async def test_observer_is_told_of_requests(log: Log) -> None:
    """Of the address, each attempt and the end; a run that began before is not observed."""
    await chat().abatch(["a"])
    url = "http://mock:8000/v1/chat/completions"
    assert log.told[2:-1] == [
        ("request", url, "m", False, None, "entered"),
        "sent",
        "answered",
        ("exit", None),
    ]


@pytest.mark.anyio
async def test_observer_is_told_of_streams(log: Log) -> None:
    """Of each chunk."""
    async with chat().astream("a") as chunks:
        count = len([chunk async for chunk in chunks])
    assert log.told[1][:4] == ("request", "http://mock:8000/v1/chat/completions", "m", True)
    assert log.told[2:] == ["sent", "answered", *["chunk"] * count, ("exit", None)]


@pytest.mark.anyio
async def test_observer_is_told_of_lists(log: Log) -> None:
    """With the origin of each input, in a context that the observer has prepared."""
    chain = RunnableLambda[str, str](str.strip) | embeddings(max_batch_size=2)
    await chain.abatch(["a", "b"])
    (request,) = [told for told in log.told if told[0] == "request"]
    assert request[-2:] == (SentList(2, [("entered",), ("entered",)]), "entered")


def test_sent_list_has_parts() -> None:
    """A part has the origins of its inputs; without origins it has a size alone."""
    assert SentList(3, [(1,), (2,), (3,)]).part(1, 3) == SentList(2, [(2,), (3,)])
    assert SentList(3).part(0, 2) == SentList(2, ())
