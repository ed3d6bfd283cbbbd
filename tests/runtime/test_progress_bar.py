"""Progress bars: of all ways to run inputs, counted on the real tqdm."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from batchrt import OpenAIEmbeddings, RunConfig, RunnableLambda
from batchrt.runtime.progress_bar import ProgressBar
from batchrt.testing import MockProvider

pytestmark = pytest.mark.anyio

SHOWN: RunConfig = {"progress": True}


def inverse(value: int) -> float:
    return 1 / value


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int | None, int, int]]:
    """Return the bars that were closed: total, items that had ended, and failures."""
    closed: list[tuple[int | None, int, int]] = []
    close = ProgressBar.close

    def closing(bar: ProgressBar) -> None:
        close(bar)
        closed.append((bar._bar.total, bar._bar.n, bar._failed))

    monkeypatch.setattr(ProgressBar, "close", closing)
    return closed


async def test_progress_bar_counts_the_items_of_every_method(bars: list[Any]) -> None:
    """The total is known where the inputs have a length."""
    chain = RunnableLambda(inverse, inline=True)
    assert len(await chain.abatch(range(9), SHOWN, return_exceptions=True)) == 9
    assert len(await chain.arun(range(9), SHOWN)) == 9
    async with chain.abatch_iter(range(9), SHOWN, return_exceptions=True) as outputs:
        assert len([output async for output in outputs]) == 9
    async with chain.arun_iter(range(9), SHOWN) as outcomes:
        assert len([outcome async for outcome in outcomes]) == 9
    async with chain.arun_iter(numbers(9), SHOWN, ordered=False) as outcomes:
        assert len([outcome async for outcome in outcomes]) == 9
    assert bars == [(9, 9, 1)] * 4 + [(None, 9, 1)]


async def test_progress_bar_counts_the_inputs_of_lists(bars: list[Any]) -> None:
    """And not the lists."""
    transport = MockProvider(dimensions=4).transport()
    model = OpenAIEmbeddings("m", base_url="http://mock/v1", api_key="k", transport=transport)
    texts = [f"text {number}" for number in range(30)]
    await model.abatch(texts, SHOWN)
    async with model.arun_iter(texts, SHOWN) as outcomes:
        assert len([outcome async for outcome in outcomes]) == 30
    assert bars == [(30, 30, 0)] * 2


async def test_progress_bar_ends_with_a_run_that_fails(bars: list[Any]) -> None:
    """Also with one whose iterator is closed early."""
    chain = RunnableLambda(inverse, inline=True)
    with pytest.raises(ZeroDivisionError):
        await chain.abatch([1, 2, 0], {**SHOWN, "max_concurrency": 1})
    async with chain.abatch_iter([1, 2, 4], SHOWN) as outputs:
        await anext(outputs)
    assert len(bars) == 2


def test_progress_bar_of_a_sync_run_is_drawn_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """With the number of failures; stdout stays as it is."""
    chain = RunnableLambda(inverse, inline=True)
    chain.batch(range(40), SHOWN, return_exceptions=True)
    drawn = capsys.readouterr()
    assert "40/40" in drawn.err
    assert "1 failed" in drawn.err
    assert drawn.out == ""


async def test_progress_bar_is_of_the_run_that_asks_for_it(bars: list[Any]) -> None:
    """Runs inside of it have none, and without the option tqdm is not touched."""
    inner = RunnableLambda(inverse, inline=True)

    async def outer(value: int) -> list[float]:
        return await inner.abatch([value, value])

    chain = RunnableLambda(outer)
    await chain.abatch([1, 2], SHOWN)
    assert bars == [(2, 2, 0)]
    await chain.abatch([1, 2])
    await chain.abatch([1, 2], {"progress": False})
    assert len(bars) == 1


async def test_progress_bar_needs_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install, before any item runs; a wrong value is told, too."""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    ran: list[int] = []
    chain = RunnableLambda(ran.append, inline=True)
    with pytest.raises(ImportError, match=r"install batchrt\[progress\]"):
        await chain.abatch([1, 2], SHOWN)
    wrong: Any = {"progress": "yes"}
    with pytest.raises(TypeError, match="progress must be True or False, not 'yes'"):
        await chain.abatch([1, 2], wrong)
    assert ran == []


async def test_progress_bar_lets_a_frozen_exception_through(bars: list[Any]) -> None:
    """The error is the step's own, which takes no other traceback, and the bar is closed."""

    @dataclass(frozen=True)
    class Frozen(Exception):
        text: str

    def fail(value: int) -> float:
        raise Frozen(str(value))

    chain = RunnableLambda(fail)
    for config in (SHOWN, None):
        with pytest.raises(Frozen):
            await chain.abatch([1], config)
    assert len(bars) == 1
