"""Streams of chat models: deltas of every form that servers send add up to the message."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import pytest

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
        *(data | {"choices": data["choices"] + [{"index": 1, "delta": {"content": "?"}}]} for data in HELLO[:4]),
        HELLO[4],
    ),
    "no index": sse(*HELLO).replace(b'"index": 0, ', b""),
    "an error that is none": sse(*({**data, "error": None} for data in HELLO)),
    "whole in one message": sse(
        {"model": "m-1", "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}], "usage": USAGE}
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_chat_streams_of_any_form_add_up_to_the_message(form: str) -> None:
    """Servers differ; the sum does not."""
    assert added(FORMS[form]) == HELLO_MESSAGE
