"""Few-shot prompts: examples, fixed or chosen for each row."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from batchrt import (
    ChatPromptTemplate,
    FewShotChatMessagePromptTemplate,
    FewShotPromptTemplate,
    HumanMessage,
    MissingFieldError,
    PromptTemplate,
)
from tests.runnables.helpers import everyway, raises_everyway

pytestmark = pytest.mark.anyio

EXAMPLES = [{"q": "2+2", "a": "4"}, {"q": "{x}", "a": "a set"}]
QUESTION = PromptTemplate.from_template("Q: {q}\nA: {a}")
TURN = ChatPromptTemplate.from_messages([("human", "{q}"), ("ai", "{a}")])


class ByLength:
    """Chooses the examples that are as long as the question; blocks, as one with a vector store does."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def select_examples(self, fields: dict[str, Any]) -> list[dict[str, str]]:
        self.threads.add(threading.get_ident())
        return [example for example in EXAMPLES if len(example["q"]) == len(fields["question"])]


class Awaited:
    """Chooses on the event loop."""

    def select_examples(self, fields: dict[str, Any]) -> list[dict[str, str]]:
        raise AssertionError

    async def aselect_examples(self, fields: dict[str, Any]) -> list[dict[str, str]]:
        return EXAMPLES[: len(fields["question"])]


async def test_few_shot_prompt_joins_prefix_examples_and_suffix() -> None:
    """Braces in an example are text."""
    prompt = FewShotPromptTemplate(
        examples=EXAMPLES,
        example_prompt=QUESTION,
        prefix="Answer in {language}.",
        suffix="Q: {question}\nA:",
        input_variables=["language", "question"],
    )
    value = await everyway(prompt, {"language": "Latin", "question": "why?"})
    assert value.to_string() == ("Answer in Latin.\n\nQ: 2+2\nA: 4\n\nQ: {x}\nA: a set\n\nQ: why?\nA:")
    assert prompt.partial(language="Greek").format(question="?").startswith("Answer in Greek.")
    assert prompt.input_variables == ("language", "question")


async def test_few_shot_prompt_leaves_out_empty_pieces() -> None:
    """And their separators."""
    prompt = FewShotPromptTemplate(
        examples=EXAMPLES[:1], example_prompt=QUESTION, suffix="{q}", example_separator="|"
    )
    assert (await everyway(prompt, "x")).to_string() == "Q: 2+2\nA: 4|x"


@pytest.mark.parametrize(
    ("selector", "texts"),
    [
        (ByLength(), ["P|Q: 2+2\nA: 4|Q: {x}\nA: a set|abc", "P|ab"]),
        (Awaited(), ["P|Q: 2+2\nA: 4|Q: {x}\nA: a set|abc", "P|Q: 2+2\nA: 4|Q: {x}\nA: a set|ab"]),
    ],
    ids=["sync", "async"],
)
async def test_few_shot_prompt_has_the_examples_chosen_for_each_row(selector: Any, texts: list[str]) -> None:
    """In a thread where the selector is sync, which is not the event loop's."""
    prompt = FewShotPromptTemplate(
        example_selector=selector,
        example_prompt=QUESTION,
        prefix="P",
        suffix="{question}",
        example_separator="|",
    )
    values = await prompt.abatch([{"question": "abc"}, {"question": "ab"}])
    assert [value.to_string() for value in values] == texts
    if isinstance(selector, ByLength):
        assert threading.get_ident() not in selector.threads
    assert (await prompt.partial(question="ab").ainvoke({})).to_string() == texts[1]


async def test_few_shot_chat_prompt_stands_in_another_prompt() -> None:
    """Its messages are inserted; braces in them are text."""
    examples = FewShotChatMessagePromptTemplate(examples=EXAMPLES, example_prompt=TURN, input_variables=[])
    prompt = ChatPromptTemplate.from_messages([("system", "Calculate."), examples, ("human", "{question}")])
    value = await everyway(prompt, {"question": "3"})
    assert value.to_string().splitlines() == [
        "System: Calculate.",
        "Human: 2+2",
        "AI: 4",
        "Human: {x}",
        "AI: a set",
        "Human: 3",
    ]
    assert len(examples.format_messages()) == 4


