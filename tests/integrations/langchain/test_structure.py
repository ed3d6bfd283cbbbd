"""LangChain's chains on this runtime: the same results, the same run trees, under one cap."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import (
    ConfigurableField,
    RouterRunnable,
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnablePick,
    RunnableSerializable,
    chain,
)
from langchain_core.tools import tool

import batchrt
from batchrt.integrations.langchain import LangChainChain, from_langchain
from tests.integrations.langchain.trees import BOTH_LOOPS, Trees

pytestmark = pytest.mark.anyio


class Shelf(BaseRetriever):
    """Find documents without an async method."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document(page_content=f"{query}-{n}", metadata={"n": n}, id=str(n)) for n in range(2)]


@tool
def double(n: int) -> int:
    """Double a number."""
    return 2 * n


async def loud(text: str) -> str:
    """Be an async function."""
    return text.upper() + "!"


def route(text: str) -> Any:
    """Return one of two runnables."""
    return shout if text.startswith("a") else RunnableLambda(lambda t: t[::-1])


shout: Any = chain(loud).with_config(run_name="shout")
routed: Any = chain(route)


def endless() -> Any:
    again: Any = RunnableLambda(lambda _text: again)
    return again


def configured(text: str, config: RunnableConfig) -> str:
    """Read the configuration."""
    return f"{text} {sorted(config['tags'])} {config['metadata']} {config['configurable']}"


def failing(error: type[Exception], after: str = "") -> Callable[[str], str]:
    def fail(text: str) -> str:
        if text.startswith(after):
            raise error(text)
        return text

    return fail


def suffixed(text: str, a: str = "", b: str = "") -> str:
    return text + a + b


def once(text: str, seen: set[str]) -> str:
    if text not in seen:
        seen.add(text)
        raise ConnectionError(text)
    return text


def model(*answers: str) -> Any:
    """Return a model with these answers; it is sync alone."""
    return GenericFakeChatModel(messages=iter([AIMessage(answer) for answer in answers * 4]))


def fields() -> Any:
    return PromptTemplate.from_template("{kind}: {text}").configurable_fields(
        template=ConfigurableField(id="template")
    )


