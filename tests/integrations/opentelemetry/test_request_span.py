"""The spans and measurements of requests: attributes, times, retries, streams, errors."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from batchrt import ChatOpenAI, OpenAI, Quota, RateLimitError
from batchrt.testing import MockProvider
from tests import virtual
from tests.integrations.opentelemetry.recording import answer_of, chat, embeddings, recording, refusal

BACKENDS = ["asyncio", "trio"]


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def streaming(**options: Any) -> ChatOpenAI:
    given: Any = {"transport": MockProvider().transport(), **options}
    return ChatOpenAI("m", base_url="http://mock/v1", api_key="k", **given)


@pytest.mark.anyio
async def test_request_span_has_the_attributes_of_the_conventions() -> None:
    """Operation, provider, model, server, parameters, response and usage."""
    model = chat(temperature=0.5, max_completion_tokens=9, stop=["END"], seed=3)
    with recording() as recorded:
        await model.ainvoke("a")
    (span,) = recorded.spans("chat")
    assert span.name == "chat m"
    assert span.kind is SpanKind.CLIENT
    found = attributes_of(span)
    assert found.pop("batchrt.queue.duration") >= 0
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m",
        "server.address": "mock",
        "server.port": 8000,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.seed": 3,
        "gen_ai.request.stop_sequences": ("END",),
        "gen_ai.response.id": "chatcmpl-7",
        "gen_ai.response.model": "m-1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 6,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "batchrt.request.attempts": 1,
        "batchrt.response.request_id": "req-9",
    }


@pytest.mark.anyio
async def test_request_span_of_embeddings_has_no_output_tokens() -> None:
    """Neither in the span nor in the histogram; the size of the list is there."""
    with recording() as recorded:
        await embeddings(dimensions=2).abatch(["a", "b"])
    found = attributes_of(recorded.spans("embeddings")[0])
    assert found["gen_ai.operation.name"] == "embeddings"
    assert found["gen_ai.embeddings.dimension.count"] == 2
    assert found["gen_ai.usage.input_tokens"] == 6
    assert "gen_ai.usage.output_tokens" not in found
    assert found["batchrt.list.size"] == 2
    assert recorded.values("gen_ai.client.token.usage", "gen_ai.token.type") == {"input": 6}


@pytest.mark.anyio
async def test_request_span_of_completions() -> None:
    """The operation of `/completions` is `text_completion`."""
    model: Any = OpenAI(
        "m", base_url="http://mock/v1", api_key="k", transport=MockProvider().transport(), max_batch_size=2
    )
    with recording() as recorded:
        await model.abatch(["a", "b", "c"])
    spans = recorded.spans("text_completion m")
    assert [attributes_of(span)["batchrt.list.size"] for span in spans] == [2, 1]
    assert [len(attributes_of(span)["gen_ai.response.finish_reasons"]) for span in spans] == [2, 1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_request_span_is_one_for_all_attempts(backend: str) -> None:
    """Each failed attempt is an event; the span's end and its duration are those of the last."""
    model = chat(refusal(503), refusal(500))
    with recording() as recorded:
        virtual.run(model.ainvoke, "a", backend=backend)
    (span,) = recorded.spans("chat")
    events: list[dict[str, Any]] = [
        dict(event.attributes or {}) for event in span.events if event.name == "batchrt.retry"
    ]
    waits = [event.pop("batchrt.wait") for event in events]
    assert events == [
        {"error.type": "ServerError", "http.response.status_code": 503, "batchrt.retry.attempt": 1},
        {"error.type": "ServerError", "http.response.status_code": 500, "batchrt.retry.attempt": 2},
    ]
    assert attributes_of(span)["batchrt.request.attempts"] == 3
    assert span.status.status_code is StatusCode.UNSET
    (duration,) = recorded.points()["gen_ai.client.operation.duration"]
    assert duration.count == 1
    assert duration.sum == pytest.approx(sum(waits))
    assert recorded.values("batchrt.retries", "error.type") == {"ServerError": 2}
    assert recorded.values("batchrt.requests", "error.type") == {None: 1}


