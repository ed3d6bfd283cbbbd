"""Requests as the API wants them, answers as it promises them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.errors import BadRequestError, MalformedResponseError, ProviderError, RateLimitError
from batchrt.messages import AIMessage, AIMessageChunk, HumanMessage, Message, SystemMessage, Usage
from batchrt.providers.chat.messages_json import ChatRequest, read_chat
from batchrt.providers.http.secrets import NO_SECRETS, Secrets
from tests.providers.http.replies import chat_body, reply, wall

REQUEST = ChatRequest({"model": "m", "temperature": 0.5, "stop": ["é"]})


def messages_of(value: Any) -> Any:
    body = json.loads(REQUEST.body(value))
    assert (body["model"], body["temperature"], body["stop"]) == ("m", 0.5, ["é"])
    return body["messages"]


@dataclass
class Prompted:
    messages: list[Any]

    def to_messages(self) -> list[Any]:
        return self.messages


USER = {"role": "user", "content": "hi"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PARTS = [{"type": "text", "text": "hi"}]


@pytest.mark.parametrize(
    ("value", "messages"),
    [
        ("hi", [USER]),
        ("", [{"role": "user", "content": ""}]),
        ([("human", "hi")], [USER]),
        ([("user", "hi")], [USER]),
        (
            [("system", "s"), ("ai", None)],
            [{"role": "system", "content": "s"}, {"role": "assistant", "content": None}],
        ),
        ([HumanMessage("hi")], [USER]),
        (HumanMessage("hi"), [USER]),
        ((SystemMessage("s"), HumanMessage("hi")), [{"role": "system", "content": "s"}, USER]),
        ([Message("tool", "x", name="n")], [{"role": "tool", "content": "x", "name": "n"}]),
        ([HumanMessage(PARTS)], [{"role": "user", "content": PARTS}]),
        (
            [AIMessage(None, raw_tool_calls=[CALL])],
            [{"role": "assistant", "content": None, "tool_calls": [CALL]}],
        ),
        (
            [AIMessageChunk("", is_null=True, raw_tool_calls=[{"index": 0, **CALL}])],
            [{"role": "assistant", "content": None, "tool_calls": [CALL]}],
        ),
        (
            [AIMessage(None, refusal="no")],
            [{"role": "assistant", "content": None, "refusal": "no"}],
        ),
        (
            [{"role": "tool", "content": "x", "tool_call_id": "c"}],
            [{"role": "tool", "content": "x", "tool_call_id": "c"}],
        ),
        (Prompted([("human", "hi")]), [USER]),
    ],
)
def test_messages_json_of_every_form_of_input(value: Any, messages: Any) -> None:
    """Strings, objects, dicts, pairs and prompt values."""
    assert messages_of(value) == messages


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_messages_json_keeps_any_text(text: str) -> None:
    """Alone and among messages; in UTF-8, without escapes."""
    assert messages_of(text) == [{"role": "user", "content": text}]
    assert messages_of([("user", text), {"role": "user", "content": text}])[1]["content"] == text
    assert "日本".encode() in REQUEST.body("日本")


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ("ab\ud83dcd", "messages[0].content"),
        ([("system", "s"), ("user", "ab\ud83dcd")], "messages[1].content"),
        ([HumanMessage("ab\ud83dcd")], "messages[0].content"),
    ],
)
def test_messages_json_half_a_surrogate_pair_is_located(value: Any, param: str) -> None:
    """The error has the message, the position and the remedy."""
    with pytest.raises(BadRequestError, match=r"U\+D83D\) at position 2.*encode") as caught:
        REQUEST.body(value)
    assert caught.value.param == param
    with pytest.raises(BadRequestError, match="surrogate"):
        REQUEST.body([HumanMessage([{"type": "text", "text": "\udc00"}])])


@pytest.mark.parametrize(
    ("value", "param", "says"),
    [
        (5, "messages", "not int"),
        (None, "messages", "not NoneType"),
        (b"hi", "messages", "not bytes"),
        ({"role": "user", "content": "hi"}, "messages", "not dict"),
        ([], "messages", "empty"),
        (["hi"], "messages[0]", "not str"),
        ([("user", "hi"), 5], "messages[1]", "not int"),
        ([("user", 5)], "messages[0].content", "not int"),
        ([HumanMessage(5)], "messages[0].content", "not int"),  # type: ignore[arg-type]
        ([{"content": "hi"}], "messages[0].role", "role"),
        ([{"role": "user", "content": object()}], "messages[0]", "JSON"),
    ],
)
def test_messages_json_refuses_other_inputs(value: Any, param: str, says: str) -> None:
    """Before anything is sent."""
    with pytest.raises(BadRequestError, match=says) as caught:
        REQUEST.body(value)
    assert (caught.value.param, caught.value.status) == (param, None)


@pytest.mark.parametrize("value", [float("nan"), object(), "\ud800"])
def test_messages_json_refuses_options_that_json_cannot_carry(value: Any) -> None:
    """When the client is made, not when it is used."""
    with pytest.raises(ValueError, match="the option seed cannot be sent"):
        ChatRequest({"model": "m", "seed": value})


def read(body: Any, **headers: str) -> AIMessage:
    return read_chat(reply(body, 200, **headers), Secrets(["sk-secret-1"]), wall)


def test_messages_json_reads_a_whole_answer() -> None:
    """Text, reason, tokens, model and request id."""
    assert read(chat_body("hello"), x_request_id="req_1") == AIMessage(
        "hello", finish_reason="stop", usage=Usage(9, 3, 12), model="gpt-x-2025", request_id="req_1"
    )


def test_messages_json_refusal_or_tool_calls_replace_content() -> None:
    """Each on its own is an answer."""
    assert read(chat_body(None, refusal="no")).refusal == "no"
    assert list(read(chat_body(None, tool_calls=[CALL])).raw_tool_calls) == [CALL]
    assert read(chat_body(PARTS)).text == "hi"
    assert read(chat_body(None)).content is None
    minimal = {"choices": [{"message": {"content": "x"}}]}
    assert read(minimal) == AIMessage("x")


def test_messages_json_takes_the_choice_of_index_0() -> None:
    """At any position."""
    second, first = chat_body("second")["choices"][0], chat_body("first")["choices"][0]
    second["index"] = 1
    assert read({"choices": [second, first]}).content == "first"


def without(path: str) -> dict[str, Any]:
    body = chat_body()
    holder: Any = body
    *steps, last = path.split(".")
    for step in steps:
        holder = holder[int(step) if step.isdigit() else step]
    del holder[last]
    return body


def with_choice(**choice: Any) -> dict[str, Any]:
    body = chat_body()
    body["choices"][0].update(choice)
    return body


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "is not JSON"),
        (b"<html>busy</html>", "is not JSON.*<html>busy"),
        (json.dumps(chat_body()).encode()[:-40], "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'"hello"', "no JSON object"),
        (b"null", "no JSON object"),
        ({}, "no choices"),
        ({"choices": []}, "no choices"),
        ({"choices": None}, "no choices"),
        ({"choices": {"0": 1}}, "no list"),
        ({"choices": ["x"]}, "choice that is no object"),
        (without("choices.0.message"), "no object choices[0].message"),
        (with_choice(message="hello"), "no object choices[0].message"),
        (without("choices.0.message.content"), "no choices[0].message.content"),
        (chat_body(5), "neither text nor null"),
        (chat_body([1]), "neither text nor null"),
    ],
)
def test_messages_json_error_has_the_missing_member(body: Any, says: str) -> None:
    """And the beginning of the answer, short and without secrets."""
    with pytest.raises(MalformedResponseError, match=says.replace("[", r"\[")) as caught:
        read(body, x_request_id="req_1")
    assert (caught.value.status, caught.value.request_id) == (200, "req_1")
    assert len(caught.value.message) < 450


def test_messages_json_error_masks_secrets() -> None:
    """A server that echoes the key does not get it into a log."""
    with pytest.raises(MalformedResponseError, match=r"Bearer \*\*\*"):
        read(b"you sent Bearer sk-secret-1")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, None),
        ("many", None),
        ({}, None),
        ({"prompt_tokens": "9"}, None),
        ({"prompt_tokens": -1, "completion_tokens": 1}, None),
        ({"prompt_tokens": True, "completion_tokens": 1}, None),
        ({"prompt_tokens": 9, "completion_tokens": 3}, Usage(9, 3, 12)),
        ({"prompt_tokens": 9}, Usage(9, 0, 9)),
        (
            {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 20, "x": {}},
            Usage(9, 3, 20),
        ),
    ],
)
def test_messages_json_ignores_wrong_token_counts(usage: Any, expected: Usage | None) -> None:
    """Usage is read where it makes sense."""
    message = read({**chat_body(), "usage": usage})
    assert (message.content, message.usage) == ("hello", expected)


def test_messages_json_error_with_status_200_is_an_error() -> None:
    """Proxies send it once the stream of an answer has begun."""
    with pytest.raises(RateLimitError, match="slow down"):
        read({"error": {"message": "slow down", "code": 429}})
    assert read({**chat_body(), "error": None}).content == "hello"


LEAVES: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just([]) | st.just({})
)
KEYS = ["choices", "message", "content", "index", "usage", "error", "prompt_tokens", "refusal"]
TREES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=15,
)


@given(TREES.map(lambda tree: json.dumps(tree).encode()) | st.binary())
def test_messages_json_gives_a_message_or_a_provider_error(body: bytes) -> None:
    """No KeyError, no TypeError, for any body."""
    try:
        message = read(body)
    except ProviderError:
        return
    assert isinstance(message.content, str | list | None)


def test_messages_json_accepts_a_lone_surrogate_in_an_answer() -> None:
    """Models produce them and servers send them; other broken JSON is an error."""
    body = b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "x\\ud83d"}}]}'
    assert read_chat(reply(body), NO_SECRETS, wall).content == "x\ud83d"
    with pytest.raises(MalformedResponseError):
        read_chat(reply(body[:-3]), NO_SECRETS, wall)
