from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from batchrt.testing import MockProvider

HELLO = [{"role": "user", "content": "hello"}]


def ask(
    provider: MockProvider,
    body: Mapping[str, Any] | bytes | list[Any],
    authorization: bytes = b"",
    *,
    path: str = "/v1/chat/completions",
) -> tuple[int, dict[str, Any]]:
    """Send one body, without a transport, and return status and document."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    exchange = provider.open("POST", path, raw, authorization=authorization)
    exchange.abandon()
    assert exchange.reply.status is not None
    return exchange.reply.status, json.loads(b"".join(exchange.reply.parts()))


pytestmark = pytest.mark.anyio


async def test_chat_answer_has_all_fields_of_the_api() -> None:
    """Shape, echo of the model, usage and finish reason."""
    provider = MockProvider()
    status, document = ask(provider, {"model": "any", "messages": HELLO})
    assert status == 200
    text = provider.answer_to(HELLO)
    usage = {"prompt_tokens": 5, "completion_tokens": -(-len(text) // 4)}
    assert document.pop("id").startswith("chatcmpl-")
    assert isinstance(document.pop("created"), int)
    assert document == {
        "object": "chat.completion",
        "model": "any",
        "system_fingerprint": "fp_batchrt_mock",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": text,
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {**usage, "total_tokens": sum(usage.values())},
    }


async def test_chat_choices_differ_and_are_all_counted() -> None:
    """Each index has its own answer; usage adds them up."""
    provider = MockProvider()
    _, document = ask(provider, {"model": "m", "messages": HELLO, "n": 3})
    contents = [choice["message"]["content"] for choice in document["choices"]]
    assert contents == [provider.answer_to(HELLO, index=index) for index in range(3)]
    assert len(set(contents)) == 3
    tokens = sum(-(-len(content) // 4) for content in contents)
    assert document["usage"]["completion_tokens"] == tokens


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_chat_token_limit_truncates_the_answer(name: str) -> None:
    """Under either name, and the finish reason is `length`."""
    provider = MockProvider()
    _, document = ask(provider, {"model": "m", "messages": HELLO, name: 2})
    choice = document["choices"][0]
    assert choice["message"]["content"] == provider.answer_to(HELLO)[:8]
    assert choice["finish_reason"] == "length"
    assert document["usage"]["completion_tokens"] == 2


async def test_chat_structured_output_fits_the_schema() -> None:
    """The document is the one that `answer_to` predicts."""
    provider = MockProvider()
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    body = {"model": "m", "messages": HELLO, "response_format": wanted}
    _, document = ask(provider, body)
    content = document["choices"][0]["message"]["content"]
    assert isinstance(json.loads(content)["n"], int)
    assert content == provider.answer_to(HELLO, response_format=wanted)


async def test_chat_json_mode_gives_an_object() -> None:
    """Any object, without a schema."""
    body = {"model": "m", "messages": HELLO, "response_format": {"type": "json_object"}}
    _, document = ask(MockProvider(), body)
    assert isinstance(json.loads(document["choices"][0]["message"]["content"]), dict)


async def test_chat_custom_answer_gets_the_whole_body() -> None:
    """Other parameters included."""
    provider = MockProvider(answer=lambda body: f"{body['temperature']}")
    _, document = ask(provider, {"model": "m", "messages": HELLO, "temperature": 0.5})
    assert document["choices"][0]["message"]["content"] == "0.5"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        ({"messages": HELLO}, "model"),
        ({"model": 3, "messages": HELLO}, "model"),
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": "hi"}, "messages"),
        ({"model": "m", "messages": []}, "messages"),
        ({"model": "m", "messages": ["hi"]}, "messages.[0]"),
        ({"model": "m", "messages": [*HELLO, {"content": "x"}]}, "messages.[1].role"),
        ({"model": "m", "messages": [{"role": "user", "content": 5}]}, "messages.[0].content"),
        ({"model": "m", "messages": [{"role": "user"}]}, "messages.[0].content"),
        ({"model": "m", "messages": [{"role": "user", "content": [5]}]}, "messages.[0].content"),
        ({"model": "m", "messages": HELLO, "stream": "yes"}, "stream"),
        ({"model": "m", "messages": HELLO, "stream_options": {}}, "stream_options"),
        ({"model": "m", "messages": HELLO, "stream": True, "stream_options": 1}, "stream_options"),
        ({"model": "m", "messages": HELLO, "n": 0}, "n"),
        ({"model": "m", "messages": HELLO, "n": True}, "n"),
        ({"model": "m", "messages": HELLO, "n": 129}, "n"),
        ({"model": "m", "messages": HELLO, "max_tokens": -1}, "max_tokens"),
        ({"model": "m", "messages": HELLO, "max_completion_tokens": 0}, "max_completion_tokens"),
        ({"model": "m", "messages": HELLO, "response_format": "json"}, "response_format"),
        ({"model": "m", "messages": HELLO, "response_format": {"type": "x"}}, "response_format"),
        (
            {"model": "m", "messages": HELLO, "response_format": {"type": "json_schema"}},
            "response_format.json_schema",
        ),
        (
            {
                "model": "m",
                "messages": HELLO,
                "response_format": {"type": "json_schema", "json_schema": {"name": "x"}},
            },
            "response_format.json_schema.schema",
        ),
        (
            {
                "model": "m",
                "messages": HELLO,
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "odd"}},
                },
            },
            "response_format",
        ),
    ],
)
async def test_chat_rejects_invalid_requests(body: Any, param: str | None) -> None:
    """400 in OpenAI's shape, with the parameter."""
    status, document = ask(MockProvider(), body)
    assert status == 400
    assert document["error"].keys() == {"message", "type", "param", "code"}
    assert document["error"]["type"] == "invalid_request_error"
    assert document["error"]["param"] == param