@pytest.mark.parametrize("selector", [ByLength(), Awaited()], ids=["sync", "async"])
async def test_few_shot_chat_prompt_has_the_examples_chosen_for_each_row(selector: Any) -> None:
    """Also inside another prompt, which then waits for the selector."""
    examples = FewShotChatMessagePromptTemplate(
        example_selector=selector, example_prompt=TURN, input_variables=["question"]
    )
    prompt = ChatPromptTemplate([("system", "S"), examples, "{question}"])
    value = await prompt.ainvoke({"question": "abc"})
    messages: list[Any] = value.to_messages()
    assert [message.content for message in messages] == ["S", "2+2", "4", "{x}", "a set", "abc"]
    alone = await examples.ainvoke({"question": "abc"})
    assert len(alone.messages) == 4


async def test_few_shot_prompt_says_which_field_a_row_lacks() -> None:
    """The fields that the row has are named, and nothing else."""
    prompt = ChatPromptTemplate(
        [
            FewShotChatMessagePromptTemplate(example_selector=Awaited(), example_prompt=TURN),
            "{question} {other}",
        ]
    )
    with pytest.raises(MissingFieldError) as caught:
        await prompt.ainvoke({"question": "x"})
    assert caught.value.field == "other"
    assert caught.value.available == ("question",)


async def test_few_shot_selector_that_fails_fails_its_own_row() -> None:
    """The others are filled."""

    class Failing:
        def select_examples(self, fields: dict[str, Any]) -> list[dict[str, str]]:
            if fields["question"] == "bad":
                raise LookupError(fields["question"])
            return []

    prompt = FewShotPromptTemplate(example_selector=Failing(), example_prompt=QUESTION, suffix="{question}")
    outputs: list[Any] = await prompt.abatch(
        [{"question": "good"}, {"question": "bad"}], return_exceptions=True
    )
    assert outputs[0].to_string() == "good"
    assert isinstance(outputs[1], LookupError)
    await raises_everyway(prompt, {"question": "bad"}, LookupError)


@pytest.mark.parametrize("sources", [{}, {"examples": [], "example_selector": Awaited()}])
def test_few_shot_prompt_needs_one_source_of_examples(sources: dict[str, Any]) -> None:
    """Neither none nor two."""
    with pytest.raises(ValueError, match="either examples or an example_selector"):
        FewShotPromptTemplate(example_prompt=QUESTION, suffix="", **sources)
    with pytest.raises(ValueError, match="either examples or an example_selector"):
        FewShotChatMessagePromptTemplate(example_prompt=TURN, **sources)


def test_few_shot_example_without_a_field_is_an_error_at_once() -> None:
    """Before any row is run."""
    with pytest.raises(MissingFieldError, match="'a'"):
        FewShotPromptTemplate(examples=[{"q": "1"}], example_prompt=QUESTION, suffix="")
    with pytest.raises(MissingFieldError, match="'a'"):
        FewShotChatMessagePromptTemplate(examples=[{"q": "1"}], example_prompt=TURN)


def test_few_shot_prompt_is_described_by_its_examples() -> None:
    """A durable job asks again when an example changes."""

    def digest(examples: list[dict[str, str]]) -> Any:
        chat = FewShotChatMessagePromptTemplate(examples=examples, example_prompt=TURN)
        text = FewShotPromptTemplate(examples=examples, example_prompt=QUESTION, suffix="{q}")
        return chat.describe().parts, text.describe().parts

    assert digest(EXAMPLES) == digest(list(EXAMPLES))
    assert all(a != b for a, b in zip(digest(EXAMPLES), digest(EXAMPLES[:1]), strict=True))
    assert FewShotChatMessagePromptTemplate(examples=EXAMPLES, example_prompt=TURN).format_messages()[0] == (
        HumanMessage("2+2")
    )
