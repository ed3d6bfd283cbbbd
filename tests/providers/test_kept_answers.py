"""Kept answers: which requests a response cache answers, and what is shown for them."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import operator
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from pydantic import BaseModel

from batchrt import (
    AIMessage,
    AIMessageChunk,
    ChatOpenAI,
    Job,
    OpenAI,
    OpenAIEmbeddings,
    Price,
    PromptTemplate,
    ProviderError,
    ResponseCache,
    RunnableLambda,
    StrOutputParser,
    Usage,
)
from batchrt.response_cache import opened_cache
from batchrt.testing import Fault, FaultPlan, MockProvider, Streaming
from tests.jobs.chains import Answers

pytestmark = pytest.mark.anyio


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.cache"


async def run(runnable: Any, inputs: Any, cache: Any, **config: Any) -> Any:
    """Run with a cache, and return the outcomes once all answers are on the disk."""
    with ResponseCache(cache) as opened:
        return await runnable.arun(inputs, {"cache": opened, **config})


async def test_kept_answers_serve_identical_requests(answers: Answers, path: Path) -> None:
    """In later runs, of other models' objects too; new requests alone are sent."""
    first = await run(answers.chain(), [{"q": "a"}, {"q": "b"}], path)
    assert sorted(answers.take()) == ["say a", "say b"]
    second = await run(answers.chain(), [{"q": "b"}, {"q": "c"}, {"q": "a"}], path)
    assert answers.take() == ["say c"]
    assert first.outputs == ["SAY A", "SAY B"]
    assert second.outputs == ["SAY B", "SAY C", "SAY A"]


async def test_kept_answers_are_not_billed(answers: Answers, path: Path) -> None:
    """Their tokens and their cost are 0, in the outcome, in its message and in limits of spending."""
    model, price = answers.model(), Price(input=1.0, output=1.0)
    await run(model, ["a"], path)
    result = await run(model, ["a", "b"], path, prices=price, max_tokens_total=10)
    kept, sent = result
    assert kept.output == AIMessage("A", finish_reason="stop", usage=Usage(), model="m", request_id="req-a")
    assert (kept.usage, kept.cost, kept.request_seconds, kept.request_id) == (Usage(), 0.0, None, None)
    assert sent.usage == Usage(2, 1, 3)
    assert result.usage == Usage(2, 1, 3)
    assert result.usage_by_model == {"m": Usage(2, 1, 3)}
    assert result.cost == pytest.approx(3e-6)


async def test_kept_answers_are_counted(answers: Answers, path: Path) -> None:
    """In the statistics of the run and of the cache."""
    await run(answers.model(), ["a", "b"], path)
    with ResponseCache(path) as cache:
        iterator = answers.model().arun_iter(["a", "b", "c"], {"cache": cache})
        async with iterator:
            outcomes = [outcome async for outcome in iterator]
        assert iterator.statistics().cached == 2
        assert len(outcomes) == 3
        told = cache.statistics()
        assert (told.hits, told.misses, told.kept) == (2, 1, 1)


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "other"},
        {"temperature": 0.5},
        {"base_url": "http://elsewhere/v1"},
        {"extra_body": {"top_k": 3}},
    ],
    ids=str,
)
async def test_kept_answers_are_those_of_the_same_request(
    answers: Answers, path: Path, changed: dict[str, Any]
) -> None:
    """Another model, parameter or server is another request; another key or timeout is not."""
    await run(answers.model(), ["a"], path)
    await run(answers.model(api_key="other", timeout=5.0, max_retries=3), ["a"], path)
    assert answers.take() == ["a"]
    await run(answers.model(**changed), ["a"], path)
    assert answers.take() == ["a"]


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_kept_answers_are_complete(answers: Answers, path: Path, reason: str) -> None:
    """One that was cut off is not kept, nor is an error or a refusal."""

    def cut(text: str) -> httpx.Response:
        if text == "fail":
            return httpx.Response(400, json={"error": {"message": "no"}})
        message = {"role": "assistant", "content": "x", "refusal": "no" if text == "refuse" else None}
        end = "stop" if text == "refuse" else reason
        return httpx.Response(200, json={"choices": [{"message": message, "finish_reason": end}]})

    answers.respond = cut
    for _ in range(2):
        result = await run(answers.model(), ["cut", "fail", "refuse"], path)
        assert isinstance(result[1].error, ProviderError)
        assert sorted(answers.take()) == ["cut", "fail", "refuse"]