@pytest.mark.anyio
async def test_request_span_has_the_error_of_the_last_attempt() -> None:
    """By its type and status; the message, which quotes the prompt, is not there."""
    model = chat(refusal(400, **{"x-request-id": "req-1"}))
    with recording() as recorded:
        await model.abatch(["a"], return_exceptions=True)
    (span,) = recorded.spans("chat")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    found = attributes_of(span)
    assert found["error.type"] == "BadRequestError"
    assert found["http.response.status_code"] == 400
    assert found["batchrt.response.request_id"] == "req-1"
    (duration,) = recorded.points()["gen_ai.client.operation.duration"]
    assert duration.attributes["error.type"] == "BadRequestError"
    assert recorded.values("batchrt.requests", "error.type") == {"BadRequestError": 1}
    assert "gen_ai.client.token.usage" not in recorded.points()


@pytest.mark.parametrize("backend", BACKENDS)
def test_request_span_begins_when_the_request_is_sent(backend: str) -> None:
    """The wait for the quota before that is measured by itself, and no part of the duration."""
    model = chat(quota=Quota(requests_per_minute=6, burst_seconds=10))
    with recording() as recorded:
        virtual.run(model.abatch, ["a", "b", "c"], backend=backend)
    waits = [attributes_of(span)["batchrt.queue.duration"] for span in recorded.spans("chat")]
    assert waits == pytest.approx([0, 10, 20])
    (queue,) = recorded.points()["batchrt.queue.duration"]
    assert queue.sum == pytest.approx(30)
    (duration,) = recorded.points()["gen_ai.client.operation.duration"]
    assert duration.sum == pytest.approx(0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_request_span_of_a_request_that_was_never_sent(backend: str) -> None:
    """It ends with the error of the quota."""
    model = chat(refusal(429, **{"retry-after": "900"}))

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(RateLimitError):
                await model.ainvoke("a")

    with recording() as recorded:
        virtual.run(main, backend=backend)
    sent, unsent = recorded.spans("chat")
    assert attributes_of(sent)["batchrt.request.attempts"] == 1
    assert attributes_of(unsent)["batchrt.request.attempts"] == 0
    assert attributes_of(unsent)["error.type"] == "RateLimitError"


@pytest.mark.parametrize("backend", BACKENDS)
def test_request_span_of_a_cancelled_request(backend: str) -> None:
    """A cancellation is an `error.type` of its own, whichever library it comes from."""

    async def hang(_: httpx.Request) -> httpx.Response:
        await anyio.sleep(99)
        raise AssertionError

    model = chat(transport=httpx.MockTransport(hang))
    with recording() as recorded:
        virtual.run(lambda: model.abatch(["a"], {"timeout": 1}, return_exceptions=True), backend=backend)
    (span,) = recorded.spans("chat")
    assert attributes_of(span)["error.type"] == "cancelled"
    assert recorded.values("batchrt.requests", "error.type") == {"cancelled": 1}


@pytest.mark.anyio
async def test_request_span_is_current_while_the_request_is_sent() -> None:
    """Spans of an instrumented HTTP client are its children, and the context before is the one after."""
    seen = []

    async def answer(request: httpx.Request) -> httpx.Response:
        seen.append(trace.get_current_span().get_span_context().span_id)
        return answer_of(request)

    model = chat(transport=httpx.MockTransport(answer))
    with recording() as recorded:
        tracer = recorded.tracer_provider.get_tracer("test")
        with tracer.start_as_current_span("caller") as caller:
            await model.ainvoke("a")
            assert trace.get_current_span() is caller
    (span,) = recorded.spans("chat")
    assert span.context is not None
    assert seen == [span.context.span_id]


@pytest.mark.anyio
async def test_request_span_of_a_stream_has_the_times_of_its_chunks() -> None:
    """The first chunk's, and between later ones; the answer's model, finish reason and usage."""
    with recording() as recorded:
        async with streaming().astream("a") as chunks:
            count = len([chunk async for chunk in chunks])
    (span,) = recorded.spans("chat")
    found = attributes_of(span)
    assert found["gen_ai.request.stream"] is True
    assert found["gen_ai.response.model"] == "m"
    assert found["gen_ai.response.finish_reasons"] == ("stop",)
    assert found["gen_ai.usage.output_tokens"] > 0
    (first,) = recorded.points()["gen_ai.client.operation.time_to_first_chunk"]
    assert first.count == 1
    assert found["gen_ai.response.time_to_first_chunk"] == pytest.approx(first.sum)
    (later,) = recorded.points()["gen_ai.client.operation.time_per_output_chunk"]
    assert later.count == count - 1
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.anyio
async def test_request_span_of_a_stream_that_is_closed_early() -> None:
    """It is cancelled; one that was received to its end is not, whenever it is closed."""
    long = MockProvider(answer=lambda _: "word " * 5_000)
    with recording() as recorded:
        async with streaming(transport=long.transport()).astream("a") as chunks:
            await anext(chunks)
        async with streaming(streaming=True).astream("a") as chunks:
            assert [chunk async for chunk in chunks]
        await streaming(streaming=True).ainvoke("a")
    spans = recorded.spans("chat")
    assert len(spans) == 3
    kinds = [attributes_of(span).get("error.type") for span in spans]
    assert kinds == ["cancelled", None, None]
    assert recorded.values("batchrt.requests", "error.type") == {"cancelled": 1, None: 2}


@pytest.mark.anyio
async def test_request_span_of_a_stream_that_fails() -> None:
    """Its error, with the retries before it."""
    model = chat(refusal(500), refusal(400))
    with recording() as recorded:
        with pytest.raises(Exception, match="cannot do that"):
            async with model.astream("a") as chunks:
                await anext(chunks)
    (span,) = recorded.spans("chat")
    assert attributes_of(span)["error.type"] == "BadRequestError"
    assert [event.name for event in span.events] == ["batchrt.retry"]


@pytest.mark.anyio
async def test_request_span_has_prompts_and_answers_if_they_are_asked_for() -> None:
    """In the conventions' form."""
    with recording(capture_content=True) as recorded:
        await chat().ainvoke([("system", "be brief"), ("user", "how are you?")])
        async with streaming().astream("tell me") as chunks:
            said = "".join([chunk.text async for chunk in chunks])
    whole, streamed = (attributes_of(span) for span in recorded.spans("chat"))
    assert json.loads(whole["gen_ai.input.messages"]) == [
        {"role": "system", "parts": [{"type": "text", "content": "be brief"}]},
        {"role": "user", "parts": [{"type": "text", "content": "how are you?"}]},
    ]
    (answer,) = json.loads(whole["gen_ai.output.messages"])
    assert answer == {
        "role": "assistant",
        "parts": [{"type": "text", "content": "fine"}],
        "finish_reason": "stop",
    }
    (answer,) = json.loads(streamed["gen_ai.output.messages"])
    assert answer["parts"] == [{"type": "text", "content": said}]


@pytest.mark.anyio
@pytest.mark.parametrize("captured", [False, True])
async def test_request_span_keeps_prompts_and_keys_to_itself(captured: bool, caplog: Any) -> None:
    """A prompt is in spans if it is asked for, and never in metrics or logs; a key is nowhere."""
    model = chat(refusal(500), refusal(400), refusal(429, **{"retry-after": "0"}))
    texts = ["canary-prompt", "canary-other"]
    with recording(items=True, capture_content=captured) as recorded:
        await model.abatch(texts, {"max_concurrency": 1}, return_exceptions=True)
        await embeddings(refusal(400), refusal(400), refusal(400)).abatch(texts, return_exceptions=True)
        # The first refusal quotes `stream_options`, and is taken for one of these.
        async with chat(refusal(400), refusal(400)).astream("canary-prompt") as chunks:
            with pytest.raises(Exception, match="canary-prompt"):
                await anext(chunks)
    spans = "".join(span.to_json() for span in recorded.spans())
    assert ("canary-prompt" in spans) == captured
    assert "canary-key" not in recorded.everything() + caplog.text
    assert "canary" not in repr(recorded.points()) + caplog.text
