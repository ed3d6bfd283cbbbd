"""Choices: tolerant of details that are missing or odd, strict about failures and about words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt import AIMessage, ChatOpenAI, OpenAI, Usage
from batchrt.errors import (
    AuthenticationError,
    ContextLengthError,
    MalformedResponseError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
    ServerError,
)
from batchrt.providers.chat.messages_json import read_chat, read_chats
from batchrt.providers.choices import FAILED, positions_of
from batchrt.providers.http.secrets import Secrets
from batchrt.providers.response_body import read_usage
from tests.limits.quotas import should_retry
from tests.providers.http.replies import chat_body, reply, wall


def read(body: Any) -> AIMessage:
    return read_chat(reply(body), Secrets([]), wall)


def choice(message: Any = None, **members: Any) -> dict[str, Any]:
    given = {"index": 0, "finish_reason": "stop", "message": message or {"content": "words"}, **members}
    return {"choices": [{name: value for name, value in given.items() if value is not ...}]}


# Details


@pytest.mark.parametrize("index", [None, ..., 1, 7, -1, "0", "1", 0.0, True, "first", [], {}], ids=repr)
def test_choices_single_one_may_have_any_index(index: Any) -> None:
    """It cannot be mistaken for another."""
    assert read(choice(index=index)).text == "words"


@pytest.mark.parametrize("reason", [None, ..., "", 5, True, [], {}, "eos_token", "weird"], ids=repr)
def test_choices_may_have_any_finish_reason(reason: Any) -> None:
    """A malformed one is None."""
    said = read(choice(finish_reason=reason)).finish_reason
    assert said == (reason if isinstance(reason, str) and reason else None)
    assert read(choice(finish_reason={"type": "length", "length": 5})).finish_reason == "length"


@pytest.mark.parametrize("odd", [None, "", 0, 5, False, True, [], {}, "x", ["x"], {"x": 1}], ids=repr)
@pytest.mark.parametrize("name", ["refusal", "tool_calls", "function_call", "audio", "annotations", "role"])
def test_choices_message_may_have_any_details(name: str, odd: Any) -> None:
    """Its text was paid for."""
    message = read(choice({"content": "words", name: odd}))
    assert message.text == "words"
    assert message.refusal == (odd if name == "refusal" and isinstance(odd, str) else None)


@pytest.mark.parametrize("odd", [None, "", 5, True, [], {}, "x", ["x"]], ids=repr)
@pytest.mark.parametrize(
    "name", ["id", "object", "created", "model", "usage", "system_fingerprint", "service_tier"]
)
def test_choices_response_may_have_any_details(name: str, odd: Any) -> None:
    """Its text was paid for."""
    message = read({**chat_body("words"), name: odd})
    assert message.text == "words"


@pytest.mark.parametrize("reason", ["length", "content_filter", "tool_calls", "MAX_TOKENS", "SAFETY"])
def test_choices_finish_reason_accounts_for_missing_content(reason: str) -> None:
    """Google's endpoint omits `content`, or the whole message."""
    for message in ({"role": "assistant"}, {"content": None}, None):
        body = {"choices": [{"index": 0, "finish_reason": reason, "message": message}]}
        answer = read(body)
        assert (answer.content, answer.text, answer.finish_reason) == (None, "", reason)
    assert read({"choices": [{"finish_reason": reason}]}).content is None


def test_choices_message_may_be_in_another_member() -> None:
    """As a chunk of a stream, or as a completion's text; a single choice without its list."""
    assert read({"choices": [{"delta": {"content": "words"}, "index": 0}]}).text == "words"
    assert read({"choices": [{"text": "words", "index": 0}]}).text == "words"
    assert read({"choices": {"message": {"content": "words"}}}).text == "words"
    assert read([chat_body("words")]).text == "words"


def test_choices_broken_one_is_skipped_for_a_good_one() -> None:
    """If there are several; else the error is about the first."""
    broken = {"index": 0, "message": {}}
    good = {"index": 1, "message": {"content": "words"}}
    assert read({"choices": [None, broken, good]}).text == "words"
    with pytest.raises(MalformedResponseError, match="no choices"):
        read({"choices": [broken, {**broken, "index": 1}]})


