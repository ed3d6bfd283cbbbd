"""BatchChatOpenAI: what ChatOpenAI sends and returns, by our client."""

from __future__ import annotations

import pickle
from typing import Any

import openai
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.exceptions import ModelRateLimitError
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models.base import OpenAIContextOverflowError
from pydantic import BaseModel, ValidationError

import batchrt
from batchrt.integrations.langchain import BatchChatOpenAI, from_langchain
from tests.integrations.langchain.answers import answer, calls, pair
from tests.integrations.langchain.trees import BOTH_LOOPS, Trees

pytestmark = pytest.mark.anyio


class Point(BaseModel):
    """A point."""

    x: int
    y: int = 0


@tool
def weather(city: str) -> str:
    """Return the weather in a city."""
    return f"sunny in {city}"


PARTS: Any = [
    {"type": "text", "text": "what is it"},
    {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
]
CONVERSATION: Any = [
    SystemMessage("be brief"),
    HumanMessage("weather?", name="ann"),
    AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "Rome"}, "id": "c1"}]),
    ToolMessage("sunny", tool_call_id="c1"),
    HumanMessage(PARTS),
]
REPLIES: dict[str, Any] = {
    "text": answer("hello"),
    "tool calls": answer(None, tool_calls=calls(("weather", '{"city": "Rome"}'), ("weather", "not JSON"))),
    "refusal": answer(None, refusal="no"),
    "no usage": {key: value for key, value in answer("x").items() if key != "usage"},
    "service tier": {**answer("x"), "service_tier": "flex"},
    "logprobs": {**answer("x"), "choices": [{**answer("x")["choices"][0], "logprobs": {"content": []}}]},
}


def plain(message: AIMessage) -> dict[str, Any]:
    """Return a message's fields, except for the id of its run."""
    return {name: value for name, value in message.model_dump().items() if name != "id"}


@BOTH_LOOPS
@pytest.mark.parametrize("name", REPLIES)
async def test_chat_model_returns_what_langchains_returns(name: str) -> None:
    """Content, tool calls, usage, metadata, by each way through: alone, and as a native step."""
    theirs, asked, ours, got = pair(lambda _body: REPLIES[name], temperature=0.5, logprobs=True)
    expected = await theirs.ainvoke(CONVERSATION)
    for run in (ours, from_langchain(ours), from_langchain(theirs.model_copy(), native=False)):
        message = await run.ainvoke(CONVERSATION)
        assert plain(message) == plain(expected)
        assert message.id.startswith("lc_run--")
    native = from_langchain(ours, native=True)
    message = await native.ainvoke(CONVERSATION)
    assert plain(message) == plain(expected)
    assert message.id.startswith("lc_run--")
    assert got.bodies == asked.bodies[:1] * len(got.bodies)


def test_chat_model_answers_sync_code() -> None:
    """`invoke` and `batch` return the same."""
    theirs, asked, ours, got = pair(lambda body: answer(body["messages"][-1]["content"]))
    assert plain(ours.invoke("hi")) == plain(theirs.invoke("hi"))
    assert [message.text for message in ours.batch(["a", "b"])] == ["a", "b"]
    assert got.bodies[0] == asked.bodies[0]


@pytest.mark.parametrize("bound", [{}, {"stop": ["END"], "max_tokens": 5}, {"extra_body": {"top_k": 3}}])
async def test_chat_model_sends_what_langchains_sends(bound: dict[str, Any]) -> None:
    """Bound options, tools and tool choice reach the body unchanged."""
    theirs, asked, ours, got = pair(lambda _body: answer(), seed=3, model_kwargs={"user": "u"})
    for model in (theirs, ours):
        await model.bind_tools([weather], tool_choice="any").bind(**bound).ainvoke("hi")
    native: Any = from_langchain(ours.bind_tools([weather], tool_choice="any").bind(**bound), native=True)
    await native.ainvoke("hi")
    assert got.bodies == asked.bodies * 2


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("native", [False, True])
async def test_chat_model_makes_structured_output(method: str, native: bool) -> None:
    """All methods of `with_structured_output` send and return what LangChain's do."""
    text = '{"x": 1, "y": 2}'
    reply = answer(None, tool_calls=calls(("Point", text))) if method == "function_calling" else answer(text)
    theirs, asked, ours, got = pair(lambda _body: reply)
    structured: Any = ours.with_structured_output(Point, method=method)
    outputs = [
        await theirs.with_structured_output(Point, method=method).ainvoke("hi"),
        await (from_langchain(structured, native=True) if native else structured).ainvoke("hi"),
    ]
    assert outputs == [Point(x=1, y=2)] * 2
    assert got.bodies == asked.bodies


