"""The spans of runs and items: their tree, their errors, their contexts."""

from __future__ import annotations

import io
import json
from typing import Any

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.trace import StatusCode

from batchrt import (
    ChatPromptTemplate,
    ItemTimeoutError,
    Runnable,
    RunnableLambda,
    RunnableParallel,
    StrOutputParser,
)
from batchrt.integrations.opentelemetry import instrument, uninstrument
from tests import virtual
from tests.integrations.opentelemetry.recording import (
    Recorder,
    answer_of,
    chat,
    embeddings,
    recording,
    refusal,
)

BACKENDS = ["asyncio", "trio"]


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    context: Any = span.context
    return int(context.span_id)


def attribute(span: ReadableSpan, name: str) -> Any:
    return dict(span.attributes or {}).get(name)


def linked(span: ReadableSpan) -> set[int]:
    return {link.context.span_id for link in span.links}


def branching(**options: Any) -> Runnable[Any, Any]:
    """Return a chain with a parallel and a list step, of which two requests of the chat fail first."""
    model = chat(refusal(500), refusal(429, **{"retry-after": "2"}), **options)
    vectors = embeddings(max_batch_size=2)
    return RunnableParallel(text=model | StrOutputParser(), vector=vectors)


@pytest.mark.parametrize("backend", BACKENDS)
def test_run_span_has_the_tree_of_a_chain(backend: str) -> None:
    """A parallel, a list step, a retry and a cool-down: each shows in the place it belongs to."""
    with recording(items=True) as recorded:
        outputs = virtual.run(
            branching().abatch,
            ["a", "b", "c", "d"],
            {"run_name": "both", "max_concurrency": 1},
            backend=backend,
        )
    assert [output["text"] for output in outputs] == ["fine"] * 4
    (run,) = recorded.spans("invoke_workflow")
    items, chats, lists = recorded.spans("batchrt.item"), recorded.spans("chat"), recorded.spans("embeddings")
    assert run.name == "invoke_workflow both"
    assert run.parent is None
    assert attribute(run, "batchrt.run.items") == 4
    assert attribute(run, "batchrt.run.retries") == 2
    assert attribute(run, "batchrt.run.list_inputs") == 4
    assert {parent_of(item) for item in items} == {id_of(run)}
    assert sorted(attribute(item, "batchrt.item.index") for item in items) == [0, 1, 2, 3]
    # A request belongs to its item, and a list, which is of several, to the run.
    assert sorted(parent_of(span) or 0 for span in chats) == sorted(map(id_of, items))
    assert {parent_of(span) for span in lists} == {id_of(run)}
    assert [len(span.links) for span in lists] == [2, 2]
    assert linked(lists[0]) | linked(lists[1]) == set(map(id_of, items))
    events = [event for span in chats for event in span.events]
    retries: list[Any] = [event.attributes for event in events if event.name == "batchrt.retry"]
    assert sorted(retry["error.type"] for retry in retries) == ["RateLimitError", "ServerError"]
    (cooldown,) = [event.attributes for event in events if event.name == "batchrt.cooldown"]
    assert cooldown == {
        "batchrt.wait": 2.0,
        "batchrt.reason": "RateLimitError (status 429)",
        "batchrt.cooldown.named": True,
    }
    assert all(span.status.status_code is StatusCode.UNSET for span in recorded.spans())


def test_run_span_tree_on_the_console() -> None:
    """The same trace in the SDK's console exporter."""
    out = io.StringIO()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out)))
    instrument(tracer_provider=tracers, items=True)
    try:
        virtual.run(branching().abatch, ["a", "b"], {"run_name": "both"})
    finally:
        uninstrument()
    printed = out.getvalue()
    shown = [json.loads(text + "}") for text in printed.split("\n}\n") if text.strip()]
    assert sorted(span["name"] for span in shown) == [
        "batchrt.item",
        "batchrt.item",
        "chat m",
        "chat m",
        "embeddings e",
        "invoke_workflow both",
    ]
    assert {span["context"]["trace_id"] for span in shown} == {shown[0]["context"]["trace_id"]}