async def test_chat_accepts_an_assistant_without_content() -> None:
    """A message of tool calls has none."""
    calls: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": []}
    status, _ = ask(MockProvider(), {"model": "m", "messages": [*HELLO, calls]})
    assert status == 200


async def test_chat_unknown_model_is_not_found() -> None:
    """404 with OpenAI's code, if models are named."""
    provider = MockProvider(models=["a", "b"])
    assert ask(provider, {"model": "b", "messages": HELLO})[0] == 200
    status, document = ask(provider, {"model": "c", "messages": HELLO})
    assert (status, document["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("authorization", [b"", b"Bearer wrong", b"secret", b"Bearer secret2"])
async def test_chat_wrong_key_is_refused(authorization: bytes) -> None:
    """401 with OpenAI's code; the message does not contain the right key."""
    provider = MockProvider(api_key="secret")
    status, document = ask(provider, {"model": "m", "messages": HELLO}, authorization)
    assert (status, document["error"]["code"]) == (401, "invalid_api_key")
    assert "secret" not in json.dumps(document)
    assert "secret" not in repr(provider)


async def test_chat_right_key_is_accepted() -> None:
    """A Bearer token, as OpenAI's."""
    provider = MockProvider(api_key="secret")
    assert ask(provider, {"model": "m", "messages": HELLO}, b"Bearer secret")[0] == 200


def ask_batch(provider: MockProvider, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    return ask(provider, body, path="/v1/chat/completions/batch")


BYE = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "bye"}]


async def test_chat_batch_gives_each_conversation_its_choice() -> None:
    """The same as alone, at its index; usage and the log count all of them."""
    provider = MockProvider(server="vllm")
    status, document = ask_batch(provider, {"model": "m", "messages": [HELLO, BYE, HELLO]})
    assert status == 200
    assert [choice["index"] for choice in document["choices"]] == [0, 1, 2]
    said = [choice["message"]["content"] for choice in document["choices"]]
    assert said == [provider.answer_to(HELLO), provider.answer_to(BYE), provider.answer_to(HELLO)]
    alone = [ask(provider, {"model": "m", "messages": asked})[1]["usage"] for asked in (HELLO, BYE, HELLO)]
    assert document["usage"] == {name: sum(usage[name] for usage in alone) for name in alone[0]}
    assert [record.items for record in provider.log.records()] == [3, 1, 1, 1]


async def test_chat_batch_rejects_invalid_requests() -> None:
    """The error names the conversation, and nothing is answered."""
    provider = MockProvider(server="vllm")
    for messages, param in [
        (HELLO, "messages.[0]"),
        ([], "messages"),
        ([HELLO, []], "messages.[1]"),
        ([HELLO, [{"role": "user", "content": 5}]], "messages.[1].[0].content"),
    ]:
        status, document = ask_batch(provider, {"model": "m", "messages": messages})
        assert (status, document["error"]["param"]) == (400, param)
    assert ask_batch(provider, {"model": "m", "messages": [HELLO], "n": 2})[0] == 400


async def test_chat_batch_exists_for_vllm_only() -> None:
    """404 elsewhere, by which a client detects it."""
    assert ask_batch(MockProvider(), {"model": "m", "messages": [HELLO]})[0] == 404


async def test_chat_custom_answer_gets_one_conversation_at_a_time() -> None:
    """In a batch as alone."""
    provider = MockProvider(server="vllm", answer=lambda body: body["messages"][-1]["content"].upper())
    _, document = ask_batch(provider, {"model": "m", "messages": [HELLO, BYE]})
    assert [choice["message"]["content"] for choice in document["choices"]] == ["HELLO", "BYE"]


async def test_chat_rejected_text_fails_the_whole_request() -> None:
    """The error does not tell which text; parts of a content count too."""
    provider = MockProvider(server="vllm", reject=lambda text: "bye" in text)
    parts = [{"role": "user", "content": [{"type": "text", "text": "bye"}, {"type": "image_url"}]}]
    assert ask(provider, {"model": "m", "messages": HELLO})[0] == 200
    assert ask(provider, {"model": "m", "messages": BYE})[0] == 400
    assert ask(provider, {"model": "m", "messages": parts})[0] == 400
    status, document = ask_batch(provider, {"model": "m", "messages": [HELLO, BYE]})
    assert status == 400
    assert "bye" not in json.dumps(document)
