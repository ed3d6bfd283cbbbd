"""Streamed answers of the mock: every form holds the same answer, and faults come in the middle."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, get_args

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt import AIMessage, ChatOpenAI, OpenAI, ProviderError, RequestTimeoutError, Usage
from batchrt.testing import Fault, FaultPlan, MockProvider, StreamForm, Streaming
from tests.limits.quotas import BACKENDS, is_idle, virtually
from tests.providers.mocked import chat
from tests.providers.streaming import Streamed, message_of, streamed

FORMS: tuple[StreamForm, ...] = get_args(StreamForm)

on_both = pytest.mark.parametrize("backend", BACKENDS)


def body_of(provider: MockProvider, **body: Any) -> list[dict[str, Any]]:
    """Return the objects of a stream, as a simple client reads it."""

    async def main() -> str:
        given = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, **body}
        async with httpx.AsyncClient(transport=provider.transport(), base_url="http://mock") as client:
            response = await client.post("/v1/chat/completions", json=given)
            assert response.headers["content-type"].startswith("text/event-stream")
            return response.text

    events = anyio.run(main).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


def test_streams_have_the_shape_of_openais() -> None:
    """A role first, texts of the chunk's size, a finish reason, and usage only if it is asked for."""
    provider = MockProvider(streaming=Streaming(chunk_size=5))
    objects = body_of(provider)
    deltas = [each["choices"][0]["delta"] for each in objects]
    assert deltas[0]["role"] == "assistant"
    assert deltas[-1] == {}
    assert "".join(delta.get("content", "") for delta in deltas) == provider.answer_to("hi")
    assert {len(delta["content"]) for delta in deltas[1:-2]} == {5}
    assert {each["object"] for each in objects} == {"chat.completion.chunk"}
    assert [each["choices"][0]["finish_reason"] for each in objects] == [None] * (len(objects) - 1) + ["stop"]
    assert not any("usage" in each for each in objects)

    asked = body_of(provider, stream_options={"include_usage": True})
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"]["total_tokens"] > 0
    assert all(each["usage"] is None for each in asked[:-1])


@given(
    st.sets(st.sampled_from(FORMS)),
    st.integers(1, 9),
    st.text(max_size=30).filter(lambda text: not any(0xD800 <= ord(each) < 0xE000 for each in text)),
    st.booleans(),
)
def test_streams_of_any_forms_add_up_to_the_whole_answer(
    forms: set[StreamForm], size: int, text: str, limited: bool
) -> None:
    """The sum of the chunks is the message of the same request unstreamed, whatever the server's form."""
    provider = MockProvider(
        streaming=Streaming(chunk_size=size, forms=forms), answer=lambda _: f"\u2028{text}"
    )

    async def main() -> tuple[AIMessage, AIMessage, str, str]:
        model = chat(provider, max_retries=0, max_tokens=3 if limited else None)
        pieces = OpenAI(
            "m",
            base_url="http://mock/v1",
            transport=provider.transport(),
            max_retries=0,
            max_tokens=3 if limited else None,
        )
        return (
            message_of(await streamed(model, "hi")),
            await model.ainvoke("hi"),
            "".join(await streamed(pieces, "hi")),
            await pieces.ainvoke("hi"),
        )

    message, whole, pieces, completion = virtually("asyncio", main)
    told = "cumulative_usage" in forms or "refused_usage" not in forms
    if "whole" in forms or (told and "missing_usage" not in forms):
        assert message.usage == whole.usage
    elif not told:
        assert message.usage is None
    assert replace(message, usage=None, request_id=None) == replace(whole, usage=None, request_id=None)
    assert pieces == completion


@on_both
def test_streams_keep_their_pauses(backend: str) -> None:
    """The latency is before the head, the first pause before the first chunk, a pause before each other."""

    async def main() -> None:
        provider = MockProvider(
            latency=2.0,
            streaming=Streaming(chunk_size=100, first_pause=3.0, pause=1.0),
            answer=lambda _: "hello",
        )
        times: list[float] = []

        async def each(_: list[Any]) -> None:
            times.append(anyio.current_time())

        await Streamed(chat(provider), each).ainvoke("hi")
        assert times == pytest.approx([6.0, 7.0, 9.0])
        assert provider.log.snapshot().in_flight == 0

    virtually(backend, main)


IN_THE_MIDDLE = {
    Fault.SHORT_BODY: "broken",
    Fault.DROP_MID_BODY: "failed",
    Fault.TRUNCATED_JSON: "not JSON",
    Fault.MALFORMED_JSON: "not JSON",
    Fault.ERROR_IN_200: "upstream model failed",
    Fault.ERROR_EVENT: "upstream model failed",
    Fault.SILENCE: "stalled",
}