CHAINS: dict[str, tuple[Callable[[], Runnable[Any, Any]], Any]] = {
    "prompt": (lambda: PromptTemplate.from_template("say {text}"), {"text": "hi"}),
    "prompt, model, parser": (
        lambda: (
            ChatPromptTemplate.from_messages([("system", "s"), ("human", "{text}")])
            | model("answer")
            | StrOutputParser()
        ),
        {"text": "hi"},
    ),
    "json": (lambda: RunnableLambda(lambda t: t) | JsonOutputParser(), '{"a": [1, 2]}'),
    "parallel": (lambda: RunnableParallel(up=shout, raw=RunnablePassthrough(), n=len), "abc"),
    "nested parallel": (
        lambda: RunnableParallel(x=RunnableParallel(a=shout, b=routed), y={"c": shout} | RunnablePick("c")),
        "abc",
    ),
    "dicts and itemgetter": (
        lambda: {"a": itemgetter("q"), "b": lambda d: d["q"] * 2} | RunnablePick(["b"]),
        {"q": "x"},
    ),
    "pick of nothing": (lambda: RunnablePassthrough() | RunnablePick(["none"]), {"q": "x"}),
    "assign": (
        lambda: RunnablePassthrough.assign(n=lambda d: len(d["q"])).assign(m=lambda d: d["n"] + 1),
        {"q": "abc"},
    ),
    "assign without a dict": (lambda: RunnablePassthrough.assign(n=lambda d: 1), "text"),
    "branch": (
        lambda: RunnableBranch(
            (lambda t: t == "a", shout), (lambda t: t == "b", routed), RunnablePassthrough()
        ),
        "b",
    ),
    "branch by default": (lambda: RunnableBranch((lambda t: t == "a", shout), routed), "zed"),
    "returned runnable": (lambda: routed | (lambda t: t + "?"), "abc"),
    "map": (lambda: shout.map() | "".join, ["a", "b", "c"]),
    "empty map": (lambda: shout.map().with_config(tags=["t"]), []),
    "fallbacks": (
        lambda: RunnableLambda(failing(ValueError)).with_fallbacks(
            [RunnableLambda(failing(KeyError)), shout]
        ),
        "abc",
    ),
    "fallbacks that all fail": (
        lambda: RunnableLambda(failing(ValueError)).with_fallbacks([RunnableLambda(failing(KeyError))]),
        "abc",
    ),
    "fallbacks for another error": (
        lambda: RunnableLambda(failing(ValueError)).with_fallbacks([shout], exceptions_to_handle=(KeyError,)),
        "abc",
    ),
    "fallback with the error": (
        lambda: RunnableLambda(lambda d: failing(ValueError)(d["q"])).with_fallbacks(
            [RunnableLambda(lambda d: repr(d["error"]))], exception_key="error"
        ),
        {"q": "x"},
    ),
    "retry": (
        lambda: RunnableLambda(partial(once, seen=set())).with_retry(
            wait_exponential_jitter=False, stop_after_attempt=3
        ),
        "retried",
    ),
    "retry in vain": (
        lambda: RunnableLambda(failing(ValueError)).with_retry(
            retry_if_exception_type=(ValueError,), wait_exponential_jitter=False, stop_after_attempt=2
        ),
        "abc",
    ),
    "retry of another error": (
        lambda: RunnableLambda(failing(ValueError)).with_retry(
            retry_if_exception_type=(KeyError,), wait_exponential_jitter=False
        ),
        "abc",
    ),
    "bound config": (
        lambda: RunnableLambda(configured).with_config(tags=["own"], metadata={"m": 1}, run_name="bound"),
        "abc",
    ),
    "bound arguments": (
        lambda: RunnableLambda(suffixed).bind(a="!") | shout,
        "abc",
    ),
    "bound twice": (
        lambda: RunnableLambda(suffixed).bind(a="1").with_config(tags=["t"]).bind(b="2"),
        "abc",
    ),
    "observed passthrough": (lambda: RunnablePassthrough(lambda t: None) | shout, "abc"),
    "fields configured": (
        lambda: fields().with_config(configurable={"template": "{text}, {kind}"}),
        {"kind": "k", "text": "t"},
    ),
    "fields by default": (fields, {"kind": "k", "text": "t"}),
    "alternatives": (
        lambda: (
            RunnableSerializableShout()
            .configurable_alternatives(
                ConfigurableField(id="how"), default_key="loud", quiet=RunnableLambda(str.lower)
            )
            .with_config(configurable={"how": "quiet"})
        ),
        "AbC",
    ),
    "generator": (lambda: RunnableLambda(lambda t: t) | RunnableGenerator(letters), "abc"),
    "generator function": (lambda: RunnableLambda(each_letter) | (lambda t: t + "."), "abc"),
    "router": (lambda: RouterRunnable({"a": shout, "b": routed}), {"key": "a", "input": "x"}),
    "retriever": (lambda: Shelf() | (lambda documents: [d.page_content for d in documents]), "q"),
    "tool": (lambda: (lambda n: {"n": n}) | double, 4),
    "error of a step": (lambda: shout | RunnableLambda(failing(KeyError)) | shout, "abc"),
    "recursion": (endless, "abc"),
    "listener": (lambda: shout.with_listeners(on_end=lambda run: None), "abc"),
    "subclass": (lambda: RunnableSerializableShout() | shout, "abc"),
}


class RunnableSerializableShout(RunnableSerializable[str, str]):
    """Override `invoke` alone, as the simplest subclass does."""

    def invoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> str:  # noqa: A002
        return input.upper()


async def letters(texts: Any) -> Any:
    async for text in texts:
        for letter in text:
            yield letter + "-"


def each_letter(text: str) -> Any:
    yield from text


def given(**keys: Any) -> Any:
    """Return a configuration with keys of LangChain's, which `RunConfig` does not have."""
    return keys


async def result(runnable: Any, value: Any, config: Any = None) -> Any:
    """Return a runnable's output, or the class and arguments of its error."""
    try:
        return await runnable.ainvoke(value, config)
    except Exception as error:
        return type(error), error.args if type(error) in (ValueError, KeyError) and error.args == (
            "abc",
        ) else None


@pytest.mark.parametrize("name", CHAINS)
async def test_structure_gives_the_results_and_run_trees_of_langchain(name: str) -> None:
    """`ainvoke` of the converted chain is `ainvoke` of the chain, and tracers see the same runs."""
    build, value = CHAINS[name]
    theirs, ours = Trees(), Trees()
    config = {"tags": ["call"], "metadata": {"who": "me"}, "run_name": "top"}
    expected = await result(build(), value, {**config, "callbacks": [theirs]})
    assert await result(from_langchain(build()), value, {**config, "callbacks": [ours]}) == expected
    if "fallback" not in name:  # see the test of fallbacks below
        assert ours.shapes == theirs.shapes


@BOTH_LOOPS
@pytest.mark.parametrize("name", [name for name in CHAINS if name != "listener"])
async def test_structure_without_handlers_gives_the_same_results(name: str) -> None:
    """The way without callbacks, which opens no runs, changes no result: one input or many."""
    build, value = CHAINS[name]
    expected = await result(build(), value)
    assert await result(from_langchain(build()), value) == expected
    outputs = await from_langchain(build()).abatch(
        [value] * 3, {"max_concurrency": 2}, return_exceptions=True
    )
    if isinstance(outputs[0], Exception):
        assert [type(output) for output in outputs] == [expected[0]] * 3
    else:
        assert outputs == [expected] * 3


