"""Streams of LangChain's chains on this runtime, and of ours in LangChain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableGenerator, RunnableLambda, RunnableParallel

import batchrt
from batchrt.integrations.langchain import BatchChatOpenAI, from_langchain, to_langchain
from batchrt.testing import MockServer
from tests.integrations.langchain.trees import Trees

pytestmark = pytest.mark.anyio


def model(text: str) -> Any:
    return GenericFakeChatModel(messages=iter([AIMessage(text)] * 20))


async def shout(texts: Any) -> Any:
    async for text in texts:
        yield text.upper()


PROMPT = ChatPromptTemplate.from_template("{q}")


def returning(_row: Any) -> Any:
    return PROMPT | model("x y") | StrOutputParser()


def failing(_row: Any) -> Any:
    raise ValueError


def question(row: Any) -> Any:
    return row["q"]


CHAINS: dict[str, Any] = {
    "model": lambda: PROMPT | model("one two three") | StrOutputParser(),
    "generator": lambda: PROMPT | model("a b c") | StrOutputParser() | RunnableGenerator(shout),
    "json": lambda: PROMPT | model('{"a": [1, 2], "b": "x y"}') | JsonOutputParser(),
    "parallel": lambda: PROMPT | RunnableParallel(a=model("1 2"), b=model("3")),
    "returned": lambda: RunnableLambda(returning),
    "function": lambda: RunnableLambda(question),
    "fallback": lambda: RunnableLambda(failing).with_fallbacks([RunnableLambda(question)]),
}


@pytest.mark.parametrize("name", CHAINS)
async def test_streams_are_those_of_langchain(name: str) -> None:
    """The same chunks, and their sum is the output; for a parallel in any order."""
    theirs = [chunk async for chunk in CHAINS[name]().astream({"q": "hi"})]
    ours = [chunk async for chunk in from_langchain(CHAINS[name]()).astream({"q": "hi"})]

    def plain(chunks: list[Any]) -> list[Any]:
        return sorted(repr(getattr(chunk, "content", chunk)) for chunk in chunks if chunk not in ("", {}))

    if name == "parallel":
        texts = ["".join(chunk[key].text for chunk in ours if key in chunk) for key in ("a", "b")]
        assert texts == ["1 2", "3"]
    else:
        assert plain(ours) == plain(theirs)


async def test_streams_open_runs_that_end_with_the_sum() -> None:
    """Tracers see the run tree of a stream, with inputs and outputs; a closed one ends with an error."""
    trees = Trees()
    config: Any = {"callbacks": [trees]}
    chunks = [chunk async for chunk in from_langchain(CHAINS["model"]()).astream({"q": "hi"}, config)]
    assert "".join(chunks) == "one two three"
    [root] = trees.roots
    assert root.outputs == {"output": "one two three"}
    assert [run.name for run in root.child_runs] == [
        "ChatPromptTemplate",
        "GenericFakeChatModel",
        "StrOutputParser",
    ]
    async with from_langchain(CHAINS["model"]()).astream({"q": "hi"}, config) as stream:
        assert await anext(stream) == "one"
    assert trees.roots[1].error


async def test_streams_of_ours_are_langchains(server: MockServer) -> None:
    """`astream`, `stream`, `transform` and `atransform` of a chain of ours; chunks add up in LangChain."""
    ours: Any = batchrt.ChatOpenAI("gpt-5-mini", base_url=server.base_url, api_key="k")
    expected = await ours.ainvoke("hello there")
    total: Any = None
    count = 0
    async for chunk in to_langchain(ours).astream("hello there"):
        assert isinstance(chunk, AIMessageChunk)
        total = chunk if total is None else total + chunk
        count += 1
    assert count > 1
    assert (total.text, total.usage_metadata["total_tokens"]) == (expected.text, expected.usage.total_tokens)
    assert total.response_metadata["finish_reason"] == "stop"
    chain: Any = to_langchain(ours | batchrt.StrOutputParser())
    texts = [text async for text in (chain | RunnableGenerator(shout)).astream("hello there")]
    assert "".join(texts) == expected.text.upper()
    assert len(texts) > 1

    async def pieces() -> Any:
        yield "hello "
        yield "there"

    assert "".join([text async for text in chain.atransform(pieces())]) == expected.text

    def sync() -> list[str]:
        return ["".join(chain.stream("hello there")), "".join(chain.transform(iter(["hello ", "there"])))]

    assert await anyio.to_thread.run_sync(sync) == [expected.text] * 2


async def test_streams_of_chat_models_go_by_our_client(server: MockServer) -> None:
    """`astream` and `stream` of BatchChatOpenAI: content, usage and metadata, and our quota counts them."""
    model = BatchChatOpenAI(model="gpt-5-mini", base_url=server.base_url, api_key="k")  # type: ignore[arg-type]
    expected = await model.ainvoke("hello there")
    quota = model.async_client.with_raw_response.requests.client.quota_of("gpt-5-mini")
    answers = quota.statistics().answers
    chunks = [chunk async for chunk in model.astream("hello there")]
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert len([chunk for chunk in chunks if chunk.text]) > 1
    assert (total.text, total.usage_metadata) == (expected.text, expected.usage_metadata)
    assert total.response_metadata["model_name"] == "gpt-5-mini"
    assert total.response_metadata["finish_reason"] == "stop"
    assert quota.statistics().answers == answers + 1
    native = [
        chunk async for chunk in from_langchain(model | StrOutputParser(), native=True).astream("hello there")
    ]
    assert "".join(native) == expected.text
    assert len(native) > 1
    streaming = BatchChatOpenAI(model="gpt-5-mini", base_url=server.base_url, api_key="k", streaming=True)  # type: ignore[arg-type]
    assert (await from_langchain(streaming, native=True).ainvoke("hello there")).text == expected.text


def test_streams_of_chat_models_from_sync_code(server: MockServer) -> None:
    """`stream` of BatchChatOpenAI, and one that is left early closes its request."""
    model = BatchChatOpenAI(model="gpt-5-mini", base_url=server.base_url, api_key="k")  # type: ignore[arg-type]
    expected = model.invoke("hello there")
    chunks: Iterator[Any] = model.stream("hello there")
    assert "".join(chunk.text for chunk in chunks) == expected.text
    early = model.stream("hello there")
    next(early)
    early.close()  # type: ignore[attr-defined]
