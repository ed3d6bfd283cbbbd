"""Bodies that are JSON, however they are written."""

from __future__ import annotations

import codecs
import json
from typing import Any

import httpx
import pytest

from batchrt.errors import BadRequestError, MalformedResponseError
from batchrt.providers.chat.model import ChatOpenAI
from batchrt.providers.embeddings.model import OpenAIEmbeddings
from batchrt.providers.http.response import load_json
from tests.providers.http.replies import chat_body

pytestmark = pytest.mark.anyio

ENCODINGS = {
    "UTF-8 with a mark": codecs.BOM_UTF8 + '{"é": 1}'.encode(),
    "UTF-16 with a mark": '{"é": 1}'.encode("utf-16"),
    "UTF-16, little-endian": '{"é": 1}'.encode("utf-16-le"),
    "UTF-16, big-endian": '{"é": 1}'.encode("utf-16-be"),
    "UTF-32 with a mark": '{"é": 1}'.encode("utf-32"),
    "UTF-32, big-endian": '{"é": 1}'.encode("utf-32-be"),
    "blanks around it": b' \r\n\t{"\xc3\xa9": 1}\n',
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_response_json_may_be_in_any_unicode_encoding(name: str) -> None:
    """As in httpx's `Response.json`."""
    assert load_json(ENCODINGS[name]) == {"é": 1} == json.loads(ENCODINGS[name])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        codecs.BOM_UTF8,
        b"\xff\xfe",
        b"\0",
        b"\0\0\0\0",
        b"[" * 10**5,
        b"\xef\xbb\xbf" + b"[" * 10**5,
    ],
)
def test_response_json_that_is_invalid_is_a_value_error(body: bytes) -> None:
    """And no other error, not even RecursionError."""
    with pytest.raises(ValueError, match=r"."):
        load_json(body)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"a": "\xe9"}', "\ufffd"),
        (b'{"a": "\xf0\x9f\x98"}', "\ufffd"),
        (b'{"a": "\\ud83d"}', "\ud83d"),
        (b'{"a": "x\ny"}', "x\ny"),
        (codecs.BOM_UTF8 + b'{"a": "x\ny"}', "x\ny"),
    ],
)
def test_response_json_may_have_half_characters_or_bare_line_breaks(body: bytes, text: str) -> None:
    """The answer was paid for."""
    assert load_json(body) == {"a": text}


def answering(body: bytes, status: int = 200, **headers: str) -> tuple[httpx.MockTransport, list[Any]]:
    """Return a transport that always gives `body`, and what was asked of it."""
    asked: list[Any] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        return httpx.Response(status, content=body, headers=headers)

    return httpx.MockTransport(handle), asked


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-8"])
async def test_response_json_of_a_chat_may_begin_with_a_byte_order_mark(encoding: str) -> None:
    """An answer that was paid for is not thrown away for it."""
    transport, asked = answering(json.dumps(chat_body("häh?"), ensure_ascii=False).encode(encoding))
    message = await ChatOpenAI("m", base_url="http://h/v1", transport=transport).ainvoke("x")
    assert (message.text, len(asked)) == ("häh?", 1)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
@pytest.mark.parametrize("vector", [[0.5, 0.25], "AAAAPwAAgD4="])
async def test_response_json_of_embeddings_may_begin_with_a_byte_order_mark(
    encoding: str, vector: Any
) -> None:
    """Whether it is streamed into a sink or not."""
    body = json.dumps({"data": [{"index": 0, "embedding": vector}]}).encode(encoding)
    transport, asked = answering(body)
    embeddings = OpenAIEmbeddings("m", base_url="http://h/v1", transport=transport)
    assert await embeddings.ainvoke("x") == [0.5, 0.25]
    assert len(asked) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
async def test_response_json_of_an_error_may_begin_with_a_byte_order_mark(encoding: str) -> None:
    """Its message is read."""
    transport, _ = answering('{"error": {"message": "no such option", "param": "x"}}'.encode(encoding), 400)
    with pytest.raises(BadRequestError) as caught:
        await ChatOpenAI("m", base_url="http://h/v1", transport=transport).ainvoke("x")
    assert (caught.value.message, caught.value.param) == ("no such option", "x")


@pytest.mark.parametrize(
    "body",
    [
        b'data: {"choices": []}\n\n',
        b"event: x\ndata: 1\n\n",
        b": ping\n\n",
        b"\n\ndata:{}\n\n",
        b"id: 1\ndata: 2\n\n",
    ],
)
async def test_response_that_is_a_stream_of_events_is_not_retried(body: bytes) -> None:
    """The message has the remedy."""
    transport, asked = answering(body)
    with pytest.raises(MalformedResponseError, match=r'extra_body=\{"stream": False\}'):
        await ChatOpenAI("m", base_url="http://h/v1", transport=transport).ainvoke("x")
    assert len(asked) == 1