async def test_structure_makes_the_runs_of_fallbacks_their_children() -> None:
    """LangChain makes them siblings, or roots; here they are inside."""
    trees = Trees()
    runnable = RunnableLambda(failing(ValueError)).with_fallbacks([shout])
    await from_langchain(runnable).ainvoke("abc", given(callbacks=[trees]))
    [root] = trees.roots
    assert [child.name for child in root.child_runs] == ["fail", "shout"]
    assert [child.error is not None for child in root.child_runs] == [True, False]


async def test_structure_gives_each_item_a_root_run_of_its_own() -> None:
    """A batch is as many roots as items, failed ones with their error, and an id is for the first."""
    import uuid

    trees, run_id = Trees(), uuid.uuid4()
    runnable = from_langchain(shout | RunnableLambda(failing(ValueError, "B")))
    outputs = await runnable.abatch(
        ["a", "b", "c"], given(callbacks=[trees], run_id=run_id), return_exceptions=True
    )
    assert outputs[0] == "A!"
    assert isinstance(outputs[1], ValueError)
    assert sorted(root.inputs["input"] for root in trees.roots) == ["a", "b", "c"]
    assert [root.id == run_id for root in trees.roots if root.inputs["input"] == "a"] == [True]
    assert {root.inputs["input"] for root in trees.roots if root.error} == {"b"}
    assert all(root.child_runs[0].name == "shout" for root in trees.roots)


async def test_structure_takes_a_config_for_each_item() -> None:
    """Callbacks and tags of a list of configs reach their own item."""
    first, second = Trees(), Trees()
    await from_langchain(shout | shout).abatch(
        ["a", "b"], [given(callbacks=[first], tags=["1"]), given(callbacks=[second], tags=["2"])]
    )
    assert [root.inputs["input"] for root in first.roots] == ["a"]
    assert [root.tags for root in second.roots] == [["2"]]


@BOTH_LOOPS
async def test_structure_holds_the_cap_over_everything_inside() -> None:
    """Parallel branches, maps and returned runnables of all items share `max_concurrency` slots."""
    running, most = 0, 0

    async def work(value: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.001)
        running -= 1
        return value

    leaf = RunnableLambda(work)
    nested = RunnableParallel(
        a=leaf, b=RunnableParallel(c=leaf, d=leaf), e=RunnableLambda(lambda v: [v, v]) | leaf.map()
    )
    chain_ = nested | RunnableLambda(lambda d: leaf)
    await from_langchain(chain_).abatch(range(8), {"max_concurrency": 3})
    assert most == 3