@pytest.mark.parametrize("fault", IN_THE_MIDDLE, ids=lambda fault: fault.value)
@on_both
def test_streams_meet_faults_in_their_middle(backend: str, fault: Fault) -> None:
    """The client has a part of the answer and the error; the log names the fault, as ever."""

    async def main() -> None:
        provider = MockProvider(faults=FaultPlan(script=[fault]), streaming=Streaming(chunk_size=1))
        model = chat(provider, max_retries=3, timeout=5.0)
        with pytest.raises(ProviderError, match=IN_THE_MIDDLE[fault]) as info:
            await streamed(model, "hi")
        text = info.value.partial.content
        assert 5 < len(text) < len(provider.answer_to("hi"))
        assert provider.answer_to("hi").startswith(text)
        (entry,) = provider.log.records()
        assert entry.fault is fault
        assert is_idle(model.quota)
        assert message_of(await streamed(model, "hi")).content == provider.answer_to("hi")

    virtually(backend, main)


@on_both
def test_streams_under_all_faults_are_whole_or_fail_as_told(backend: str) -> None:
    """Of many streams each is its own answer, whole, or has an error with a part of its own answer."""

    async def main() -> None:
        provider = MockProvider(
            latency=0.2,
            faults=FaultPlan.everything(0.3, streams=True, stall_seconds=3.0),
            streaming=Streaming(chunk_size=3, pause=0.05, forms=("comments", "retry", "identifiers")),
        )
        model = chat(provider, timeout=10.0, max_retries=4)
        texts = [f"number {number}" for number in range(300)]
        result = await Streamed(model).arun(texts, {"max_concurrency": 20})
        broken = 0
        for outcome, text in zip(result, texts, strict=True):
            answer = provider.answer_to(text)
            if outcome.output is not None:
                assert message_of(outcome.output).content == answer
            elif isinstance(outcome.error, ProviderError) and outcome.error.partial is not None:
                broken += 1
                assert outcome.error.partial.content
                assert answer.startswith(outcome.error.partial.content)
        assert broken > 5
        assert sum(outcome.ok for outcome in result) > 200
        assert is_idle(model.quota)
        assert provider.log.snapshot().in_flight == 0

    virtually(backend, main)


@pytest.mark.anyio
async def test_streams_come_over_sockets() -> None:
    """Served on a port, the chunks come one by one, and a stream that is left is a disconnect in the log."""
    provider = MockProvider(streaming=Streaming(chunk_size=2, pause=0.001))
    with provider.serve() as server:
        async with ChatOpenAI("m", base_url=server.base_url, api_key="k") as model:
            chunks = await streamed(model, "hi")
            assert message_of(chunks).content == provider.answer_to("hi")
            assert len(chunks) > len(provider.answer_to("hi")) / 2
            assert message_of(chunks).usage == (await model.ainvoke("hi")).usage
            await Streamed(model, most=2).ainvoke("hi")
            with anyio.fail_after(20):
                await provider.log.wait_for(lambda seen: seen.disconnects == 1)


def test_streams_stall_and_the_client_does_not_wait_for_ever() -> None:
    """A silence longer than the client's timeout is one, before the first chunk too."""

    async def main() -> None:
        provider = MockProvider(streaming=Streaming(first_pause=100.0))
        with pytest.raises(RequestTimeoutError, match="stalled") as info:
            await streamed(chat(provider, timeout=5.0, max_retries=0), "hi")
        assert info.value.partial is None

    virtually("trio", main)


@pytest.mark.parametrize(
    "options",
    [{"chunk_size": 0}, {"pause": -1.0}, {"first_pause": float("inf")}, {"forms": ("crlf", "other")}],
    ids=str,
)
def test_streaming_refuses_options_that_make_no_sense(options: dict[str, Any]) -> None:
    """Where they are given, not with the first stream."""
    with pytest.raises(ValueError, match=next(iter(options))):
        Streaming(**options)


def test_streams_count_their_tokens_once() -> None:
    """Cumulative usage with each chunk is the usage of the last."""

    async def main() -> Usage | None:
        provider = MockProvider(streaming=Streaming(forms=("cumulative_usage",)))
        result = await Streamed(chat(provider)).arun(["hi"])
        whole = await chat(provider).ainvoke("hi")
        assert result[0].usage == whole.usage
        return whole.usage

    assert virtually("trio", main) is not None