@pytest.mark.parametrize(
    ("content", "text", "reasoning"),
    [
        (
            [{"type": "text", "text": "a"}, {"type": "text", "text": None}, {"type": "text", "text": "b"}],
            "ab",
            None,
        ),
        (["a", None, {"type": "text", "text": "b"}], "ab", None),
        ({"type": "text", "text": "a"}, "a", None),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}], "a", "hm"),
        (
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": "a"},
            ],
            "a",
            "hm",
        ),
        ([{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "a"}], "a", "hm"),
        ([{"type": "redacted_thinking", "data": "x", "text": "x"}, {"type": "text", "text": "a"}], "a", None),
        ([{"type": "text", "text": {"value": "a", "annotations": []}}], "a", None),
        ([{"type": "text", "text": 5}, {"type": "image_url"}, {"text": "a"}], "a", None),
        ([{"type": [], "text": "a"}, {"type": {}, "text": "b"}, {"type": 5}], "ab", None),
        ([], "", None),
    ],
    ids=repr,
)
def test_choices_null_and_reasoning_are_not_text(content: Any, text: str, reasoning: str | None) -> None:
    """In content parts of every kind."""
    message = read(chat_body(content))
    assert (message.text, message.reasoning) == (text, reasoning)


def test_choices_refusal_may_be_a_content_part() -> None:
    """As in the Responses API."""
    message = read(chat_body([{"type": "refusal", "refusal": "no"}]))
    assert (message.refusal, message.text) == ("no", "")


# What was paid for


@pytest.mark.parametrize(
    "message",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"thinking": "hm"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "h"}, {"text": "m"}, None]},
        {"reasoning": {"effort": "low"}, "reasoning_content": "hm"},
    ],
    ids=repr,
)
def test_choices_reasoning_is_kept_beside_the_text(message: dict[str, Any]) -> None:
    """In every server's place for it."""
    answer = read(chat_body("words", **message))
    assert (answer.text, answer.reasoning) == ("words", "hm")
    assert read(chat_body("words", reasoning=None)).reasoning is None


def test_choices_logprobs_are_kept_as_they_came() -> None:
    """If there are any."""
    logprobs = {"content": [{"token": "a", "logprob": -0.1, "top_logprobs": []}]}
    assert read(choice(logprobs=logprobs)).logprobs == logprobs
    odds: list[Any] = [None, ..., [], {}, "x"]
    for odd in odds:
        assert read(choice(logprobs=odd)).logprobs is None


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 9, "completion_tokens": None}, Usage(9, 0, 9)),
        ({"prompt_tokens": 9, "completion_tokens": None, "total_tokens": 12}, Usage(9, 3, 12)),
        ({"prompt_tokens": None, "completion_tokens": 3, "total_tokens": 12}, Usage(9, 3, 12)),
        ({"prompt_tokens": 9.0, "completion_tokens": 3}, Usage(9, 3, 12)),
        ({"input_tokens": 9, "output_tokens": 3}, Usage(9, 3, 12)),
        ({"total_tokens": 12}, Usage(12, 0, 12)),
        (
            {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 8}},
            Usage(9, 0, 9, cached_input_tokens=8),
        ),
        (
            {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 80}},
            Usage(9, 0, 9, cached_input_tokens=9),
        ),
        ({"prompt_tokens": 9, "prompt_cache_hit_tokens": 8}, Usage(9, 0, 9, cached_input_tokens=8)),
        ({"prompt_tokens": 9, "cached_tokens": 8}, Usage(9, 0, 9, cached_input_tokens=8)),
        (
            {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 8}},
            Usage(9, 0, 9, cached_input_tokens=8),
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 7,
                "prompt_tokens_details": {"cached_tokens": None, "audio_tokens": 2},
                "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 1},
            },
            Usage(9, 7, 16, reasoning_tokens=5, input_audio_tokens=2, output_audio_tokens=1),
        ),
        (
            {"prompt_tokens": 9, "prompt_tokens_details": "x", "completion_tokens_details": None},
            Usage(9, 0, 9),
        ),
    ],
    ids=repr,
)
def test_usage_is_read_under_all_its_names(usage: Any, expected: Usage) -> None:
    """With its details, as far as they make sense."""
    assert read_usage(usage) == expected