async def test_kept_answers_keep_all_of_a_message(path: Path) -> None:
    """Tool calls, reasoning, parts of a content and log probabilities are there again."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    told = [
        {"content": None, "tool_calls": [call]},
        {"content": "\u00e9", "reasoning_content": "because"},
        {"content": [{"type": "text", "text": "part"}]},
    ]

    def respond(request: httpx.Request) -> httpx.Response:
        place = int(json.loads(request.content)["messages"][0]["content"])
        choice = {"message": told[place], "finish_reason": "stop", "logprobs": {"content": []}}
        return httpx.Response(200, json={"model": "m-1", "choices": [choice]})

    model = ChatOpenAI("m", base_url="http://x/v1", transport=httpx.MockTransport(respond))
    first = [each.output for each in await run(model, ["0", "1", "2"], path)]
    second = [each.output for each in await run(model, ["0", "1", "2"], path)]
    for before, after in zip(first, second, strict=True):
        assert isinstance(before, AIMessage)
        assert after.content == before.content
        assert list(after.tool_calls) == list(before.tool_calls)
        assert (after.reasoning, after.logprobs, after.model) == (
            before.reasoning,
            before.logprobs,
            before.model,
        )


async def test_kept_answers_of_equal_requests_in_flight(answers: Answers, path: Path) -> None:
    """One is sent, and the others have its answer, without holding slots meanwhile."""
    answers.seconds = 0.02
    result = await run(answers.model(), ["a"] * 20 + ["b"], path, max_concurrency=2)
    assert sorted(answers.take()) == ["a", "b"]
    assert [each.output.text for each in result] == ["A"] * 20 + ["B"]
    assert result.usage == Usage(4, 2, 6)


async def test_kept_answers_of_a_request_in_flight_that_fails(answers: Answers, path: Path) -> None:
    """Those that waited for it are sent, each for itself; none waits for ever."""
    answers.seconds = 0.01
    failed: list[str] = []

    def respond(text: str) -> httpx.Response:
        if failed:
            return answers.answered(text)
        failed.append(text)
        return httpx.Response(400, json={"error": {"message": "no"}})

    answers.respond = respond
    result = await run(answers.model(), ["a"] * 4, path)
    assert [each.ok for each in result].count(False) == 1
    assert answers.take() == ["a"] * 4


async def test_kept_answers_of_a_request_in_flight_that_is_cancelled(answers: Answers, path: Path) -> None:
    """Another run that waited for it sends its own."""
    model = answers.model()
    answers.seconds = 30.0
    scope = anyio.CancelScope()
    with ResponseCache(path) as cache:

        async def first() -> None:
            with scope:
                await model.ainvoke("a", {"cache": cache})

        async def second() -> None:
            assert (await model.ainvoke("a", {"cache": cache})).text == "A"

        async with anyio.create_task_group() as group:
            group.start_soon(first)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(second)
            await anyio.wait_all_tasks_blocked()
            answers.seconds = 0.0
            scope.cancel()
        assert cache.flights == {}
    assert answers.take() == ["a", "a"]


async def test_kept_answers_of_models_in_functions(answers: Answers, path: Path) -> None:
    """A nested call uses the cache of its run, unless it has its own configuration for that."""
    model = answers.model()

    async def ask(text: str) -> str:
        return (await model.ainvoke(text)).text

    async def ask_anew(text: str) -> str:
        return (await model.ainvoke(text, {"cache": None})).text

    for _ in range(2):
        assert (await run(RunnableLambda(ask), ["a"], path)).outputs == ["A"]
    assert answers.take() == ["a"]
    assert (await run(RunnableLambda(ask_anew), ["a"], path)).outputs == ["A"]
    assert answers.take() == ["a"]


async def test_kept_answers_of_a_part_of_a_chain(answers: Answers, path: Path) -> None:
    """With a cache bound to one model, the other is asked each time."""
    with ResponseCache(path) as cache:
        kept = answers.model("kept").with_config({"cache": cache})
        chain = kept | StrOutputParser() | answers.model("asked")
        for _ in range(2):
            assert (await chain.ainvoke("a")).text == "A"
    assert [body["model"] for body in answers.bodies] == ["kept", "asked", "asked"]


async def test_kept_answers_by_path(answers: Answers, path: Path) -> None:
    """A path in the configuration is opened once; a run sees the answers of the one just before it."""
    model = answers.model()
    inputs = ["a", "b"]
    assert [each.text for each in await model.abatch(inputs, {"cache": path})] == ["A", "B"]
    answers.take()
    configs: Any = [{"cache": str(path)} for _ in inputs]
    assert [each.text for each in await model.abatch(inputs, configs)] == ["A", "B"]
    assert answers.take() == []
    assert opened_cache(path) is opened_cache(str(path))
    with pytest.raises(TypeError, match="cache must be the path"):
        await model.abatch(inputs, {"cache": 3})  # type: ignore[arg-type]


async def test_kept_answers_are_not_used_by_default(answers: Answers) -> None:
    """Equal inputs are asked each time."""
    await answers.model().abatch(["a", "a"])
    assert answers.take() == ["a", "a"]


class Person(BaseModel):
    """A person."""

    name: str


async def test_kept_answers_that_do_not_fit_a_schema_are_forgotten(answers: Answers, path: Path) -> None:
    """The next run asks again, instead of failing for ever."""
    texts = iter(["no json", "no json", '{"name": "Ann"}'])

    def respond(_: str) -> httpx.Response:
        choice = {"message": {"role": "assistant", "content": next(texts)}, "finish_reason": "stop"}
        return httpx.Response(200, json={"choices": [choice]})

    answers.respond = respond
    person = answers.model().with_structured_output(Person, max_reasks=1)
    assert not (await run(person, ["who"], path))[0].ok
    assert (await run(person, ["who"], path)).outputs == [Person(name="Ann")]
    assert (await run(person, ["who"], path)).outputs == [Person(name="Ann")]
    assert len(answers.bodies) == 3


async def test_kept_answers_serve_a_list_part_by_part(path: Path) -> None:
    """Embeddings and completions that are kept are left out of the lists, whatever lists they came in."""
    provider = MockProvider()
    for model in (
        OpenAIEmbeddings("e", base_url="http://mock/v1", transport=provider.transport()),
        OpenAI("c", base_url="http://mock/v1", transport=provider.transport()),
    ):
        texts = [f"text {number}" for number in range(10)]
        first = await run(model, texts[:6], path)
        before = provider.log.snapshot().requests
        second = await run(model, texts[::-1], path)
        assert provider.log.snapshot().requests == before + 1
        alone = await model.abatch(texts[::-1])
        assert second.outputs == alone
        assert first.outputs == alone[:3:-1]
        await run(model, texts, path)
        assert provider.log.snapshot().requests == before + 2


async def test_kept_answers_of_lists_are_counted(path: Path) -> None:
    """As inputs that were not sent in a list."""
    provider = MockProvider()
    model = OpenAIEmbeddings("e", base_url="http://mock/v1", transport=provider.transport())
    await run(model, ["a", "b"], path)
    with ResponseCache(path) as cache:
        async with model.arun_iter(["a", "b", "c"], {"cache": cache}) as iterator:
            assert [outcome.ok async for outcome in iterator] == [True] * 3
        told = iterator.statistics()
        assert (told.cached, told.lists, told.list_inputs) == (2, 1, 1)
        async with model.arun_iter(["a", "b"], {"cache": cache}) as iterator:
            assert [outcome.ok async for outcome in iterator] == [True] * 2
        told = iterator.statistics()
        assert (told.cached, told.lists, told.list_inputs) == (2, 0, 0)


async def test_kept_answers_of_matrices(path: Path) -> None:
    """Kept vectors and new ones are the rows of one matrix."""
    model = OpenAIEmbeddings("e", base_url="http://mock/v1", transport=MockProvider().transport())
    await run(model, ["a", "b"], path)
    with ResponseCache(path) as cache:
        matrix = await model.aembed_array(["c", "b", "a"], {"cache": cache})
    assert (matrix == await model.aembed_array(["c", "b", "a"])).all()


async def test_kept_answers_outlive_a_changed_job(answers: Answers, path: Path, tmp_path: Path) -> None:
    """A job that is begun anew, with a cache, sends what is new alone."""
    rows = [{"q": "a"}, {"q": "b"}]
    chain = PromptTemplate.from_template("say {q}") | answers.model() | StrOutputParser()
    with ResponseCache(path) as cache:
        for journal in ("first", "second"):
            job = Job(chain, rows, journal=tmp_path / journal, config={"cache": cache})
            report = await job.arun()
            assert report.done == 2
            cache.flush()
    assert sorted(answers.take()) == ["say a", "say b"]
    assert (report.input_tokens, report.output_tokens) == (0, 0)


async def test_kept_answers_of_a_damaged_cache(
    answers: Answers, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All requests are sent, with one warning for the run."""
    await anyio.Path(path).write_bytes(b"SQLite format 3\0" + bytes(5000))
    with caplog.at_level(logging.WARNING, "batchrt"):
        result = await answers.model().abatch(["a", "b", "c"], {"cache": path})
    assert [each.text for each in result] == ["A", "B", "C"]
    assert len([each for each in caplog.records if each.name == "batchrt"]) == 1