@pytest.mark.anyio
async def test_run_span_is_a_child_of_the_callers_span() -> None:
    """Also of a run in a task of its own, and of a stream."""
    model = chat()
    with recording() as recorded:
        tracer = recorded.tracer_provider.get_tracer("test")
        with tracer.start_as_current_span("caller") as caller:
            await model.ainvoke("a")
            await model.abatch(["a", "b"])
            async with model.arun_iter(["a"]) as outcomes:
                assert [outcome.output async for outcome in outcomes]
            async with model.astream("a") as chunks:
                assert [chunk async for chunk in chunks]
        runs = recorded.spans("invoke_workflow")
        assert len(runs) == 4
        assert {parent_of(run) for run in runs} == {caller.get_span_context().span_id}
        assert sorted(parent_of(span) or 0 for span in recorded.spans("chat")) == sorted(
            [*map(id_of, runs), id_of(runs[1])]
        )


def test_run_span_of_sync_code_is_a_child_of_the_callers_span() -> None:
    """The run is on a loop in another thread, and the caller's span its parent all the same."""
    model = chat()
    with recording() as recorded:
        tracer = recorded.tracer_provider.get_tracer("test")
        with tracer.start_as_current_span("caller") as caller:
            model.batch(["a", "b"])
            model.invoke("a")
            assert list(model.stream("a"))
            assert trace.get_current_span() is caller
    runs = recorded.spans("invoke_workflow")
    assert len(runs) == 3
    assert {parent_of(run) for run in runs} == {caller.get_span_context().span_id}


@pytest.mark.anyio
async def test_run_span_of_user_code_is_between() -> None:
    """A span that a function opens is a child of its item's, and the parent of its requests'."""
    model = chat()
    with recording(items=True) as recorded:
        tracer = recorded.tracer_provider.get_tracer("test")

        async def look_up(text: str) -> Any:
            with tracer.start_as_current_span("look up"):
                return await model.ainvoke(text)

        def look_up_in_a_thread(text: str) -> Any:
            with tracer.start_as_current_span("look up"):
                return model.invoke(text)

        for function in (look_up, look_up_in_a_thread):
            await RunnableLambda[Any, Any](function).abatch(["a"])
        for item, own, inner, request in zip(
            recorded.spans("batchrt.item"),
            recorded.spans("look up"),
            [run for run in recorded.spans("invoke_workflow") if run.attributes and run.parent],
            recorded.spans("chat"),
            strict=True,
        ):
            assert parent_of(own) == id_of(item)
            assert parent_of(inner) == id_of(own)
            assert parent_of(request) == id_of(inner)


@pytest.mark.anyio
async def test_run_span_of_one_input_within_a_run_is_none() -> None:
    """A function's `ainvoke` has no span by itself, unless items are asked for; its `abatch` has one."""
    model = chat()

    async def ask(text: str) -> Any:
        await model.ainvoke(text)
        return await model.abatch([text, text])

    with recording() as recorded:
        await RunnableLambda[Any, Any](ask).abatch(["a"], {"run_name": "outer"})
    inner, outer = recorded.spans("invoke_workflow")
    assert outer.name == "invoke_workflow outer"
    assert parent_of(inner) == id_of(outer)
    assert [parent_of(span) for span in recorded.spans("chat")] == [id_of(outer), id_of(inner), id_of(inner)]


@pytest.mark.anyio
async def test_run_span_of_a_prompt_by_itself_is_none() -> None:
    """It waits for nothing and sends nothing; in a list of inputs it is a run as any other."""
    prompt = ChatPromptTemplate.from_template("{text}")
    with recording(items=True) as recorded:
        prompt.invoke({"text": "a"})
        await prompt.ainvoke({"text": "a"})
        assert not recorded.spans()
        await prompt.abatch([{"text": "a"}])
        assert [span.name for span in recorded.spans()] == ["batchrt.item", "invoke_workflow"]


@pytest.mark.anyio
async def test_run_span_has_the_error_of_the_run() -> None:
    """By its type; an item that fails by itself is no error of the run."""

    def fail(text: str) -> str:
        raise KeyError(text)

    chain = RunnableLambda[str, str](fail)
    with recording(items=True) as recorded:
        with pytest.raises(KeyError):
            await chain.abatch(["a"])
        await chain.abatch(["a"], return_exceptions=True)
        with pytest.raises(KeyError):
            chain.invoke("a")
    failed, fine, single = recorded.spans("invoke_workflow")
    for span in (failed, single, *recorded.spans("batchrt.item")):
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description is None
        assert span.attributes is not None
        assert span.attributes["error.type"] == "KeyError"
        assert not span.events
    assert fine.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("backend", BACKENDS)