@pytest.mark.parametrize("names", [("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens")])
def test_usage_of_zeros_is_no_usage(names: tuple[str, str]) -> None:
    """A proxy whose upstream counted nothing says zero; a spending limit must not take that for free work."""
    assert read_usage({**dict.fromkeys(names, 0), "total_tokens": 0}) is None
    assert read_usage({names[0]: 5, names[1]: 0}) == Usage(5, 0, 5)


def test_usage_has_the_tier_that_was_billed() -> None:
    """A sum over several has none."""
    flex = read({**chat_body(), "service_tier": "flex"}).usage
    assert flex is not None
    assert flex.service_tier == "flex"
    assert (flex + flex).service_tier == "flex"
    assert (flex + Usage(1)).service_tier is None


# Failures


BROKEN: list[tuple[dict[str, Any], type[ProviderError]]] = [
    (choice(error={"code": 502, "message": "upstream went idle"}, finish_reason="error"), ServerError),
    (choice(error={"code": 502, "message": "upstream went idle"}), ServerError),
    (choice(error={"code": 429, "message": "slow down"}), RateLimitError),
    (choice(error={"code": "429", "message": "slow down"}), RateLimitError),
    (choice(error={"code": 429.0, "message": "slow down"}), RateLimitError),
    (choice(error={"code": 401, "message": "no key"}), AuthenticationError),
    (choice(error={"code": 402, "message": "no credit"}), QuotaExhaustedError),
    (choice(error={"code": "context_length_exceeded", "message": "x"}), ContextLengthError),
    (choice(error="went idle"), ServerError),
    (choice({"content": "half", "error": {"message": "went idle"}}), ServerError),
    ({**chat_body("half"), "error": {"code": 503, "message": "busy"}}, ServerError),
    ({**chat_body("half"), "error": "busy"}, ServerError),
    ({"object": "error", "message": "busy", "type": "x", "code": 503}, ServerError),
    ({"type": "error", "error": {"type": "rate_limit_error", "message": "x"}}, RateLimitError),
    ({"detail": "busy", "choices": None}, ServerError),
    (
        {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}},
        QuotaExhaustedError,
    ),
    ({"choices": None, "base_resp": {"status_code": 1000, "status_msg": "unknown"}}, ServerError),
    ({"success": False, "errors": [{"code": 429, "message": "slow"}], "result": None}, RateLimitError),
]


@pytest.mark.parametrize(("body", "kind"), BROKEN, ids=repr)
def test_choices_error_with_status_200_is_an_error(body: Any, kind: type[ProviderError]) -> None:
    """At the top, on the choice or on its message; it is retried by its code."""
    with pytest.raises(ProviderError) as caught:
        read(body)
    assert type(caught.value) is kind
    assert caught.value.status == 200
    assert should_retry(caught.value) is (kind in {ServerError, RateLimitError})


@pytest.mark.parametrize("reason", [*FAILED, "ERROR", "Abort"])
def test_choices_interrupted_answer_is_an_error(reason: str) -> None:
    """Also without an error that gives the reason; it is retried."""
    with pytest.raises(ServerError, match=reason) as caught:
        read(choice(finish_reason=reason))
    assert should_retry(caught.value)


def native(reason: Any) -> Any:
    """Return a choice as LiteLLM's proxy rewrites it: "stop", and the upstream's reason beside it."""
    return choice(finish_reason="stop", provider_specific_fields={"native_finish_reason": reason})