async def test_kept_answers_of_a_model_that_streams_all_answers(path: Path) -> None:
    """A whole answer is kept however it came, and serves a stream that is asked for."""
    provider = MockProvider()
    model = ChatOpenAI("m", base_url="http://mock/v1", transport=provider.transport(), streaming=True)
    with ResponseCache(path) as cache:
        first = await model.ainvoke("a", {"cache": cache})
        assert await model.ainvoke("a", {"cache": cache}) == replace(first, usage=Usage())
        assert provider.log.snapshot().requests == 1
        chunks = [chunk async for chunk in model.astream("a", {"cache": cache})]
        assert "".join(chunk.text for chunk in chunks) == first.text
        assert provider.log.snapshot().requests == 1


def streaming_model(provider: MockProvider, kind: type[ChatOpenAI | OpenAI[Any]]) -> Any:
    return kind("m", base_url="http://mock/v1", transport=provider.transport(), max_retries=0)


def joined(chunks: Sequence[Any]) -> Any:
    total = functools.reduce(operator.add, chunks)
    return total.to_message() if isinstance(total, AIMessageChunk) else total


@pytest.mark.parametrize("kind", [ChatOpenAI, OpenAI])
async def test_kept_answers_serve_streams_and_are_made_of_streams(
    path: Path, kind: type[ChatOpenAI | OpenAI[Any]]
) -> None:
    """A stream that was read to its end is kept for streams and for whole answers, and a whole one too."""
    provider = MockProvider(streaming=Streaming(chunk_size=2))
    model = streaming_model(provider, kind)
    with ResponseCache(path) as cache:
        sent = [chunk async for chunk in model.astream("a", {"cache": cache})]
        assert len(sent) > 2
        kept = [chunk async for chunk in model.astream("a", {"cache": cache})]
        whole = await model.ainvoke("a", {"cache": cache})
        assert provider.log.snapshot().requests == 1
        assert joined(kept) == whole
        unbilled = joined(sent)
        assert whole == (unbilled if kind is OpenAI else replace(unbilled, usage=Usage()))
        other = await model.ainvoke("b", {"cache": cache})
        (only,) = [chunk async for chunk in model.astream("b", {"cache": cache})]
        assert provider.log.snapshot().requests == 2
        assert joined([only]) == (other if kind is OpenAI else replace(other, usage=Usage()))