async def test_chat_model_raises_for_output_that_does_not_fit() -> None:
    """As LangChain's does, and `include_raw` returns the error."""
    theirs, _, ours, _ = pair(lambda _body: answer('{"x": "one"}'))
    for model in (theirs, ours):
        with pytest.raises(ValidationError):
            await model.with_structured_output(Point).ainvoke("hi")
    cut = {**answer("{"), "choices": [{**answer("{")["choices"][0], "finish_reason": "length"}]}
    theirs, _, ours, _ = pair(lambda _body: cut)
    for model in (theirs, ours):
        with pytest.raises(openai.LengthFinishReasonError):
            await model.with_structured_output(Point).ainvoke("hi")


async def test_chat_model_tells_callbacks_of_runs_and_usage() -> None:
    """A chat model run with the model's name, the usage and the answer."""
    theirs, _, ours, _ = pair(lambda _body: answer())
    trees, usage = [Trees(), Trees(), Trees()], UsageMetadataCallbackHandler()
    await theirs.ainvoke("hi", {"callbacks": [trees[0]]})
    await ours.ainvoke("hi", {"callbacks": [trees[1], usage]})
    config: Any = {"callbacks": [trees[2]]}
    await from_langchain(ours, native=True).ainvoke("hi", config)
    runs = [each.roots[0] for each in trees]
    assert [run.run_type for run in runs] == ["llm"] * 3
    assert runs[0].outputs["llm_output"] == runs[1].outputs["llm_output"] == runs[2].outputs["llm_output"]
    assert usage.usage_metadata["gpt-5-mini-2026"]["input_tokens"] == 10


async def test_chat_model_counts_its_tokens_in_runs_of_ours() -> None:
    """A request is a leaf of the run around it: its usage belongs to the item, and the run's budget holds."""
    _, _, ours, got = pair(lambda _body: answer())
    for native in (False, True):
        result = await from_langchain(ours, native=native).arun(["a", "b"])
        assert result.usage is not None
        assert (result.usage.total_tokens, result.usage.cached_input_tokens) == (30, 8)
    with pytest.raises(batchrt.SpendingLimitError):
        await from_langchain(ours, native=True).abatch(
            ["x"] * 50, {"max_tokens_total": 60, "max_concurrency": 1}
        )
    assert len(got.bodies) < 20


async def test_chat_model_looks_into_a_cache() -> None:
    """A cache of the model's, or LangChain's global one, is asked first."""
    _, _, ours, got = pair(lambda _body: answer(), cache=InMemoryCache())
    native = from_langchain(ours, native=True)
    assert [(await native.ainvoke("hi")).text, (await ours.ainvoke("hi")).text] == ["hi", "hi"]
    assert len(got.bodies) == 1


ERRORS: list[tuple[int, str, type[Exception], type[Exception]]] = [
    (401, "invalid_api_key", batchrt.AuthenticationError, openai.AuthenticationError),
    (403, "forbidden", batchrt.AuthenticationError, openai.PermissionDeniedError),
    (400, "bad", batchrt.BadRequestError, openai.BadRequestError),
    (400, "context_length_exceeded", batchrt.ContextLengthError, openai.BadRequestError),
    (404, "model_not_found", batchrt.BadRequestError, openai.NotFoundError),
    (422, "bad", batchrt.BadRequestError, openai.UnprocessableEntityError),
    (429, "rate_limit_exceeded", batchrt.RateLimitError, openai.RateLimitError),
    (429, "insufficient_quota", batchrt.QuotaExhaustedError, openai.RateLimitError),
    (500, "oops", batchrt.ServerError, openai.InternalServerError),
]