def test_run_span_of_an_item_knows_its_timeout(backend: str) -> None:
    """An item that takes too long ends with a timeout; one that the run cancels, with a cancellation."""

    async def slow(seconds: float) -> None:
        await anyio.sleep(seconds)

    async def either(seconds: float) -> None:
        await anyio.sleep(seconds or 1)
        raise KeyError

    chain = RunnableLambda[float, None](slow)

    async def main() -> None:
        await chain.abatch([9], {"timeout": 2}, return_exceptions=True)
        with pytest.raises(ItemTimeoutError):
            await chain.ainvoke(9, {"timeout": 2})
        with pytest.raises(KeyError):
            await RunnableLambda[float, None](either).abatch([9, 0])

    with recording(items=True) as recorded:
        virtual.run(main, backend=backend)
    items = [attribute(span, "error.type") for span in recorded.spans("batchrt.item")]
    assert items == ["TimeoutError", "KeyError", "cancelled"]
    runs = [attribute(span, "error.type") for span in recorded.spans("invoke_workflow")]
    assert runs == [None, "TimeoutError", "KeyError"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_run_span_of_shared_lists_links_the_runs(backend: str) -> None:
    """A request for the lists of several runs is a child of one of them, and linked to the others."""
    vectors = embeddings(share_lists=True, linger=0.2, max_linger=0.2)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for text in ("a", "b", "c"):
                group.start_soon(vectors.ainvoke, text)

    with recording() as recorded:
        virtual.run(main, backend=backend)
    (request,) = recorded.spans("embeddings")
    runs = set(map(id_of, recorded.spans("invoke_workflow")))
    assert len(runs) == 3
    assert {parent_of(request)} | linked(request) == runs


@pytest.mark.anyio
async def test_run_span_of_halves_links_their_own_items() -> None:
    """A list that fails is halved, and each part is linked to the items that it has."""

    def refuse_bad(request: Any) -> Any:
        return (refusal(400) if b"bad" in request.content else answer_of)(request)

    vectors = embeddings(*[refuse_bad] * 9, max_batch_size=4)
    chain = RunnableLambda[str, str](str.strip) | vectors
    with recording(items=True) as recorded:
        await chain.abatch(["a", "b", "bad", "d"], {"max_concurrency": 1}, return_exceptions=True)
    indexes = {id_of(item): attribute(item, "batchrt.item.index") for item in recorded.spans("batchrt.item")}
    found = {
        tuple(sorted(indexes[span_id] for span_id in linked(span))): attribute(span, "batchrt.list.size")
        for span in recorded.spans("embeddings")
    }
    assert found == {(0, 1, 2, 3): 4, (0, 1): 2, (2, 3): 2, (2,): 1, (3,): 1}


@pytest.mark.anyio
async def test_run_span_of_packed_lists_counts_inputs() -> None:
    """Inputs that are packed without items are counted in the run's span, and have no spans."""
    with recording(items=True) as recorded:
        await embeddings(max_batch_size=2).abatch(["a", "b", "c"])
    (run,) = recorded.spans("invoke_workflow")
    assert attribute(run, "batchrt.run.items") == 3
    assert not recorded.spans("batchrt.item")
    assert [attribute(span, "batchrt.list.size") for span in recorded.spans("embeddings")] == [2, 1]
    assert {parent_of(span) for span in recorded.spans("embeddings")} == {id_of(run)}


@pytest.mark.anyio
async def test_run_span_leaves_later_requests_without_a_list() -> None:
    """An item that was sent as a list of its own sends other requests later, which are no lists."""
    chain = RunnableLambda[str, Any](lambda _: embeddings()) | RunnableLambda[Any, Any](
        lambda _: chat().ainvoke("a")
    )
    with recording() as recorded:
        await chain.ainvoke("a")
    assert attribute(recorded.spans("embeddings")[0], "batchrt.list.size") == 1
    assert attribute(recorded.spans("chat")[0], "batchrt.list.size") is None


def test_recorder_begins_empty() -> None:
    """Nothing is recorded of runs before or after the instrumentation."""
    model = chat()
    model.invoke("a")
    with recording() as recorded:
        pass
    model.invoke("a")
    assert isinstance(recorded, Recorder)
    assert not recorded.spans()
    assert not recorded.points()
