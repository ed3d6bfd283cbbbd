from __future__ import annotations

import json

import pytest

from batchrt.testing import MockProvider
from batchrt.testing.endpoints.answers import count_tokens, truncate


def test_answers_to_distinct_prompts_differ() -> None:
    """A swapped row is detected: no two of 20,000 prompts share an answer."""
    provider = MockProvider()
    assert len({provider.answer_to(f"row {row}") for row in range(20_000)}) == 20_000


def test_answer_depends_on_seed_messages_and_choice_alone() -> None:
    """Two providers agree; another seed, role, order or index changes the answer."""
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    answers = [
        MockProvider().answer_to(messages),
        MockProvider(seed=1).answer_to(messages),
        MockProvider().answer_to(messages[::-1]),
        MockProvider().answer_to([{"role": "user", "content": "a"}, messages[1]]),
        MockProvider().answer_to(messages, index=1),
        MockProvider().answer_to([{"role": "user", "content": "ab"}]),
    ]
    assert len(set(answers)) == len(answers)
    assert answers[0] == MockProvider(latency=9, api_key="k").answer_to(messages)


def test_answer_ignores_order_of_keys_and_nulls() -> None:
    """Two clients that serialise a message differently get the same answer."""
    provider = MockProvider()
    said = provider.answer_to([{"role": "user", "content": "hi"}])
    assert said == provider.answer_to("hi")
    assert said == provider.answer_to([{"name": None, "content": "hi", "role": "user"}])
    assert said != provider.answer_to([{"name": "Ann", "content": "hi", "role": "user"}])


def test_answer_depends_on_content_parts() -> None:
    """Parts are distinguished, and their text counts as tokens."""
    provider = MockProvider()
    parts = [[{"type": "text", "text": text * 40}] for text in "ab"]
    answers = [provider.answer_to([{"role": "user", "content": part}]) for part in parts]
    assert answers[0] != answers[1]
    assert count_tokens([{"role": "user", "content": parts[0]}]) == 13


def test_answer_accepts_lone_surrogates() -> None:
    """A lone surrogate in a row is the client's to refuse, not the mock's."""
    assert MockProvider().answer_to("\ud800") != MockProvider().answer_to("\ud801")


def test_answer_fits_its_json_format() -> None:
    """json_object gives an object, json_schema one that fits the schema."""
    provider = MockProvider()
    loose = provider.answer_to("hi", response_format={"type": "json_object"})
    assert isinstance(json.loads(loose), dict)
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    strict = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    assert isinstance(json.loads(provider.answer_to("hi", response_format=strict))["n"], int)
    assert provider.answer_to("hi", response_format={"type": "text"}) == provider.answer_to("hi")


def test_answer_may_be_custom() -> None:
    """`answer` gets the body and decides."""
    provider = MockProvider(answer=lambda body: body["messages"][-1]["content"].upper())
    assert provider.answer_to("hi") == "HI"


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, ("abcdefghij", 3, "stop")),
        (3, ("abcdefghij", 3, "stop")),
        (2, ("abcdefgh", 2, "length")),
    ],
)
def test_truncate_keeps_the_limit_of_tokens(limit: int | None, expected: tuple[str, int, str]) -> None:
    """Four characters a token, and the finish reason tells whether any were cut."""
    assert truncate("abcdefghij", limit) == expected


def test_truncate_counts_a_token_for_an_empty_answer() -> None:
    """Usage is never zero."""
    assert truncate("", None) == ("", 1, "stop")
