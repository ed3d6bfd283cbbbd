"""Prompts as the API wants them, texts as it promises them."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchrt.errors import BadRequestError, MalformedResponseError, RateLimitError
from batchrt.messages import HumanMessage, SystemMessage, Usage
from batchrt.providers.completions.request_json import TextRequest, Texts, encode_prompt, read_texts
from batchrt.providers.http.secrets import NO_SECRETS
from batchrt.runnables.chat_prompts import ChatPromptTemplate
from batchrt.runnables.prompts import PromptTemplate
from tests.limits.quotas import should_retry
from tests.providers.http.replies import reply, wall


class Text:
    def __init__(self, text: Any) -> None:
        self._text = text

    def to_string(self) -> Any:
        return self._text


def read(body: Any, prompts: int = 1, each: int = 1) -> Texts:
    return read_texts(reply(body, x_request_id="r"), prompts, each, NO_SECRETS, wall)


def choices(*texts: Any) -> dict[str, Any]:
    return {"choices": [{"index": i, "text": text} for i, text in enumerate(texts)]}


# Prompts


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", ""),
        ("é\U0001f600\n", "é\U0001f600\n"),
        (Text("t"), "t"),
        (PromptTemplate.from_template("a {x}").invoke({"x": "b"}), "a b"),
        (ChatPromptTemplate.from_messages([("ai", "{x}"), "{x}"]).invoke({"x": "b"}), "AI: b\nHuman: b"),
        (HumanMessage("h"), "Human: h"),
        (
            [SystemMessage("s"), ("human", "h"), {"role": "assistant", "content": "a"}],
            "System: s\nHuman: h\nAI: a",
        ),
    ],
)
def test_completion_request_a_prompt_is_a_text(value: Any, text: str) -> None:
    """A string, a prompt's value, or messages as lines."""
    assert json.loads(encode_prompt(value)) == text


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (5, "a completion takes a str, a prompt's value or messages, not int"),
        (b"x", "not bytes"),
        ([], "not list"),
        ([1, 2], "not list"),
        (["a text"], "not list"),
        (Text(5), r"to_string\(\) gave a int, not a str"),
        ("ab\ud800", r"half a surrogate pair \(U\+D800\) at position 2"),
        (Text("\udfff"), r"U\+DFFF\) at position 0"),
    ],
)
def test_completion_request_an_input_that_is_no_prompt_is_named(value: Any, says: str) -> None:
    """Before anything is sent."""
    with pytest.raises(BadRequestError, match=says) as caught:
        encode_prompt(value)
    assert caught.value.param == "prompt"


def test_completion_request_one_prompt_is_a_text_several_are_a_list() -> None:
    """Behind the options, which are encoded once."""
    request = TextRequest({"model": "m", "stop": ["é"]})
    assert json.loads(request.body([b'"a"'])) == {"model": "m", "stop": ["é"], "prompt": "a"}
    assert json.loads(request.body([b'"a"', b'"b"'])) == {"model": "m", "stop": ["é"], "prompt": ["a", "b"]}
    assert json.loads(TextRequest({}).body([b'"a"'])) == {"prompt": "a"}


# Texts


@given(st.integers(1, 9), st.integers(1, 4), st.randoms(use_true_random=False), st.booleans())
def test_completion_request_choices_are_placed_by_index(
    prompts: int, n: int, random: Any, as_text: bool
) -> None:
    """For every order of choices, and indexes as texts too: i · n + j is the j-th of prompt i."""
    said: list[Any] = [
        {"index": str(i) if as_text else i, "text": f"{divmod(i, n)}"} for i in range(prompts * n)
    ]
    if prompts > 1:
        random.shuffle(said)
    texts = read({"choices": said}, prompts, n).texts
    assert texts == [[f"{(i, j)}" for j in range(n)] for i in range(prompts)]