async def test_kept_answers_of_streams_flow_through_chains(path: Path) -> None:
    """With tool calls, a parser, and nothing billed."""
    calls = [{"name": "f", "args": {"x": 1}, "id": "1", "type": "tool_call"}]
    provider = MockProvider(answer=lambda _: AIMessage("hi", tool_calls=calls))
    model = streaming_model(provider, ChatOpenAI)
    texts = model | StrOutputParser()
    assert "".join([text async for text in texts.astream("a", {"cache": path})]) == "hi"
    message = joined([chunk async for chunk in model.astream("a", {"cache": path})])
    assert (message.tool_calls, message.usage) == (calls, Usage())
    assert "".join([text async for text in texts.astream("a", {"cache": path})]) == "hi"
    assert provider.log.snapshot().requests == 1


async def test_kept_answers_of_streams_are_complete(path: Path) -> None:
    """A stream that is left, breaks off or ends at the token limit is not kept."""
    provider = MockProvider(streaming=Streaming(chunk_size=2), faults=FaultPlan(script=[Fault.SHORT_BODY]))
    model = streaming_model(provider, ChatOpenAI)
    config: Any = {"cache": path}
    with pytest.raises(ProviderError):
        _ = [chunk async for chunk in model.astream("a", config)]
    async with contextlib.aclosing(model.astream("a", config)) as chunks:
        await anext(chunks)
    _ = [chunk async for chunk in model.bind(max_tokens=1).astream("a", config)]
    assert provider.log.snapshot().requests == 3
    _ = [chunk async for chunk in model.astream("a", config)]
    _ = [chunk async for chunk in model.bind(max_tokens=1).astream("a", config)]
    assert provider.log.snapshot().requests == 5
    _ = [chunk async for chunk in model.astream("a", config)]
    assert provider.log.snapshot().requests == 5
