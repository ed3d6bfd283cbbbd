from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock, patch

import anyio.lowlevel
import pytest

from batchrt import (
    RunConfig,
    Runnable,
    RunnableGenerator,
    RunnableLambda,
    RunnablePassthrough,
    RunnableSequence,
    StrOutputParser,
)
from batchrt.runnables.base import coerce
from tests.runnables.helpers import add_one, add_two, everyway

pytestmark = pytest.mark.anyio


class OnlyInvoke(Runnable[int, int]):
    def invoke(self, input: int, config: RunConfig | None = None, **kwargs: Any) -> int:  # noqa: A002
        return input + 10 + int(kwargs.get("extra", 0))


class OnlyAinvoke(Runnable[int, int]):
    async def ainvoke(self, input: int, config: RunConfig | None = None, **kwargs: Any) -> int:  # noqa: A002
        await anyio.lowlevel.checkpoint()
        return input + 10 + int(kwargs.get("extra", 0))


@pytest.mark.parametrize("kind", [OnlyInvoke, OnlyAinvoke])
async def test_runnable_subclass_with_one_method_gets_all_others(kind: type[Runnable[int, int]]) -> None:
    """A subclass with `invoke` alone or `ainvoke` alone has every entry point, alone and in a chain."""
    assert await everyway(kind(), 1) == 11
    assert await everyway(kind(), 1, extra=5) == 16
    assert await everyway(add_one | kind() | add_one, 1) == 13


async def test_runnable_subclass_of_a_subclass_runs_its_own_method() -> None:
    """The most derived override runs."""

    class More(OnlyAinvoke):
        async def ainvoke(self, input: int, config: RunConfig | None = None, **kwargs: Any) -> int:  # noqa: A002
            return 100 * await super().ainvoke(input, config, **kwargs)

    assert await everyway(More(), 1) == 1100
    assert await everyway(More() | RunnablePassthrough(), 1) == 1100


async def test_runnable_subclass_without_methods_cannot_run() -> None:
    """The error names the methods that are missing."""

    class Nothing(Runnable[int, int]):
        pass

    with pytest.raises(TypeError, match="Nothing defines neither ainvoke nor invoke"):
        await Nothing().ainvoke(1)
    with pytest.raises(TypeError, match="Nothing defines neither"):
        await (Nothing() | add_one).abatch([1])


async def test_runnable_subclass_receives_a_complete_config() -> None:
    """LCEL's keys are always in the config that a method receives."""
    seen: list[Any] = []

    class Reads(Runnable[int, int]):
        async def ainvoke(self, input: int, config: RunConfig | None = None, **kwargs: Any) -> int:  # noqa: A002
            seen.append(config)
            return input

    await (Reads() | add_one).abatch([1], {"tags": ["a"]})
    assert seen == [{"tags": ["a"], "metadata": {}, "configurable": {}, "recursion_limit": 25}]


def test_coerce_accepts_runnables_functions_and_dicts() -> None:
    """A runnable is unchanged, a dict becomes a parallel, a function a lambda; other types are an error."""
    runnable = RunnableLambda(add_one)
    assert coerce(runnable) is runnable
    assert type(coerce({"a": add_one})).__name__ == "RunnableParallel"
    assert type(coerce(add_two)).__name__ == "RunnableLambda"
    for thing in (3, None, "text", ["list"]):
        with pytest.raises(TypeError, match="a function or a dict of them, not"):
            coerce(thing)
        with pytest.raises(TypeError, match="a function or a dict of them, not"):
            runnable | thing  # type: ignore[operator]
        with pytest.raises(TypeError, match="a function or a dict of them, not"):
            thing | runnable  # type: ignore[operator]


async def test_runnable_operator_takes_a_dict_or_function_on_the_left() -> None:
    """`|` works from the right as well, at any depth of the dict."""
    chain: Runnable[Any, Any] = {
        "a": add_one,
        "b": {"c": add_two, "d": RunnablePassthrough()},
    } | RunnablePassthrough()
    assert await everyway(chain, 1) == {"a": 2, "b": {"c": 3, "d": 1}}
    assert await everyway(add_one | RunnableLambda(add_two), 1) == 4


async def test_runnable_pipe_equals_the_operator() -> None:
    """`pipe` takes any number of steps, and a name."""
    piped = RunnableLambda(add_one).pipe(add_two, {"a": add_one}, name="mine")
    assert await everyway(piped, 1) == {"a": 5}
    assert piped.get_name() == "mine"


