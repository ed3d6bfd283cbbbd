"""Streams of chat models: deltas of every form that servers send add up to the message."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt import (
    AIMessage,
    BadRequestError,
    ChatOpenAI,
    MalformedResponseError,
    ProviderError,
    RateLimitError,
    ServerError,
    Usage,
)
from batchrt.testing import MockProvider
from tests.limits.quotas import virtually
from tests.providers.mocked import respond
from tests.providers.streaming import chunk_of, event, message_of, sse, streamed

USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
HELLO = [
    chunk_of({"role": "assistant", "content": "", "refusal": None}),
    chunk_of({"content": "Hel"}),
    chunk_of({"content": "lo"}),
    chunk_of({}, "stop"),
    chunk_of(None, usage=USAGE),
]


def model_of(body: bytes, content_type: str = "text/event-stream", **options: Any) -> ChatOpenAI:
    """Return a model whose requests are all answered with `body`."""
    headers = {"content-type": content_type, "x-request-id": "req-1"}
    return respond(lambda _: httpx.Response(200, content=body, headers=headers), max_retries=0, **options)


def added(body: bytes) -> AIMessage:
    """Return the message that the stream in `body` adds up to."""

    async def main() -> AIMessage:
        return message_of(await streamed(model_of(body)))

    return anyio.run(main)


HELLO_MESSAGE = AIMessage(
    "Hello", finish_reason="stop", usage=Usage(10, 3, 13), model="m-1", request_id="req-1"
)


@pytest.mark.anyio
async def test_chat_streams_give_each_text_at_once_and_usage_at_the_end() -> None:
    """Empty deltas are no chunks; the first chunk names the model, the last has the usage."""
    chunks = await streamed(model_of(sse(*HELLO)))
    assert [chunk.content for chunk in chunks] == ["Hel", "lo", "", ""]
    assert [chunk.model for chunk in chunks] == ["m-1", None, None, None]
    assert [chunk.usage for chunk in chunks] == [None, None, None, Usage(10, 3, 13)]
    assert message_of(chunks) == HELLO_MESSAGE


FORMS = {
    "as OpenAI": sse(*HELLO),
    "no [DONE]": sse(*HELLO, done=False),
    "no blank line at the end": sse(*HELLO).rstrip(b"\n"),
    "byte order mark": b"\xef\xbb\xbf" + sse(*HELLO),
    "carriage returns": sse(*HELLO).replace(b"\n", b"\r"),
    "both": sse(*HELLO).replace(b"\n", b"\r\n"),
    "comments": b": hello\n\n" + sse(*HELLO).replace(b"\n\n", b"\n\n: keep-alive\n\n"),
    "retry first": b"retry: 3000\n\n" + sse(*HELLO),
    "identifiers": b"id: 1\n\n\n" + sse(*HELLO).replace(b"data", b"id: 2\ndata"),
    "events without data": b"event: ping\n\n" + sse(*HELLO).replace(b"\n\n", b"\n\ndata:\n\ndata\n\n"),
    "pings": b"event: ping\ndata: 12:00\n\n" + sse(*HELLO),
    "data in two lines": sse(*HELLO).replace(b'"choices"', b'\ndata: "choices"'),
    "cumulative usage": sse(
        *({**data, "usage": {**USAGE, "completion_tokens": n}} for n, data in enumerate(HELLO[:4])),
        HELLO[4],
    ),
    "usage beside the finish": sse(*HELLO[:3], chunk_of({}, "stop", usage=USAGE)),
    "usage after the finish, which is repeated": sse(*HELLO[:4], chunk_of({}, "stop", usage=USAGE)),
    "null choices": sse({"choices": None}, *HELLO[:4], {"choices": None, "usage": USAGE}),
    "filter results first": sse({"choices": [], "prompt_filter_results": [], "model": ""}, *HELLO),
    "null deltas": sse(*HELLO[:3], chunk_of({"content": None, "role": None}), *HELLO[3:]),
    "no delta": sse(*HELLO[:3], {"choices": [{"index": 0, "finish_reason": "stop"}]}, HELLO[4]),
    "a second choice": sse(
        *(
            data | {"choices": data["choices"] + [{"index": 1, "delta": {"content": "?"}}]}
            for data in HELLO[:4]
        ),
        HELLO[4],
    ),
    "no index": sse(*HELLO).replace(b'"index": 0, ', b""),
    "an error that is none": sse(*({**data, "error": None} for data in HELLO)),
    "whole in one message": sse(
        {
            "model": "m-1",
            "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}],
            "usage": USAGE,
        }
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_chat_streams_of_any_form_add_up_to_the_message(form: str) -> None:
    """Servers differ; the sum does not."""
    assert added(FORMS[form]) == HELLO_MESSAGE


def call_of(index: int | None = None, **members: Any) -> dict[str, Any]:
    """Return a fragment of a tool call; `name` and `arguments` go into its function."""
    function = {name: members.pop(name) for name in ("name", "arguments") if name in members}
    fragment = {**members, **({"function": function} if function else {})}
    return fragment if index is None else {"index": index, **fragment}


def calling(*deltas: list[dict[str, Any]]) -> bytes:
    """Return a stream with these fragments."""
    return sse(
        chunk_of({"role": "assistant", "content": None}),
        *(chunk_of({"tool_calls": fragments}) for fragments in deltas),
        chunk_of({}, "tool_calls"),
    )


A, B = '{"a":1}', '{"b":2}'
CALLS = {
    "as OpenAI": calling(
        [call_of(0, id="1", type="function", name="f", arguments="")],
        [call_of(0, arguments='{"a"')],
        [call_of(0, arguments=":1}")],
        [call_of(1, id="2", type="function", name="g", arguments="")],
        [call_of(1, arguments=B)],
    ),
    "interleaved": calling(
        [call_of(0, id="1", name="f"), call_of(1, id="2", name="g")],
        [call_of(1, arguments='{"b"'), call_of(0, arguments='{"a"')],
        [call_of(0, arguments=":1}"), call_of(1, arguments=":2}")],
    ),
    "whole in one delta": calling(
        [call_of(0, id="1", name="f", arguments=A), call_of(1, id="2", name="g", arguments=B)]
    ),
    "whole in one delta, all with index 0": calling(
        [call_of(0, id="1", name="f", arguments=A), call_of(0, id="2", name="g", arguments=B)]
    ),
    "whole in a delta each, all with index 0": calling(
        [call_of(0, id="1", name="f", arguments=A)], [call_of(0, id="2", name="g", arguments=B)]
    ),
    "in pieces, all with index 0": calling(
        [call_of(0, id="1", name="f")],
        [call_of(0, arguments='{"a"')],
        [call_of(0, arguments=":1}")],
        [call_of(0, id="2", name="g")],
        [call_of(0, arguments=B)],
    ),
    "whole without an index": calling(
        [call_of(id="1", name="f", arguments=A)], [call_of(id="2", name="g", arguments=B)]
    ),
    "in pieces without an index": calling(
        [call_of(id="1", name="f", arguments='{"a"')],
        [call_of(arguments=":1}")],
        [call_of(id="2", name="g", arguments='{"b"')],
        [call_of(arguments=":2}")],
    ),
    "the identifier with each, no index": calling(
        [call_of(id="1", name="f")],
        [call_of(id="2", name="g")],
        [call_of(id="1", arguments=A)],
        [call_of(id="2", arguments=B)],
    ),
    "another identifier with each": calling(
        [call_of(0, id="1", name="f", arguments='{"a"')],
        [call_of(0, id="x", arguments=":1}")],
        [call_of(1, id="2", name="g", arguments='{"b"')],
        [call_of(1, id="y", arguments=":2}")],
    ),
    "name and identifier with each": calling(
        [call_of(0, id="1", name="f", arguments="")],
        [call_of(0, id="1", name="f", arguments=A)],
        [call_of(0, id="1", name="f", arguments="")],
        [call_of(1, id="2", name="g", arguments='{"b"')],
        [call_of(1, id="2", name="g", arguments=":2}")],
    ),
    "arguments null": calling(
        [call_of(0, id="1", name="f", arguments=None)],
        [call_of(0, id=None, name=None, arguments=A)],
        [call_of(1, id="2", name="g", arguments=None)],
        [call_of(1, arguments=B), call_of(1, arguments=None)],
    ),
    "arguments as an object": calling(
        [call_of(0, id="1", name="f", arguments={"a": 1})], [call_of(1, id="2", name="g", arguments={"b": 2})]
    ),
    "an object in place of the list": sse(
        chunk_of({"tool_calls": call_of(0, id="1", name="f", arguments=A)}),
        chunk_of({"tool_calls": call_of(1, id="2", name="g", arguments=B)}, "tool_calls"),
    ),
    "the index as text, from 1": calling(
        [{"index": "1", **call_of(id="1", name="f", arguments=A)}],
        [{"index": "2", **call_of(id="2", name="g", arguments=B)}],
    ),
    "the name in pieces": calling(
        [call_of(0, id="1", name="f")],
        [call_of(0, arguments=A)],
        [call_of(1, id="2", name="")],
        [call_of(1, name="g", arguments=B)],
    ),
}


@pytest.mark.parametrize("form", CALLS)
def test_chat_tool_calls_of_any_form_are_joined(form: str) -> None:
    """Two calls are two calls, whatever the server says of their numbers and identifiers."""
    message = added(CALLS[form])
    calls = [{**call, "type": "function"} for call in message.raw_tool_calls]
    assert calls == [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": A}},
        {"id": "2", "type": "function", "function": {"name": "g", "arguments": B}},
    ]
    assert message.content is None
    assert message.finish_reason == "tool_calls"


def test_chat_tool_calls_without_identifiers_are_told_apart_by_their_arguments() -> None:
    """Whole calls with index 0 and no identifier, as some gateways send them, stay two, of one name too."""
    for names in ("fg", "ff"):
        calls = added(calling(*([call_of(0, name=name, arguments=A)] for name in names))).raw_tool_calls
        assert [call["function"]["name"] for call in calls] == list(names)
        assert [call["function"]["arguments"] for call in calls] == [A, A]


_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
_names = st.sampled_from(["f", "get_weather", "search"])
_words = st.builds(lambda text, value: {"token": text, "logprob": value}, _texts, st.floats(-9, 0))
_tool_calls: st.SearchStrategy[list[dict[str, Any]]] = st.lists(
    st.builds(
        lambda name, arguments: {"type": "function", "function": {"name": name, "arguments": arguments}},
        _names,
        st.dictionaries(_texts, _texts, max_size=2).map(json.dumps) | st.just(""),
    ),
    max_size=3,
).map(lambda calls: [{"id": f"call_{place}", **call} for place, call in enumerate(calls)])


@st.composite
def _answers(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw a choice with a whole message, and the same choice in deltas."""
    message: dict[str, Any] = {"role": "assistant", "content": draw(st.none() | st.just("") | _texts)}
    deltas: list[list[dict[str, Any]]] = []
    for name in ("content", "reasoning_content", "refusal"):
        text = message.get("content") if name == "content" else draw(st.none() | _texts)
        message[name] = text
        deltas.append([{"delta": {name: piece}} for piece in ([] if text is None else draw(_pieces(text)))])
    calls: list[dict[str, Any]] = draw(_tool_calls)
    if calls:
        message["tool_calls"] = calls
    starts = [{**call, "function": {**call["function"], "arguments": ""}} for call in calls]
    rests = [
        [{"function": {"arguments": piece}} for piece in draw(_pieces(call["function"]["arguments"]))]
        for call in calls
    ]
    fragments = [*enumerate(starts), *draw(_interleaved(rests))]
    deltas.append([{"delta": {"tool_calls": [{"index": index, **part}]}} for index, part in fragments])
    words = draw(st.lists(_words, max_size=3))
    choice: dict[str, Any] = {
        "index": 0,
        "message": message,
        "finish_reason": draw(st.sampled_from(["stop", "length"])),
    }
    if words:
        choice["logprobs"] = {"content": words, "refusal": None}
    deltas.append([{"delta": {}, "logprobs": {"content": [word], "refusal": None}} for word in words])
    first = {"delta": {"role": "assistant", "content": None if message["content"] is None else ""}}
    last = {"delta": {}, "finish_reason": choice["finish_reason"]}
    return choice, [first, *(delta for _, delta in draw(_interleaved(deltas))), last]


