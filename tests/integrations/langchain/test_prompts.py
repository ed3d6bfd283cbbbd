"""Prompts of LangChain's and ours: the same messages for the same fields."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import (
    ChatMessagePromptTemplate,
    ChatPromptTemplate,
    FewShotPromptTemplate,
    MessagesPlaceholder,
    PromptTemplate,
)

import batchrt
from batchrt.integrations.langchain import messages_to_langchain, prompt_from_langchain, prompt_to_langchain

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="{}"), max_size=10)
PIECE = st.one_of(TEXT, st.sampled_from(["{a}", "{b}", "{{", "}}", "{a!r}", "{n:>4}", "{n}"]))
TEMPLATE = st.lists(PIECE, max_size=5).map("".join)
FIELDS = st.fixed_dictionaries({"a": TEXT, "b": TEXT, "n": st.integers(0, 99)})
ROLE = st.sampled_from(["system", "human", "ai"])


@given(TEMPLATE, FIELDS)
def test_prompts_of_text_are_filled_the_same(template: str, fields: dict[str, Any]) -> None:
    """Fields, conversions, specifications and doubled braces, both ways."""
    theirs = PromptTemplate.from_template(template)
    ours = prompt_from_langchain(theirs)
    assert ours.invoke(fields).to_string() == theirs.invoke(fields).to_string()
    assert prompt_to_langchain(ours) == theirs


@given(st.lists(st.tuples(ROLE, TEMPLATE), min_size=1, max_size=4), FIELDS)
def test_prompts_of_messages_are_filled_the_same(messages: Any, fields: dict[str, Any]) -> None:
    """Messages by role, both ways."""
    theirs = ChatPromptTemplate.from_messages(messages)
    ours: Any = prompt_from_langchain(theirs)
    expected = theirs.invoke(fields).to_messages()
    assert messages_to_langchain(ours.invoke(fields).to_messages()) == expected
    assert prompt_to_langchain(ours).invoke(fields).to_messages() == expected


def test_prompts_keep_placeholders_partials_and_messages() -> None:
    """Histories, fixed messages, content parts, partial variables and names."""
    theirs = ChatPromptTemplate.from_messages(
        [
            ("system", "You are {who}."),
            MessagesPlaceholder("history", optional=True, n_messages=2),
            AIMessage("fixed {braces}", id="1"),
            ("human", [{"type": "text", "text": "{q}"}, {"type": "image_url", "image_url": {"url": "{u}"}}]),
            ChatMessagePromptTemplate.from_template("{q}", role="developer"),
        ]
    ).partial(who="a poet")
    ours: Any = prompt_from_langchain(theirs)
    history = [HumanMessage("1"), AIMessage("2"), HumanMessage("3")]
    for fields in ({"q": "x", "u": "http://u"}, {"q": "x", "u": "http://u", "history": history}):
        expected = theirs.invoke(fields).to_messages()
        filled = messages_to_langchain(ours.invoke(fields).to_messages())
        assert [(message.text, message.id) for message in filled] == [
            (message.text, message.id) for message in expected
        ]
        assert filled[:-1] == expected[:-1]  # the last role is a class of its own there
    assert ours.input_variables == ("q", "u")
    assert prompt_to_langchain(ours).partial_variables["who"] == "a poet"


@pytest.mark.parametrize(
    "prompt",
    [
        PromptTemplate.from_template("{{x}}", template_format="mustache"),
        ChatPromptTemplate.from_messages([("human", "{{x}}")], template_format="mustache"),
        FewShotPromptTemplate(
            examples=[],
            example_prompt=PromptTemplate.from_template("{a}"),
            suffix="{b}",
            input_variables=["b"],
        ),
    ],
    ids=["mustache", "mustache chat", "few-shot"],
)
def test_prompts_without_a_counterpart_say_so(prompt: Any) -> None:
    """The error says what to do instead."""
    with pytest.raises(ValueError, match="no counterpart"):
        prompt_from_langchain(prompt)


def test_prompts_that_langchain_reads_otherwise_are_refused() -> None:
    """A field with a dot is an attribute there."""
    with pytest.raises(ValueError, match=r"user|attribute|field"):
        prompt_to_langchain(batchrt.PromptTemplate.from_template("{user.name}"))