async def test_runnable_assign_and_pick_work_on_the_output() -> None:
    """Both are methods of every runnable."""
    base = RunnableLambda(lambda value: {"a": value})
    assert await everyway(base.assign(b=lambda fields: fields["a"] + 1), 1) == {"a": 1, "b": 2}
    assert await everyway(base.pick("a"), 1) == 1
    assert await everyway(base.pick(["a", "z"]), 1) == {"a": 1}


def test_runnable_classes_are_subscriptable_at_run_time() -> None:
    """`Runnable[int, str]` is a type to inherit from, and `RunnableLambda[int, int](f)` an object."""

    class Typed(Runnable[int, str]):
        def invoke(self, input: int, config: RunConfig | None = None, **kwargs: Any) -> str:  # noqa: A002
            return str(input)

    assert Typed().invoke(1) == "1"
    assert RunnableLambda[int, int](add_one).invoke(1) == 2
    assert RunnableSequence[int, int](add_one, add_one).invoke(1) == 3
    assert RunnablePassthrough[int]().invoke(1) == 1


async def test_runnable_whose_method_a_test_replaced_runs_the_replacement() -> None:
    """On one object, in a chain and alone; the others are as they were."""
    first, other = RunnableLambda(add_one), RunnableLambda(add_one)
    first.ainvoke = AsyncMock(return_value=10)  # type: ignore[method-assign]
    chain = first | add_two
    assert await chain.abatch([1, 2]) == [12, 12]
    assert await first.ainvoke(1) == 10
    assert await (other | add_two).ainvoke(1) == 4
    assert first.ainvoke.await_count == 3
    assert [call.args[0] for call in first.ainvoke.await_args_list] == [1, 2, 1]


async def test_runnable_whose_class_a_test_patched_runs_the_patch() -> None:
    """Until the patch ends."""
    chain: Runnable[Any, Any] = StrOutputParser() | RunnableLambda[Any, Any](add_two)
    with patch.object(StrOutputParser, "invoke", return_value=5) as replaced:
        assert await everyway(chain, "x") == 7
        assert replaced.call_args.args[0] == "x"
    with pytest.raises(TypeError):
        await chain.ainvoke("x")


@pytest.mark.parametrize("method", ["ainvoke", "invoke"])
async def test_runnable_with_a_spy_runs_as_without_it(method: str) -> None:
    """The spy calls the original, which does not come back to the spy."""
    runnable: Runnable[Any, Any] = RunnableLambda(add_one)
    spy = (AsyncMock if method == "ainvoke" else Mock)(wraps=getattr(runnable, method))
    setattr(runnable, method, spy)
    assert await (runnable | add_two).abatch([1, 2]) == [4, 5]
    assert spy.call_count == 2


@pytest.mark.parametrize("of_class", [False, True])
@pytest.mark.parametrize("method", ["stream", "astream"])
async def test_runnable_whose_stream_method_a_test_replaced_streams_by_it_in_a_chain(
    method: str, of_class: bool
) -> None:
    """A chain that streams does not pass the mock by; what does not stream does."""

    class Model(Runnable[str, str]):
        async def ainvoke(self, input: str, config: RunConfig | None = None, **kwargs: Any) -> str:  # noqa: A002
            return "real"

    model = Model()
    replacement = Mock(side_effect=lambda *_args: iter("ab"))
    if method == "astream":
        replacement = MagicMock()
        replacement.return_value.__aiter__.return_value = ["a", "b"]
    chain = model | StrOutputParser()
    with patch.object(Model if of_class else model, method, replacement):
        assert [chunk async for chunk in chain.astream("x")] == ["a", "b"]
        assert await chain.ainvoke("x") == "real"
        assert replacement.call_args.args[0] == "x"
    assert [chunk async for chunk in chain.astream("x")] == ["real"]


@pytest.mark.parametrize("of_class", [False, True])
@pytest.mark.parametrize("method", ["stream", "astream"])
async def test_runnable_with_a_spy_on_its_stream_streams_as_without_it(method: str, of_class: bool) -> None:
    """The spy calls the original, which does not come back to the spy."""

    class Words(RunnableGenerator[str, str]):
        pass

    async def letters(chunks: AsyncIterator[str]) -> AsyncIterator[str]:
        async for chunk in chunks:
            for letter in chunk:
                yield letter

    words = Words(letters)
    chain = words | StrOutputParser()
    original = getattr(Words if of_class else words, method)
    calls = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return original(*args, **kwargs)

    with patch.object(Words if of_class else words, method, spy):
        assert [chunk async for chunk in chain.astream("ab")] == ["a", "b"]
        assert await chain.ainvoke("ab") == "ab"
    assert len(calls) == 1
