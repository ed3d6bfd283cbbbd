"""Runnables of ours as LangChain's: its methods, its config, its run trees."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda

import batchrt
from batchrt.integrations.langchain import from_langchain, to_langchain
from tests.integrations.langchain.trees import Trees

pytestmark = pytest.mark.anyio


async def shout(text: str) -> str:
    """Fail for one text."""
    if text == "bad":
        raise ValueError(text)
    return text.upper()


def wrapped() -> Any:
    return to_langchain(batchrt.RunnableLambda(shout) | (lambda text: text + "!"))


async def test_runnable_has_langchains_methods() -> None:
    """One input and many, in order and as they are completed."""
    runnable = wrapped()
    assert await runnable.ainvoke("a") == "A!"
    assert await runnable.abatch(["a", "b"]) == ["A!", "B!"]
    assert await runnable.abatch([]) == []
    pairs = [pair async for pair in runnable.abatch_as_completed(["a", "b", "c"])]
    assert sorted(pairs) == [(0, "A!"), (1, "B!"), (2, "C!")]
    assert [chunk async for chunk in runnable.astream("a")] == ["A!"]
    assert runnable.get_name() == "RunnableSequence"
    assert runnable.get_input_schema().model_json_schema()["title"]


def test_runnable_has_langchains_methods_for_sync_code() -> None:
    """The same from sync code."""
    runnable = wrapped()
    assert runnable.invoke("a") == "A!"
    assert runnable.batch(["a", "b"], {"max_concurrency": 1}) == ["A!", "B!"]
    assert sorted(runnable.batch_as_completed(["a", "b"])) == [(0, "A!"), (1, "B!")]
    assert list(runnable.stream("a")) == ["A!"]


async def test_runnable_returns_exceptions_in_their_places() -> None:
    """As LangChain's `abatch` does; without it the first is raised."""
    outputs = await wrapped().abatch(["a", "bad", "c"], return_exceptions=True)
    assert [outputs[0], outputs[2]] == ["A!", "C!"]
    assert isinstance(outputs[1], ValueError)
    with pytest.raises(ValueError, match="bad"):
        await wrapped().abatch(["a", "bad"])


async def test_runnable_holds_the_max_concurrency_of_the_config() -> None:
    """It counts leaves of the whole chain, nested ones included."""
    running, most = 0, 0

    async def work(n: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.001)
        running -= 1
        return n

    leaf = batchrt.RunnableLambda(work)
    runnable = to_langchain(batchrt.RunnableParallel(a=leaf, b=leaf))
    assert len(await runnable.abatch(list(range(6)), {"max_concurrency": 2})) == 6
    assert most == 2


async def test_runnable_opens_a_run_for_each_item() -> None:
    """Callbacks see it under its name, LangChain's steps inside it, and errors."""
    trees = Trees()
    first: Any = batchrt.RunnableLambda(shout)
    inner = first | RunnableLambda(lambda text: text + "?").with_config(run_name="ask")
    outputs = await to_langchain(inner).abatch(
        ["a", "bad"], {"callbacks": [trees], "run_name": "mine", "tags": ["t"]}, return_exceptions=True
    )
    assert outputs[0] == "A?"
    assert sorted((root.name, root.error is not None) for root in trees.roots) == [
        ("mine", False),
        ("mine", True),
    ]
    [good] = [root for root in trees.roots if not root.error]
    assert (good.tags, good.outputs) == (["t"], {"output": "A?"})
    assert [child.name for child in good.child_runs] == ["ask"]


async def test_runnable_is_a_child_in_a_chain_of_langchains() -> None:
    """The run is inside of the sequence's, whether the sequence runs there or here."""
    for convert in (lambda runnable: runnable, from_langchain):
        trees = Trees()
        chain: Any = convert(RunnableLambda(lambda text: text + "1") | wrapped() | (lambda text: text + "2"))
        config: Any = {"callbacks": [trees]}
        assert await chain.ainvoke("a", config) == "A1!2"
        [root] = trees.roots
        names = [child.name for child in root.child_runs]
        assert names == ["RunnableLambda", "RunnableSequence", "RunnableLambda"]


async def test_runnable_takes_a_config_for_each_input() -> None:
    """Keys of LangChain's list of configs reach the functions of their own item."""

    async def tagged(text: str, config: Any) -> str:
        return f"{text}{config['tags']}{config['metadata']}"

    runnable = to_langchain(batchrt.RunnableLambda(tagged))
    configs: Any = [{"tags": ["1"]}, {"metadata": {"m": 2}}]
    assert await runnable.abatch(["a", "b"], configs) == ["a['1']{}", "b[]{'m': 2}"]


async def test_runnable_gives_messages_and_prompts_as_langchains() -> None:
    """A prompt or a model of ours in front of LangChain's steps."""

    async def answer(value: Any) -> batchrt.AIMessage:
        return batchrt.AIMessage(value.to_string(), finish_reason="stop")

    prompt = batchrt.ChatPromptTemplate.from_messages([("system", "s"), ("human", "{q}")])
    filled = await to_langchain(prompt).ainvoke({"q": "x"})
    assert [message.type for message in filled.to_messages()] == ["system", "human"]
    message = await to_langchain(prompt | batchrt.RunnableLambda(answer)).ainvoke({"q": "x"})
    assert isinstance(message, AIMessage)
    assert (message.text, message.response_metadata) == ("System: s\nHuman: x", {"finish_reason": "stop"})
    chain: Any = to_langchain(prompt | batchrt.RunnableLambda(answer)) | StrOutputParser()
    assert await chain.abatch([{"q": "x"}]) == ["System: s\nHuman: x"]


async def test_runnable_comes_back_as_itself() -> None:
    """`from_langchain(to_langchain(x))` is x."""
    ours: batchrt.Runnable[Any, Any] = batchrt.RunnableLambda(shout)
    assert from_langchain(to_langchain(ours)) is ours


async def test_runnable_ends_all_of_it_when_cancelled() -> None:
    """Cancelling a batch of LangChain's ends its items, and their runs have an error."""
    trees = Trees()
    started = ended = 0

    async def forever(n: int) -> int:
        nonlocal started, ended
        started += 1
        if started == 3:
            scope.cancel()
        try:
            await anyio.sleep_forever()
        finally:
            ended += 1
        return n

    runnable = to_langchain(batchrt.RunnableLambda(forever))
    with anyio.CancelScope() as scope:
        await runnable.abatch([1, 2, 3], {"callbacks": [trees]})
    assert ended == 3
    assert [bool(root.error) for root in trees.roots] == [True] * 3


async def test_runnable_that_is_called_explains_itself() -> None:
    """LangChain's `|` calls ours as a function, which gives the runnable that it then runs."""
    ours: Any = batchrt.RunnableLambda(shout)
    assert ours("anything").inner is ours
