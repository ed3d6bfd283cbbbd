"""What a type checker makes of chains: checked by mypy and pyright, not run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, assert_type

from pydantic import BaseModel

from batchrt import (
    BatchResult,
    ChatOpenAI,
    ChatPromptTemplate,
    ChatPromptValue,
    JsonOutputParser,
    PromptTemplate,
    PydanticOutputParser,
    RunConfig,
    Runnable,
    RunnableAssign,
    RunnableBinding,
    RunnableBranch,
    RunnableEach,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnableRetry,
    RunnableSequence,
    RunnableWithFallbacks,
    Stream,
    StringPromptValue,
    StrOutputParser,
    chain,
)


class Answer(BaseModel):
    number: int


def length(text: str) -> int:
    return len(text)


async def doubled(number: int) -> float:
    return number * 2.0


def with_config(number: int, config: RunConfig) -> str:
    return f"{number} {config}"


async def with_config_async(number: int, config: RunConfig) -> str:
    return f"{number} {config}"


def choose(text: str) -> Runnable[str, bytes]:
    return RunnableLambda(str.encode)


def functions() -> None:
    """A function's types are the lambda's, an async one's result is awaited, a runnable it returns is run."""
    assert_type(RunnableLambda(length), RunnableLambda[str, int])
    assert_type(RunnableLambda(doubled), RunnableLambda[int, float])
    assert_type(RunnableLambda(choose), RunnableLambda[str, bytes])


@chain
def decorated(text: str) -> int:
    return len(text)


@chain
async def decorated_async(number: int) -> float:
    return number * 2.0


@chain
def decorated_with_config(number: int, config: RunConfig) -> str:
    return f"{number} {config}"


def decorators() -> None:
    """The decorator infers like the class."""
    assert_type(decorated, RunnableLambda[str, int])
    assert_type(decorated_async, RunnableLambda[int, float])
    assert_type(decorated | decorated_async, RunnableSequence[str, float])


def functions_with_config() -> None:
    """They fit; mypy says Any where pyright infers, as there is an Any somewhere inside `RunConfig`."""
    _lambda: RunnableLambda[int, str] = RunnableLambda(with_config)
    _async: RunnableLambda[int, str] = RunnableLambda(with_config_async)
    _decorated: RunnableLambda[int, str] = decorated_with_config
    _last: RunnableSequence[str, str] = RunnableLambda(length) | with_config
    _async_last: RunnableSequence[str, str] = RunnableLambda(length) | with_config_async
    _first: RunnableSequence[int, int] = with_config | RunnableLambda(length)


def sequences() -> None:
    """`|` takes the first's input and the last's output, with runnables and plain functions."""
    first = RunnableLambda(length)
    assert_type(first | RunnableLambda(doubled), RunnableSequence[str, float])
    assert_type(first | doubled, RunnableSequence[str, float])
    assert_type(first | doubled | str, RunnableSequence[str, str])
    assert_type(
        first | {"a": doubled, "b": RunnablePassthrough[int]()}, RunnableSequence[str, dict[str, Any]]
    )
    assert_type(length | RunnableLambda(doubled), RunnableSequence[str, float])
    assert_type(RunnableLambda(str.strip) | choose, RunnableSequence[str, bytes])


async def running() -> None:
    """Every method gives the output's type."""
    runnable = RunnableLambda(length) | doubled
    assert_type(runnable.invoke("x"), float)
    assert_type(await runnable.ainvoke("x"), float)
    assert_type(runnable.batch(["x"]), list[float])
    assert_type(await runnable.abatch(["x"]), list[float])
    assert_type(runnable.abatch_iter(["x"]), Stream[float])
    assert_type(runnable.batch_iter(["x"]), Iterator[float])
    assert_type(runnable.abatch_as_completed(["x"]), Stream[tuple[int, float]])
    assert_type(runnable.batch_as_completed(["x"]), Iterator[tuple[int, float]])
    result = await runnable.arun(["x"])
    assert_type(result, BatchResult[float])
    assert_type(result.outputs, list[float | None])
    assert_type(result[0].output, float | None)
    async for output in runnable.abatch_iter(["x"]):
        assert_type(output, float)


def wrappers() -> None:
    """What wraps a runnable keeps its types; `map` makes lists of them."""
    runnable = RunnableLambda(length)
    assert_type(runnable.bind(x=1), RunnableBinding[str, int])
    assert_type(runnable.bind(x=1).bind(y=1).with_config(tags=["a"]), RunnableBinding[str, int])
    assert_type(runnable.with_retry(stop_after_attempt=2), RunnableRetry[str, int])
    assert_type(
        runnable.with_retry(retry_if_exception_type=lambda error: isinstance(error, OSError)),
        RunnableRetry[str, int],
    )
    assert_type(runnable.with_fallbacks([RunnableLambda(length)]), RunnableWithFallbacks[str, int])
    assert_type(runnable.map(), RunnableEach[str, int])
    assert_type(runnable.map().invoke(["x"]), list[int])
    assert_type(runnable.with_types(output_type=bool), RunnableBinding[str, bool])
    assert_type(runnable.with_types(input_type=bytes, output_type=bool), RunnableBinding[bytes, bool])


def dicts() -> None:
    """Dicts give dicts."""
    parallel = RunnableParallel[str](a=length, b=RunnableLambda(length))
    assert_type(parallel, RunnableParallel[str])
    assert_type(parallel.invoke("x"), dict[str, Any])
    assert_type(RunnablePassthrough.assign(a=len), RunnableAssign)
    assert_type(parallel | RunnablePassthrough.assign(c=len), RunnableSequence[str, dict[str, Any]])
    assert_type(parallel.assign(c=len), RunnableSequence[str, dict[str, Any]])


def branches() -> None:
    """A branch is of the type of its runnables."""
    branch = RunnableBranch[str, int]((str.isdigit, RunnableLambda(length)), RunnableLambda(length))
    assert_type(branch, RunnableBranch[str, int])
    assert_type(branch | doubled, RunnableSequence[str, float])


def prompts_and_parsers(model: ChatOpenAI) -> None:
    """The usual chain ends in the parser's type."""
    prompt = ChatPromptTemplate.from_messages([("system", "s"), ("human", "{x}")])
    assert_type(prompt.invoke({}), ChatPromptValue)
    assert_type(PromptTemplate.from_template("{x}").invoke({}), StringPromptValue)
    assert_type((prompt | model | StrOutputParser()).invoke({}), str)
    assert_type((prompt | model | JsonOutputParser()).invoke({}), Any)
    assert_type((prompt | model | PydanticOutputParser(Answer)).invoke({}), Answer)
    assert_type((prompt | model | PydanticOutputParser(Answer)).batch([{}]), list[Answer])


def own_classes() -> None:
    """A subclass says its types once."""

    class Shout(Runnable[str, bytes]):
        async def ainvoke(self, input: str, config: RunConfig | None = None, **kwargs: Any) -> bytes:  # noqa: A002
            return input.upper().encode()

    assert_type(Shout().batch(["x"]), list[bytes])
    assert_type(Shout() | len, RunnableSequence[str, int])
    assert_type(RunnableLambda(length).map() | sum, RunnableSequence[Sequence[str], int])