@given(st.integers(2, 5), st.integers(1, 3), st.lists(st.integers(-1, 15), max_size=16))
@example(2, 1, [2, 1])
def test_completion_request_indexes_that_are_no_order_place_nothing(
    prompts: int, n: int, indexes: list[int]
) -> None:
    """Too few, too many, twice, out of range."""
    body = {"choices": [{"index": index, "text": str(index)} for index in indexes]}
    count = prompts * n
    if sorted(indexes) in (list(range(count)), list(range(1, count + 1))):  # from 0 or from 1
        texts = read(body, prompts, n).texts
        assert list(chain.from_iterable(cast("list[list[str]]", texts))) == [str(i) for i in sorted(indexes)]
        return
    with pytest.raises(MalformedResponseError) as caught:
        read(body, prompts, n)
    assert should_retry(caught.value) is (not indexes)  # a server that counts like this does so again


WRONG: list[tuple[Any, int, str]] = [
    ({"choices": []}, 1, "has no choices"),
    ({}, 1, "has no choices"),
    ({"choices": {"0": "x"}}, 1, "has choices that are no list"),
    ({"choices": ["x"]}, 1, "has a choice that is no object"),
    ({"choices": [{"index": 0}]}, 1, r"has no choices\[0\].text"),
    (choices(5), 1, r"has no choices\[0\].text"),
    (choices("a", "b"), 1, "has 2 choices where 1 were asked for"),
    (choices("a b"), 2, "has 1 choice where 2 were asked for"),
    ({"choices": [{"text": "a", "index": 5}, {"text": "b"}]}, 2, "indexes are not 0 to 1, each once"),
    ({"choices": [{"index": True, "text": "a"}, {"index": 0, "text": "b"}]}, 2, "indexes are not"),
    ([], 1, "is no JSON object"),
    (b"<html>", 1, "is not JSON"),
]


@pytest.mark.parametrize(("body", "prompts", "says"), WRONG)
def test_completion_request_an_answer_of_the_wrong_shape_is_named(body: Any, prompts: int, says: str) -> None:
    """And never half taken."""
    with pytest.raises(MalformedResponseError, match=says) as caught:
        read(body, prompts)
    assert (caught.value.status, caught.value.request_id) == (200, "r")


def test_completion_request_an_error_in_a_success_is_an_error() -> None:
    """As some proxies have it."""
    with pytest.raises(RateLimitError):
        read({"error": {"message": "slow", "code": "rate_limit_exceeded"}})


def test_completion_request_the_choices_of_one_prompt_need_no_index() -> None:
    """They are alike."""
    assert read({"choices": [{"text": "a"}, {"index": 7, "text": "b"}]}, 1, 2).texts == [["a", "b"]]


def test_completion_request_a_broken_text_is_its_prompts_error() -> None:
    """The others of the list stand."""
    first, second, third = read(choices("a", "b", None, "d", "e", "f"), 3, 2).texts
    assert (first, third) == (["a", "b"], ["e", "f"])
    assert isinstance(second, MalformedResponseError)
    assert "choices[2].text" in second.message


@pytest.mark.parametrize(
    ("texts", "usage", "timings", "booked"),
    [
        (["x"] * 3, (30, 3), None, Usage(30, 3, 33)),
        (["x", "", ""], (30, 1), None, Usage(30, 1, 31)),
        (["x"] * 3, (10, 2), None, None),  # three texts of two tokens
        (["x y z"] * 3, (10, 3), {"predicted_n": 3}, None),  # llama-server
        (["x y z"] * 3, (30, 9), {"predicted_n": 3}, Usage(30, 9, 39)),  # one that learned to add
        (["x y z", "", ""], (10, 3), {"predicted_n": 3}, Usage(10, 3, 13)),
        (["x y z"], (10, 3), {"predicted_n": 3}, Usage(10, 3, 13)),
        (["x"] * 3, ("10", 3), None, None),
        (["x"] * 3, (10, 3), "fast", Usage(10, 3, 13)),
    ],
)
def test_completion_request_counts_of_a_part_of_the_list_are_not_believed(
    texts: list[str], usage: tuple[Any, int], timings: Any, booked: Usage | None
) -> None:
    """No figure rather than a wrong one."""
    counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    body = {**choices(*texts), "usage": counts, "timings": timings}
    assert read(body, len(texts)).usage == booked