@st.composite
def _interleaved(draw: st.DrawFn, parts: list[list[Any]]) -> list[tuple[int, Any]]:
    """Draw an order of all members, each with the number of its part, which stays in order."""
    order: list[int] = draw(st.permutations([number for number, part in enumerate(parts) for _ in part]))
    queues = [iter(part) for part in parts]
    return [(number, next(queues[number])) for number in order]


@st.composite
def _pieces(draw: st.DrawFn, text: str) -> list[str]:
    cuts = draw(st.lists(st.integers(0, len(text)), max_size=4).map(sorted))
    return [text[start:stop] for start, stop in pairwise([0, *cuts, len(text)])]


@given(_answers())
def test_chat_streams_add_up_to_what_the_same_answer_gives_unstreamed(answer: Any) -> None:
    """For any message in any pieces, the sum of the chunks is the message."""
    choice, deltas = answer
    common = {"model": "m-1", "service_tier": "flex"}
    whole = {**common, "choices": [choice], "usage": USAGE}
    stream = sse(
        *({**common, "choices": [{"index": 0, **each}]} for each in deltas),
        {**common, "choices": [], "usage": USAGE},
    )
    assert added(stream) == anyio.run(model_of(json.dumps(whole).encode()).ainvoke, "hello")


def test_chat_streams_join_reasoning_refusals_and_logprobs() -> None:
    """Each part of a message is joined apart from the content."""
    word = {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}
    choice = {"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [word], "refusal": None}}
    message = added(
        sse(
            chunk_of({"content": "", "reasoning_content": "I "}),
            chunk_of({"reasoning_content": "think"}),
            {"choices": [choice]},
            {"choices": [choice]},
            chunk_of({"refusal": "no"}),
            chunk_of({"refusal": "pe"}, "stop"),
        )
    )
    assert (message.content, message.reasoning, message.refusal) == ("aa", "I think", "nope")
    assert message.logprobs == {"content": [word, word], "refusal": None}


def test_chat_streams_join_lists_of_parts() -> None:
    """Mistral's models that think stream parts: adjacent ones of a type are one."""

    def thinking(text: str) -> dict[str, Any]:
        return chunk_of({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]})

    message = added(sse(thinking("I "), thinking("think"), chunk_of({"content": "a"}), *HELLO[2:]))
    assert message.text == "alo"
    assert message.reasoning == "I think"
    assert message.content == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "I think"}]},
        {"type": "text", "text": "alo"},
    ]


