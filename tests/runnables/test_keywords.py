"""Keyword arguments of calls: taken, or refused with a hint; never ignored."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest

from batchrt import (
    ChatOpenAI,
    ChatPromptTemplate,
    JsonOutputParser,
    OpenAI,
    OpenAIEmbeddings,
    PromptTemplate,
    Runnable,
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnablePick,
    StrOutputParser,
)
from batchrt.config import RunConfig

CONFIG_KEYS = sorted(RunConfig.__annotations__)


def add(value: int, extra: int = 0) -> int:
    return value + extra


async def add_async(value: int, *, extra: int = 0) -> int:
    return value + extra


def anything(value: int, **kwargs: Any) -> dict[str, Any]:
    return kwargs


def model(kind: Any = ChatOpenAI, sent: list[Any] | None = None) -> Any:
    def handle(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if sent is not None:
            sent.append(body)
        if kind is OpenAIEmbeddings:
            return httpx.Response(200, json={"data": [{"embedding": [1.0]}]})
        text = {"text": "x", "message": {"content": "x"}}
        return httpx.Response(200, json={"choices": [text]})

    return kind("m", base_url="http://h/v1", api_key="k", transport=httpx.MockTransport(handle))


class Own(Runnable[Any, Any]):
    """A subclass with keywords of its own."""

    async def ainvoke(self, input: Any, config: Any = None, *, extra: int = 0, **kwargs: Any) -> Any:  # noqa: A002
        return input, extra, kwargs


prompt = ChatPromptTemplate.from_template("{x}")
STEPS: dict[str, Callable[[], Runnable[Any, Any]]] = {
    "a chain": lambda: prompt | model() | StrOutputParser(),
    "a model": model,
    "a completion": lambda: model(OpenAI),
    "embeddings": lambda: model(OpenAIEmbeddings),
    "a prompt": lambda: prompt,
    "a parser": JsonOutputParser,
    "a function": lambda: RunnableLambda(add),
    "an async function": lambda: RunnableLambda(add_async),
    "a builtin": lambda: RunnableLambda(str.upper),
    "a parallel": lambda: RunnableParallel(a=RunnableLambda(add), b=prompt),
    "a branch": lambda: RunnableBranch((bool, add), add_async),
    "fallbacks": lambda: RunnableLambda(add).with_fallbacks([RunnableLambda(add_async)]),
    "a retry": lambda: RunnableLambda(add).with_retry(),
    "a map": lambda: RunnableLambda(add).map(),
    "a binding": lambda: RunnableLambda(add).with_config(tags=["x"]),
    "a pick": lambda: RunnablePick("x"),
    "a passthrough": RunnablePassthrough,
    "a passthrough first": lambda: RunnablePassthrough() | add,
    "structured output": lambda: model().with_structured_output({"type": "object"}),
    "a subclass": Own,
}
CALLS: dict[str, Callable[..., Any]] = {
    "batch": lambda step, **kw: step.batch(["a"], **kw),
    "run": lambda step, **kw: step.run(["a"], **kw),
    "invoke": lambda step, **kw: step.invoke("a", **kw),
    "batch_iter": lambda step, **kw: list(step.batch_iter(["a"], **kw)),
    "abatch": lambda step, **kw: anyio.run(lambda: step.abatch(["a"], **kw)),
    "ainvoke": lambda step, **kw: anyio.run(lambda: step.ainvoke("a", **kw)),
    "bind": lambda step, **kw: step.bind(**kw).batch(["a"]),
    "in a chain": lambda step, **kw: (RunnablePassthrough(str) | step.bind(**kw)).batch(["a"]),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
@pytest.mark.parametrize("key", ["max_concurrency", "deadline", "max_cost", "run_name"])
def test_keywords_that_are_config_keys_are_refused_with_a_hint(step: Callable[[], Any], key: str) -> None:
    """Every step says that they belong into `config`."""
    with pytest.raises(TypeError, match=rf"takes no keyword argument '{key}': put it into config="):
        step().batch(["a"], **{key: 5})


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_keywords_are_checked_by_every_call(call: Callable[..., Any]) -> None:
    """The error is raised before anything runs."""
    with pytest.raises(TypeError, match="put it into config="):
        call(RunnableLambda(add), max_concurrency=5)
    with pytest.raises(TypeError, match="takes no keyword argument 'progress'"):
        call(RunnableLambda(add), progress=True)


UNKNOWN = [name for name in STEPS if name not in {"a subclass", "a passthrough", "a builtin"}]


@pytest.mark.parametrize("name", UNKNOWN)
def test_keywords_that_no_step_takes_are_a_type_error(name: str) -> None:
    """They are neither ignored nor sent to a provider."""
    with pytest.raises(TypeError, match="takes no keyword argument 'progress'"):
        STEPS[name]().batch(["a"], progress=True)


def test_keywords_error_names_the_owner() -> None:
    """It may be a later step, a field, a server or a batch method."""
    chain = PromptTemplate.from_template("{x}") | model() | StrOutputParser()
    with pytest.raises(
        TypeError, match=r"go to the first step; bind it to its own, as step.bind\(temperature="
    ):
        chain.batch(["a"], temperature=0)
    with pytest.raises(TypeError, match="its fields are x"):
        prompt.batch(["a"], y=1)
    with pytest.raises(TypeError, match="extra_body="):
        model().batch(["a"], top_q=1)
    with pytest.raises(TypeError, match="run and arun give every item's outcome"):
        model().run(["a"], return_exceptions=True)


def test_keywords_go_to_the_steps_that_take_them() -> None:
    """Of several steps side by side, one that takes the keyword is enough."""
    both: RunnableParallel[int] = RunnableParallel(
        a=RunnableLambda(add), b=RunnableLambda(lambda value: value)
    )
    assert both.batch([1], extra=5) == [{"a": 6, "b": 1}]
    assert RunnableBranch((lambda v: v > 1, add), lambda v: v).batch([1, 2], extra=5) == [1, 7]
    failing = RunnableLambda(lambda value: 1 // 0).with_fallbacks([RunnableLambda(add)])
    assert failing.batch([1], extra=5) == [6]
    assert RunnablePassthrough.assign(a=lambda row, extra=0: extra).batch([{}], extra=5) == [{"a": 5}]
    assert RunnableLambda(add).map().batch([[1, 2]], extra=5) == [[6, 7]]
    assert Own().batch([1], extra=5, more=1) == [(1, 5, {"more": 1})]
    assert RunnableLambda(anything).batch([1], timeout=3, tags=[]) == [{"timeout": 3, "tags": []}]
    assert ChatPromptTemplate([("placeholder", "{past}"), ("human", "{x}")]).batch(["a"], past=["b"])


@pytest.mark.parametrize(
    "options",
    [
        {"logprobs": True, "top_logprobs": 2},
        {"metadata": {"a": "b"}},
        {"top_k": 5},
        {"extra_body": {"mine": 1}},
    ],
)
def test_keywords_of_the_api_are_sent(options: dict[str, Any]) -> None:
    """Options of other servers and the contents of `extra_body` are sent as well."""
    sent: list[Any] = []
    model(sent=sent).batch(["a"], **options)
    assert (options.get("extra_body") or options).items() <= sent[0].items()


@pytest.mark.parametrize("kind", [ChatOpenAI, OpenAI, OpenAIEmbeddings])
def test_keywords_of_the_client_are_refused_as_options_of_the_model(kind: Any) -> None:
    """The error says that they are options of the model's constructor."""
    with pytest.raises(ValueError, match="belongs to the model as a whole"):
        model(kind).batch(["a"], timeout=5)


def test_keywords_are_checked_by_embeddings_as_arrays() -> None:
    """Their entry points are separate methods."""
    with pytest.raises(TypeError, match="put it into config="):
        model(OpenAIEmbeddings).embed_array(["a"], max_concurrency=5)


def test_keywords_module_knows_every_config_key() -> None:
    """A key added to the config is recognised among keywords."""
    from batchrt.runnables.keywords import is_config_key

    assert all(map(is_config_key, CONFIG_KEYS))