@BOTH_LOOPS
async def test_structure_runs_sync_leaves_in_as_many_threads_as_the_cap() -> None:
    """LangChain's executor has a handful of threads; a run has as many as its cap."""
    count = 24
    barrier = threading.Barrier(count, timeout=20)

    class Meeting(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            barrier.wait()
            return [Document(page_content=query)]

    outputs = await from_langchain(Meeting()).abatch(map(str, range(count)), {"max_concurrency": count})
    assert [documents[0].page_content for documents in outputs] == [str(n) for n in range(count)]
    outputs = await from_langchain(RunnableLambda(lambda n: barrier.wait() >= 0)).abatch(
        range(count), {"max_concurrency": count}
    )
    assert outputs == [True] * count


@BOTH_LOOPS
async def test_structure_ends_the_runs_of_cancelled_items() -> None:
    """The first error cancels the other items, and their runs end with an error too."""
    trees = Trees()

    async def work(n: int) -> int:
        if n == 0:
            await anyio.sleep(0.005)
            raise ValueError(n)
        await anyio.sleep_forever()
        return n

    with pytest.raises(ValueError, match="0"):
        await from_langchain(RunnableLambda(work) | shout).abatch(range(3), given(callbacks=[trees]))
    assert len(trees.roots) == 3
    assert all(root.error for root in trees.roots)
    assert all(child.error for root in trees.roots for child in root.child_runs)


@BOTH_LOOPS
async def test_structure_awaits_async_handlers_on_the_loop() -> None:
    """Async callback handlers see the runs of structural steps, functions and prompts on this event loop."""
    seen: list[tuple[str, int]] = []

    class Handler(AsyncCallbackHandler):
        async def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
            await anyio.lowlevel.checkpoint()
            seen.append((kwargs.get("name", ""), threading.get_ident()))

    runnable = from_langchain(PromptTemplate.from_template("{t}") | (lambda value: value.to_string()) | shout)
    assert await runnable.ainvoke({"t": "a"}, given(callbacks=[Handler()])) == "A!"
    assert [name for name, _ in seen] == ["RunnableSequence", "PromptTemplate", "RunnableLambda", "shout"]
    assert {thread for _, thread in seen} == {threading.get_ident()}


async def test_structure_passes_the_run_to_functions_that_call_other_runnables() -> None:
    """A nested call without a config is a child of the function that makes it, async or sync."""
    inner = RunnableLambda(lambda text: text + "?").with_config(run_name="inner")

    async def calls(text: str) -> str:
        return str(await inner.ainvoke(text))

    def calls_sync(text: str) -> str:
        return str(inner.invoke(text))

    def build() -> Any:
        return RunnableLambda(calls) | RunnableLambda(calls_sync)

    theirs, ours = Trees(), Trees()
    assert await build().ainvoke("a", given(callbacks=[theirs])) == "a??"
    assert await from_langchain(build()).ainvoke("a", given(callbacks=[ours])) == "a??"
    assert ours.shapes == theirs.shapes


async def test_structure_inherits_the_run_it_is_called_in() -> None:
    """A converted chain that a LangChain function calls is a child of that function's run."""
    ours = from_langchain(shout | shout)

    async def calls(text: str) -> str:
        return str(await ours.ainvoke(text))

    trees = Trees()
    await RunnableLambda(calls).ainvoke("a", given(callbacks=[trees]))
    [root] = trees.roots
    [child] = root.child_runs
    assert (child.name, [run.name for run in child.child_runs]) == ("RunnableSequence", ["shout", "shout"])


async def test_structure_honours_a_replaced_method() -> None:
    """A runnable whose `ainvoke` a test has replaced runs that."""

    async def spied(value: Any, config: Any = None, **kwargs: Any) -> str:
        return f"spied {value}"

    spy: Any = RunnableLambda(lambda text: text)
    spy.ainvoke = spied
    assert await from_langchain(spy | shout).ainvoke("a") == "SPIED A!"


async def test_structure_coerces_langchain_steps_by_itself() -> None:
    """`ours | theirs`, `theirs | ours`, dicts of both, and functions that return one."""
    ours: Any = batchrt.RunnableLambda(lambda text: text + "1", inline=True)
    assert isinstance(ours | shout, batchrt.RunnableSequence)
    assert await (ours | shout).abatch(["a", "b"]) == ["A1!", "B1!"]
    assert await (shout | ours).ainvoke("a") == "A!1"
    assert await from_langchain(shout | ours | shout).abatch(["a"]) == ["A!1!"]
    both: Any = batchrt.RunnableParallel(a=shout, b=ours)
    assert await both.ainvoke("x") == {"a": "X!", "b": "x1"}
    assert await RunnableParallel({"a": shout, "b": ours}).ainvoke("x") == {"a": "X!", "b": "x1"}
    returning: Any = batchrt.RunnableLambda(lambda _text: shout)
    assert await returning.abatch(["x", "y"]) == ["X!", "Y!"]
    assert await (shout.map() | ours.map()).ainvoke(["x"]) == ["X!1"]


async def test_structure_refuses_what_is_no_runnable() -> None:
    """The error names the type; ours is returned as it is."""
    with pytest.raises(TypeError, match="a runnable of LangChain's, not int"):
        from_langchain(3)
    ours = batchrt.RunnableLambda(lambda text: text)
    assert from_langchain(ours) is ours
    assert isinstance(from_langchain(shout), LangChainChain)
    with pytest.raises(TypeError, match="takes no keyword argument 'nope'"):
        await from_langchain(shout).ainvoke("a", nope=1)


def test_structure_runs_from_sync_code() -> None:
    """`invoke` and `batch` of a converted chain, async steps included."""
    converted = from_langchain(routed | shout)
    assert converted.invoke("abc") == "ABC!!"
    assert converted.batch(["abc", "zed"]) == ["ABC!!", "DEZ!"]


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_structure_refuses_trio() -> None:
    """LangChain calls asyncio; the error says so in place of a lost event loop."""
    with pytest.raises(RuntimeError, match="need asyncio"):
        await from_langchain(shout | shout).ainvoke("a")


async def test_structure_keeps_no_thread_or_slot_after_a_timeout() -> None:
    """An item's `timeout` cancels a LangChain leaf like any other."""

    async def work(n: int) -> int:
        await anyio.sleep(30 if n == 1 else 0)
        return n

    outputs = await from_langchain(RunnableLambda(work)).abatch(
        range(3), {"max_concurrency": 1, "timeout": 0.05}, return_exceptions=True
    )
    assert outputs[0::2] == [0, 2]
    assert isinstance(outputs[1], batchrt.ItemTimeoutError)
