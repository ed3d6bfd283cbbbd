"""Streams of random trees of runnables: their sums, their slots, their ends; in virtual time."""

from __future__ import annotations

import json
import operator
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrt import (
    JsonOutputParser,
    Runnable,
    RunnableBranch,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    StrOutputParser,
    chain,
)
from tests.runnables.helpers import total
from tests.runnables.virtual import run_in_virtual_time
from tests.runtime.harness import Watch, all_slots_come_back

BACKENDS = ["asyncio", "trio"]

Tree = Callable[["Leaves"], Runnable[Any, Any]]

moments = st.sampled_from([0.0, 0.0, 0.0, 0.01, 0.3])


class Leaves:
    """Make leaves from text to text that `watch` counts while they are at work."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.opened = 0

    async def _work(self, seconds: float) -> None:
        with self.watch:
            await anyio.sleep(seconds)

    def whole(self, mark: str, seconds: float) -> Runnable[Any, Any]:
        async def leaf(text: str) -> str:
            await self._work(seconds)
            return text + mark

        return RunnableLambda(leaf)

    def spelled(self, mark: str, seconds: float) -> Runnable[Any, Any]:
        @chain
        async def leaf(text: str) -> AsyncIterator[str]:
            with self._open():
                for letter in text:
                    await self._work(seconds)
                    yield letter
                yield mark

        return leaf

    def doubled(self, mark: str, seconds: float) -> Runnable[Any, Any]:
        async def leaf(chunks: AsyncIterator[str]) -> AsyncIterator[str]:
            with self._open():
                async for chunk in chunks:
                    await self._work(seconds)
                    yield "".join(letter + letter.upper() for letter in chunk)
                yield mark

        return RunnableGenerator(leaf)

    def nested(self, inner: Runnable[Any, Any], seconds: float) -> Runnable[Any, Any]:
        @chain
        async def leaf(text: str) -> AsyncIterator[str]:
            with self._open():
                await self._work(seconds)
                async with inner.astream(text) as chunks:
                    async for chunk in chunks:
                        await self._work(seconds)
                        yield chunk

        return leaf

    def failing(self, seconds: float) -> Runnable[Any, Any]:
        @chain
        async def leaf(_: str) -> AsyncIterator[str]:
            await self._work(seconds)
            if seconds >= 0:
                raise ValueError("before the first chunk")
            yield "never"

        return leaf

    def _open(self) -> Any:
        return _Opened(self)


@dataclass
class _Opened:
    leaves: Leaves

    def __enter__(self) -> None:
        self.leaves.opened += 1

    def __exit__(self, *_: object) -> None:
        self.leaves.opened -= 1


def leaves() -> st.SearchStrategy[Tree]:
    marks = st.sampled_from(["", "x", "yz"])
    kinds = st.sampled_from(["whole", "spelled", "doubled"])
    return st.one_of(
        st.builds(
            lambda kind, mark, seconds: lambda made: getattr(made, kind)(mark, seconds), kinds, marks, moments
        ),
        st.sampled_from(
            [
                lambda _: RunnablePassthrough(),
                lambda _: StrOutputParser(),
                lambda _: RunnableLambda(lambda text: text.swapcase(), inline=True),
            ]
        ),
    )


def trees(parts: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    return st.one_of(
        st.builds(lambda a, b: lambda made: a(made) | b(made), parts, parts),
        st.builds(_parallel, parts, parts),
        st.builds(_assigned, parts, parts),
        st.builds(_picked, parts, parts),
        st.builds(
            lambda a, b: (
                lambda made: RunnableBranch(
                    (RunnableLambda(lambda text: len(text) % 2, inline=True), a(made)), b(made)
                )
            ),
            parts,
            parts,
        ),
        st.builds(lambda a: lambda made: made.failing(0.01).with_fallbacks([a(made)]), parts),
        st.builds(lambda a: lambda made: a(made).with_retry(), parts),
        st.builds(lambda a: lambda made: a(made).with_config(tags=["t"]), parts),
        st.builds(lambda a: lambda made: a(made).with_config(max_concurrency=1, timeout=1000), parts),
        st.builds(lambda a: lambda made: a(made).with_listeners(on_end=lambda _: None), parts),
        st.builds(_returned, parts),
        st.builds(lambda a, seconds: lambda made: made.nested(a(made), seconds), parts, moments),
        st.builds(_in_json, parts),
        st.builds(_mapped, parts),
    )


def _parallel(a: Tree, b: Tree) -> Tree:
    return lambda made: (
        RunnableParallel(a=a(made), b=b(made), c=RunnablePassthrough())
        | RunnableLambda(lambda both: both["a"] + "-" + both["b"] + both["c"], inline=True)
    )


def _assigned(a: Tree, b: Tree) -> Tree:
    return lambda made: (
        RunnableParallel(a=a(made))
        | RunnablePassthrough.assign(b=operator.itemgetter("a") | b(made))
        | RunnableLambda(lambda both: both["a"] + both["b"], inline=True)
    )


def _picked(a: Tree, b: Tree) -> Tree:
    return lambda made: (RunnableParallel(a=a(made), b=b(made)) | RunnablePassthrough()).pick("a")


def _returned(a: Tree) -> Tree:
    def tree(made: Leaves) -> Runnable[Any, Any]:
        inner = a(made)

        async def leaf(_: str) -> Any:
            return inner

        return RunnableLambda(leaf)

    return tree


def _in_json(a: Tree) -> Tree:
    async def to_json(text: str) -> AsyncIterator[str]:
        for letter in json.dumps({"n": [1, 25], "text": text, "o": {"p": None}}):
            yield letter

    return lambda made: (
        a(made) | chain(to_json) | JsonOutputParser() | RunnablePassthrough() | operator.itemgetter("text")
    )


def _mapped(a: Tree) -> Tree:
    return lambda made: (
        RunnableLambda(lambda text: [text, text + "!"], inline=True)
        | a(made).map()
        | RunnableLambda("".join, inline=True)
    )


texts = st.text(alphabet="aBc ", max_size=6)
chunked = st.lists(st.text(alphabet="aBc ", max_size=4), min_size=1, max_size=6)
caps = st.sampled_from([1, 2, 3, None])
shapes = st.recursive(leaves(), trees, max_leaves=6)


@pytest.mark.parametrize("backend", BACKENDS)
@given(tree=shapes, text=texts, cap=caps)
def test_streams_add_up_to_the_output(backend: str, tree: Tree, text: str, cap: int | None) -> None:
    """The sum of the chunks is the result of `ainvoke`, and at no time are more leaves at work than slots."""

    async def main() -> None:
        made = Leaves()
        runnable = tree(made)
        expected = await runnable.ainvoke(text)
        made.watch.peak = 0
        config: Any = {"max_concurrency": cap}
        assert total([chunk async for chunk in runnable.astream(text, config)]) == expected
        assert cap is None or made.watch.peak <= cap
        assert made.watch.active == made.opened == 0

    with all_slots_come_back():
        run_in_virtual_time(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
@given(tree=shapes, chunks=chunked, cap=caps, seconds=moments)
def test_streams_do_not_depend_on_the_chunks_of_the_input(
    backend: str, tree: Tree, chunks: list[str], cap: int | None, seconds: float
) -> None:
    """However the input is cut, and however fast it comes."""

    async def source() -> AsyncIterator[str]:
        for chunk in chunks:
            await anyio.sleep(seconds)
            yield chunk

    async def main() -> None:
        made = Leaves()
        runnable = tree(made)
        expected = await runnable.ainvoke("".join(chunks))
        made.watch.peak = 0
        config: Any = {"max_concurrency": cap}
        assert total([chunk async for chunk in runnable.atransform(source(), config)]) == expected
        assert cap is None or made.watch.peak <= cap
        assert made.watch.active == made.opened == 0

    with all_slots_come_back():
        run_in_virtual_time(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
@given(tree=shapes, inputs=st.lists(texts, max_size=6), cap=caps, pauses=st.lists(moments, max_size=20))
def test_streams_of_many_inputs_add_up_to_their_outputs(
    backend: str, tree: Tree, inputs: list[str], cap: int | None, pauses: list[float]
) -> None:
    """Item by item, whatever the pace of the consumer, and within the slots."""

    async def main() -> None:
        made = Leaves()
        runnable = tree(made)
        expected = await runnable.abatch(inputs)
        made.watch.peak = 0
        found: dict[int, Any] = {}
        waits = iter(pauses)
        config: Any = {"max_concurrency": cap}
        async with runnable.astream_batch(inputs, config) as chunks:
            async for index, chunk in chunks:
                found[index] = total([found.get(index), chunk])
                await anyio.sleep(next(waits, 0))
        assert [found.get(index) for index in range(len(inputs))] == expected
        assert cap is None or made.watch.peak <= cap
        assert made.watch.active == made.opened == 0

    with all_slots_come_back():
        run_in_virtual_time(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    tree=shapes,
    text=texts,
    cap=caps,
    stop=st.integers(0, 12),
    way=st.sampled_from(["aclose", "cancel", "drop"]),
)
def test_streams_end_with_their_consumer(
    backend: str, tree: Tree, text: str, cap: int | None, stop: int, way: str
) -> None:
    """Closed, cancelled or dropped after any chunk, a stream leaves nothing running and no generator open."""

    async def main() -> None:
        before = len(anyio.get_running_tasks())
        made = Leaves()
        chunks = tree(made).astream(text, {"max_concurrency": cap})
        if way == "cancel":
            with anyio.move_on_after(stop * 0.05):
                async for _ in chunks:
                    pass
        else:
            for _ in range(stop):
                await anext(chunks, None)
            if way == "aclose":
                await chunks.aclose()
        if way == "drop":
            del chunks
            for _ in range(100):
                await anyio.lowlevel.checkpoint()
        assert made.watch.active == made.opened == 0
        assert len(anyio.get_running_tasks()) == before

    with all_slots_come_back():
        run_in_virtual_time(backend, main)


def _threads(made: Leaves, mark: str) -> Runnable[Any, Any]:
    def leaf(chunks: Iterator[str]) -> Iterator[str]:
        with made._open():
            for chunk in chunks:
                with made.watch:
                    yield_ = chunk + mark
                yield yield_

    return RunnableGenerator(leaf)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15)
@given(chunks=chunked, cap=caps, marks=st.lists(st.sampled_from(["", "x"]), min_size=1, max_size=3))
def test_streams_through_threads_do_not_depend_on_the_chunks(
    backend: str, chunks: list[str], cap: int | None, marks: list[str]
) -> None:
    """Sync generators behind each other, in branches and behind async ones; each chunk gets its marks."""

    async def main() -> None:
        made = Leaves()
        line: Runnable[Any, Any] = RunnablePassthrough()
        for mark in marks:
            line = line | _threads(made, mark)
        runnable = RunnableParallel[str](line=line, whole=made.doubled("", 0), plain=RunnablePassthrough())
        config: Any = {"max_concurrency": cap}
        found = total([chunk async for chunk in runnable.atransform(chunks, config)])
        assert found["line"] == "".join(chunk + "".join(marks) for chunk in chunks)
        assert found["plain"] == "".join(chunks)
        assert cap is None or made.watch.peak <= cap
        assert made.watch.active == made.opened == 0

    with all_slots_come_back():
        anyio.run(main, backend=backend)