@pytest.mark.parametrize(("status", "code", "ours", "theirs"), ERRORS)
async def test_chat_model_raises_our_errors_or_openais(
    status: int, code: str, ours: type[Exception], theirs: type[Exception]
) -> None:
    """The class of the table, and with openai's the very class that LangChain's model raises."""

    def refuse(_body: Any) -> Any:
        return status, {"error": {"message": "no", "code": code, "type": "t", "param": None}}

    original, _, plain_model, _ = pair(refuse)
    with pytest.raises(theirs) as expected:
        await original.ainvoke("hi")
    with pytest.raises(ours) as own:
        await plain_model.ainvoke("hi")
    _, _, model, _ = pair(refuse)
    model = BatchChatOpenAI(**{**options_of(model), "raise_openai_errors": True})
    for run in (model, from_langchain(model, native=True)):
        with pytest.raises(theirs) as translated:
            await run.ainvoke("hi")
        if ours is batchrt.ContextLengthError:  # LangChain looks for words that the server need not say
            assert type(translated.value) is OpenAIContextOverflowError
        else:
            assert type(translated.value) is type(expected.value)
        assert translated.value.status_code == status  # type: ignore[attr-defined]
        assert isinstance(cause_of(translated.value), ours)
    assert own.value.status == status  # type: ignore[attr-defined]


def options_of(model: BatchChatOpenAI) -> dict[str, Any]:
    return {
        "model": model.model_name,
        "api_key": "k",
        "base_url": "http://server/v1",
        "transport": model.transport,
        "max_retries": 0,
    }


def cause_of(error: BaseException) -> BaseException:
    """Return the first error of ours among the causes."""
    while not isinstance(error, batchrt.BatchError):
        assert error.__cause__ is not None
        error = error.__cause__
    return error


async def test_chat_model_takes_a_mapping_of_errors() -> None:
    """Each class of ours may have an exception of your own; the others stay ours."""

    class TooMany(Exception):
        """Say that it was too much."""

    replies = iter([(429, {"error": {"message": "slow"}}), (400, {"error": {"message": "no"}})])
    _, _, model, _ = pair(lambda _body: next(replies))
    mapped = BatchChatOpenAI(**options_of(model), raise_openai_errors={batchrt.RateLimitError: TooMany})
    with pytest.raises(TooMany):
        await mapped.ainvoke("hi")
    with pytest.raises(batchrt.BadRequestError):
        await mapped.ainvoke("hi")
    with pytest.raises(TypeError, match="true, false or a mapping"):
        BatchChatOpenAI(**options_of(model), raise_openai_errors=3)


async def test_chat_model_falls_back_for_the_errors_that_a_chain_names() -> None:
    """`with_fallbacks` for openai's or LangChain's classes works natively as it does there."""
    _, _, limited, _ = pair(lambda _body: (429, {"error": {"message": "slow"}}))
    _, _, spare, _ = pair(lambda _body: answer("spare"))
    for kind in (openai.RateLimitError, ModelRateLimitError):
        theirs = BatchChatOpenAI(**options_of(limited), raise_openai_errors=True).with_fallbacks(
            [spare], exceptions_to_handle=(kind,)
        )
        assert (await from_langchain(theirs, native=True).ainvoke("hi")).text == "spare"


async def test_chat_model_retries_as_our_client_does() -> None:
    """A server error is tried again, and the quota is the one of the address and model."""
    replies = iter([(500, {"error": {"message": "oops"}}), answer("late")])
    _, _, model, got = pair(lambda _body: next(replies))
    patient = BatchChatOpenAI(
        **{**options_of(model), "max_retries": 1}, retry_policy=batchrt.RetryPolicy(wait=lambda _state: 0.0)
    )
    assert (await patient.ainvoke("hi")).text == "late"
    assert len(got.bodies) == 2


async def test_chat_model_holds_limits_of_its_quota() -> None:
    """Limits are options, and `quota` replaces the shared one."""
    _, _, model, _ = pair(lambda _body: answer())
    quota = batchrt.Quota(max_in_flight=1)
    limited = BatchChatOpenAI(**options_of(model), quota=quota)
    await limited.abatch(["a", "b", "c"])
    assert quota.statistics().answers == 3
    with pytest.raises(ValueError, match="requests_per_minute"):
        BatchChatOpenAI(**options_of(model), requests_per_minute=-1)


def test_chat_model_that_is_pickled_says_where_to_make_it() -> None:
    """Also within a chain; the key of the model's client must not leave its process."""
    options: Any = {"model": "m", "base_url": "http://127.0.0.1:9/v1", "api_key": "k"}
    chain = from_langchain(ChatOpenAI(**options) | StrOutputParser(), native=True)
    for whole in (BatchChatOpenAI(**options), chain):
        with pytest.raises(TypeError, match="make the model in each process"):
            pickle.dumps(whole)