@pytest.mark.parametrize("reason", FAILED)
def test_choice_that_broke_off_behind_a_proxy_is_no_answer(reason: str) -> None:
    """The proxy's "stop" hides the upstream's reason; it counts all the same."""
    with pytest.raises(ServerError, match=reason):
        read(native(reason))


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("max_tokens", "max_tokens"),
        ("safety", "safety"),
        ("end_turn", "stop"),
        ("STOP", "stop"),
        (None, "stop"),
        ("", "stop"),
        (5, "stop"),
        ({}, "stop"),
    ],
)
def test_choice_has_the_upstreams_finish_reason_where_it_says_more(reason: Any, expected: str) -> None:
    """An answer that was cut off behind a proxy does not look complete."""
    assert read(native(reason)).finish_reason == expected
    assert read(choice(finish_reason="stop", provider_specific_fields=reason)).finish_reason == "stop"


@pytest.mark.parametrize(
    "nothing", [None, False, "", {}, [], {"code": None, "message": None}, {"message": ""}]
)
def test_choices_empty_error_is_ignored(nothing: Any) -> None:
    """Some servers always send the member."""
    assert read({**chat_body("words"), "error": nothing}).text == "words"
    assert read(choice(error=nothing)).text == "words"
    assert read({**chat_body("words"), "base_resp": {"status_code": 0, "status_msg": ""}}).text == "words"


def test_choices_error_of_one_conversation_is_its_own() -> None:
    """The others of the list keep their answers."""
    body = choice(error={"code": 429, "message": "slow"}), choice(index=1)
    choices = [each["choices"][0] for each in body]
    first, second = read_chats(reply({"choices": choices}), 2, Secrets([]), wall).messages
    assert isinstance(first, RateLimitError)
    assert isinstance(second, AIMessage)


def served(answer: Callable[[int], Any], model: type[Any] = ChatOpenAI) -> tuple[Any, list[Any]]:
    """Return a model, and the bodies of the requests that it has sent."""
    sent: list[Any] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(200, json=answer(len(sent)))

    return model("m", base_url="http://h/v1", api_key="k", transport=httpx.MockTransport(handle)), sent


def test_choices_interrupted_answer_is_retried() -> None:
    """By a chat and by a completion."""
    wrong = {"code": 502, "message": "went idle", "retry_after_ms": 1}

    def chats(number: int) -> Any:
        return choice(error=wrong) if number == 1 else chat_body("whole")

    def texts(number: int) -> Any:
        return {"choices": [{"text": "half", **({"error": wrong} if number == 1 else {})}]}

    model, sent = served(chats)
    assert model.invoke("x").text == "whole"
    model, sent = served(texts, OpenAI)
    assert model.invoke("x") == "half"
    assert len(sent) == 2


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {}}]},
        {"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]},
        {"choices": [{"message": "words"}]},
        {"choices": [{"finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 5}},
        {"choices": None, "usage": {"prompt_tokens": 5, "completion_tokens": 5}},
    ],
)
def test_choices_malformed_billed_answer_is_not_retried(body: Any) -> None:
    """Another attempt would have the same shape."""
    model, sent = served(lambda _: body)
    with pytest.raises(MalformedResponseError):
        model.invoke("x")
    assert len(sent) == 1


# Places


@given(
    st.permutations(range(5)), st.sampled_from([0, 1]), st.sampled_from([int, float, str]), st.integers(-1, 4)
)
def test_choices_places_follow_from_indexes(
    order: list[int], first: int, kind: type[Any], missing: int
) -> None:
    """From 0 or 1, as numbers or numerals, with one missing: always the right place, or none."""
    indexes: list[Any] = [
        kind(place + first) if kind is not float else float(place + first) for place in order
    ]
    if missing >= 0:
        indexes[missing] = None
    told = positions_of([int(float(i)) if isinstance(i, str) and "." in i else i for i in indexes])
    if first and missing >= 0 and order[missing] == 4:
        return  # 1 to 4: a server that counts from 0 and leaves the 0 out says the same
    assert told is not None
    assert list(told) == order


@given(st.lists(st.none() | st.integers(-1, 6) | st.booleans() | st.text(max_size=2), min_size=1, max_size=6))
def test_choices_places_are_a_permutation_or_none(indexes: list[Any]) -> None:
    """For any indexes."""
    told = positions_of(indexes)
    assert told is None or sorted(told) == list(range(len(indexes)))