@pytest.mark.parametrize("text", ["a\u2028b\u2029c\u0085d", "\U0001f600 é", 'quote " and \\ and \n'])
def test_chat_streams_keep_characters(text: str) -> None:
    """Separators of lines that are none in this format stay in the text."""
    body = f'data: {{"choices":[{{"delta":{{"content":{httpx.Response(200, json=text).text}}}}}]}}\n\n'
    assert added(body.encode() + sse()).content == text


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "", "text/event-stream; charset=utf-8"]
)
def test_chat_streams_are_known_by_their_body(content_type: str) -> None:
    """Whatever the header says: a body that begins as JSON is an answer as a whole, or an error."""

    async def main() -> None:
        model = model_of(sse(*HELLO), content_type)
        assert message_of(await streamed(model)) == HELLO_MESSAGE
        whole = httpx.Response(200, json=WHOLE).content
        (chunk,) = await streamed(model_of(b" \n\n" + whole, content_type))
        assert chunk.to_message() == HELLO_MESSAGE
        with pytest.raises(RateLimitError, match="busy") as info:
            await streamed(model_of(b'{"error":{"message":"busy","code":429}}', content_type))
        assert info.value.partial is None

    anyio.run(main)


WHOLE = {
    "model": "m-1",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": USAGE,
}

