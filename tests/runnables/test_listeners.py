"""Listeners: told of each item's start, end and error."""

from __future__ import annotations

from typing import Any

import pytest

from batchrt import ListenedRun, RunConfig, RunnableLambda
from tests.runnables.helpers import add_one, everyway, fail

pytestmark = pytest.mark.anyio


async def test_listeners_are_told_of_start_and_end() -> None:
    """In this order, with the same object; the output is the runnable's."""
    told: list[tuple[str, Any, Any]] = []
    runs: list[ListenedRun] = []

    def start(run: ListenedRun) -> None:
        told.append(("start", run.inputs, run.outputs))
        assert run.end_time is None
        runs.append(run)

    async def end(run: ListenedRun) -> None:
        told.append(("end", run.inputs, run.outputs))
        assert run.end_time is not None
        assert run.end_time >= run.start_time
        assert run is runs[-1]

    heard = RunnableLambda(add_one, name="adder").with_listeners(on_start=start, on_end=end)
    assert await heard.ainvoke(1) == 2
    assert told == [("start", 1, None), ("end", 1, 2)]
    assert runs[0].name == "adder"
    assert await everyway(heard, 1, extra=5) == 7
    assert len({run.id for run in runs}) == len(runs) > 2


async def test_listeners_are_told_of_an_error() -> None:
    """Which is still the item's; others go on."""
    errors: list[tuple[Any, Exception | None]] = []
    heard = RunnableLambda(lambda x: fail(x) if x == 2 else x).with_listeners(
        on_error=lambda run: errors.append((run.inputs, run.error))
    )
    outputs = await heard.abatch([1, 2, 3], return_exceptions=True)
    assert [type(output) for output in outputs] == [int, ValueError, int]
    assert errors == [(2, outputs[1])]


async def test_listeners_receive_the_configuration_if_they_take_it() -> None:
    """As functions in a chain do."""
    seen: list[Any] = []

    def start(run: ListenedRun, config: RunConfig) -> None:
        seen.append((run.inputs, config["metadata"]["by"]))

    heard = RunnableLambda(add_one).with_listeners(on_start=start)
    await heard.abatch([1, 2], {"metadata": {"by": "me"}, "max_concurrency": 1})
    assert seen == [(1, "me"), (2, "me")]


async def test_listeners_error_is_the_items() -> None:
    """An observer that is broken is not overlooked."""

    def end(run: ListenedRun) -> None:
        raise LookupError(run.inputs)

    heard = RunnableLambda(add_one).with_listeners(on_end=end)
    outputs: list[Any] = await heard.abatch([1], return_exceptions=True)
    assert isinstance(outputs[0], LookupError)


def test_listeners_do_not_change_the_description() -> None:
    """A durable job answers nothing again because it is listened to."""
    plain = RunnableLambda(add_one)
    assert plain.with_listeners(on_end=print).describe() == plain.describe()