BROKEN = {
    "an error": (event({"error": {"message": "overloaded", "code": 503}}), ServerError, "overloaded"),
    "an error without details": (event({"error": "out of memory"}), ServerError, "out of memory"),
    "an error as an event": (b"event: error\ndata: out of memory\n\n", ServerError, "out of memory"),
    "an error event of JSON": (
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded","message":"busy"}}\n\n',
        ProviderError,
        "busy",
    ),
    "a limit": (
        event({"error": {"message": "slow down", "type": "rate_limit_error"}}),
        RateLimitError,
        "slow down",
    ),
    "a choice that failed": (event(chunk_of({}, "error")), ServerError, "broke off"),
    "an error in a choice": (
        event({"choices": [{"index": 0, "delta": {}, "error": {"message": "upstream"}}]}),
        ServerError,
        "upstream",
    ),
    "no JSON": (event(b'{"choices":'), MalformedResponseError, "not JSON"),
    "no object": (event(b"17"), MalformedResponseError, "no JSON object"),
    "the end": (b"", MalformedResponseError, "cut short"),
    "the end within an event": (b'data: {"cho', MalformedResponseError, "not JSON"),
    "content of a wrong type": (event(chunk_of({"content": 17})), MalformedResponseError, "delta.content"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_chat_streams_that_break_off_say_what_had_come(kind: str) -> None:
    """After the first chunk a failure is raised with the sum of the chunks, and nothing is sent again."""
    rest, error, words = BROKEN[kind]
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        headers = {"x-request-id": "req-1"}
        return httpx.Response(200, content=sse(*HELLO[:3], done=False) + rest, headers=headers)

    async def main() -> None:
        model = respond(answer, max_retries=5)
        with pytest.raises(error, match=words) as info:
            await streamed(model)
        assert info.value.partial.to_message() == AIMessage("Hello", model="m-1", request_id="req-1")
        assert "partial" in str(info.value)
        assert len(requests) == info.value.attempts == 1
        assert model.quota.statistics().in_flight == 0

    anyio.run(main)


@pytest.mark.parametrize("kind", [kind for kind in BROKEN if kind != "a limit"])
def test_chat_streams_that_break_off_before_the_first_chunk_are_sent_again(kind: str) -> None:
    """An empty delta is no chunk: the failure is retried like any other, and the answer comes whole."""
    rest, *_ = BROKEN[kind]
    bodies = [sse(*HELLO[:1], done=False) + rest, sse(*HELLO)]

    async def main() -> None:
        model = respond(lambda _: httpx.Response(200, content=bodies.pop(0)), max_retries=2)
        assert message_of(await streamed(model)).content == "Hello"

    virtually("trio", main)


def test_chat_streams_ask_without_stream_options_once_they_are_refused() -> None:
    """The request that was refused is sent again at once, and later ones do not ask."""
    sent: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        body = httpx.Response(200, content=request.content).json()
        sent.append((body.get("stream"), body.get("stream_options")))
        if "stream_options" in body:
            error = {"message": "Unrecognized request argument supplied: stream_options", "param": None}
            return httpx.Response(400, json={"error": error})
        return httpx.Response(200, content=sse(*HELLO[:4]))

    async def main() -> None:
        model = respond(answer, max_retries=0)
        for _ in range(2):
            assert message_of(await streamed(model)).content == "Hello"
        assert sent == [(True, {"include_usage": True}), (True, None), (True, None)]

        other = respond(answer, max_retries=0, stream_usage=False, extra_body={"stream": False})
        await streamed(other)
        assert sent[3:] == [(True, None)]

    anyio.run(main)


def test_chat_streams_raise_other_refusals() -> None:
    """Only a 400 that names the option is about it."""

    async def main() -> None:
        error = {"message": "temperature is wrong", "param": "temperature"}
        model = respond(lambda _: httpx.Response(400, json={"error": error}))
        with pytest.raises(BadRequestError, match="temperature"):
            await streamed(model)
        with pytest.raises(BadRequestError, match="messages"):
            await streamed(model, [])

    anyio.run(main)


@pytest.mark.anyio
async def test_chat_model_with_streaming_returns_whole_messages() -> None:
    """They are the same as without; the requests ask for streams."""
    provider = MockProvider()
    here: Any = {"base_url": "http://mock/v1", "transport": provider.transport()}
    plain, streaming = ChatOpenAI("m", **here), ChatOpenAI("m", streaming=True, **here)
    asked = ["a", "b", "c"]
    whole = await plain.abatch(asked)
    summed = await streaming.abatch(asked)
    assert [type(message) for message in summed] == [AIMessage] * 3
    assert [dataclasses.replace(m, request_id=None) for m in summed] == [
        dataclasses.replace(m, request_id=None) for m in whole
    ]
    result = await streaming.arun(asked)
    assert result.usage == (await plain.arun(asked)).usage
