from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from batchrt import (
    AIMessage,
    AIMessagePromptTemplate,
    ChatPromptTemplate,
    ChatPromptValue,
    HumanMessage,
    HumanMessagePromptTemplate,
    Message,
    MessagesPlaceholder,
    MissingFieldError,
    PromptTemplate,
    RunnablePassthrough,
    SystemMessage,
    SystemMessagePromptTemplate,
)
from tests.runnables.helpers import everyway, raises_everyway

pytestmark = pytest.mark.anyio


async def text_of(template: str, fields: Any) -> str:
    value = await everyway(PromptTemplate.from_template(template), fields)
    return str(value.to_string())


def messages_of(messages: list[Any], **fields: Any) -> list[Any]:
    return ChatPromptTemplate.from_messages(messages).format_messages(**fields)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("fixed", "fixed"),
        ("{a}", "1"),
        ("{a} and {b}, {a}", "1 and two, 1"),
        ("{{a}} is {a}, 100% of {{", "{a} is 1, 100% of {"),
        ("%s %(a)s {a} %", "%s %(a)s 1 %"),
        ("{a:>3}|{b:<5}|{b!r}|{f:.2f}", "  1|two  |'two'|0.33"),
        ("{b!s:>5}|{b!a}", "  two|'two'"),
        ("[{none}]", "[]"),
        ("{none!r}", "None"),
        ("{braces}", "{a} }} {{ %s"),
        ("{my column}|{my-column}|{user.name}|{list[0]}", "c|d|e|f"),
        ("{Ünï}", "ö"),
    ],
)
async def test_prompt_fills_in_fields(template: str, text: str) -> None:
    """`str.format`'s conversions and specifications work; braces are doubled; values are no templates."""
    fields = {
        "a": 1,
        "b": "two",
        "f": 1 / 3,
        "none": None,
        "braces": "{a} }} {{ %s",
        "my column": "c",
        "my-column": "d",
        "user.name": "e",
        "list[0]": "f",
        "Ünï": "ö",
        "unused": "x",
    }
    assert await text_of(template, fields) == text


async def test_prompt_template_cannot_reach_into_its_values() -> None:
    """An attribute or index access is read as the name of a missing field."""
    for template in ("{a.__class__}", "{a[0]}", "{a.__class__.__init__.__globals__}", "{a.x!r}"):
        with pytest.raises(MissingFieldError):
            await PromptTemplate.from_template(template).ainvoke({"a": ["secret"]})


@pytest.mark.parametrize(
    ("template", "match"),
    [
        ("{", "is not valid"),
        ("{a", "is not valid"),
        ("a}", r"write \{\{ and \}\} for braces"),
        ("{}", "without a name"),
        ("{0}", "without a name"),
        ("{a:{b}}", "another one in its format specification"),
        ("{a!x}", "the conversion !x"),
    ],
)
def test_prompt_refuses_an_invalid_template(template: str, match: str) -> None:
    """The constructor raises, and the message shows how to write it."""
    with pytest.raises(ValueError, match=match):
        PromptTemplate.from_template(template)
    with pytest.raises(ValueError, match=match):
        ChatPromptTemplate.from_messages([("human", [{"type": "text", "text": template}])])
    with pytest.raises(TypeError, match="must be a string, not int"):
        PromptTemplate(3)  # type: ignore[arg-type]


async def test_prompt_accepts_the_value_of_a_single_field() -> None:
    """If one field is open, any value but a dict fills it; otherwise the error names the fields."""
    assert await text_of("Say {x}", "hello") == "Say hello"
    partial = PromptTemplate.from_template("{x}{y}").partial(y="!")
    assert (await partial.ainvoke("hello")).to_string() == "hello!"
    await raises_everyway(
        PromptTemplate.from_template("{x}{y}"), "a", TypeError, "the fields x, y, and item 0"
    )
    await raises_everyway(PromptTemplate.from_template("fixed"), "a", TypeError, r"\(none\)")


@pytest.mark.parametrize(
    "prompt",
    [
        PromptTemplate.from_template("{x} {y}"),
        ChatPromptTemplate.from_messages([("system", "{x}"), ("human", "{y}")]),
        ChatPromptTemplate.from_messages([MessagesPlaceholder("y"), ("human", "{x:>5}")]),
    ],
)
async def test_prompt_names_a_missing_field_and_its_item(prompt: PromptTemplate) -> None:
    """The error has the field, the item and the available fields; it is a KeyError, as in LCEL."""
    good: Mapping[str, Any] = {"x": 1, "y": ["hello"]}
    with pytest.raises(MissingFieldError) as caught:
        rows: list[Mapping[str, Any]] = [good, good, {"x": 1, "z": 3}, good]
        await (RunnablePassthrough[Any]() | prompt).abatch(rows)
    assert (caught.value.field, caught.value.available) == ("y", ("x", "z"))
    assert "needs the field 'y', which item 2 does not have; it has 'x', 'z'" in str(caught.value)
    assert isinstance(caught.value, KeyError)
    with pytest.raises(
        MissingFieldError, match=r"the fields 'x', 'y', which item 0 .* it has none"
    ) as caught:
        await prompt.ainvoke({})
    assert caught.value.field == "x"


async def test_prompt_notes_the_item_of_a_value_that_does_not_fit_its_format() -> None:
    """The error is the value's own, with a note."""
    prompt = PromptTemplate.from_template("{price:.2f}")
    with pytest.raises(ValueError, match="format code 'f'") as caught:
        await prompt.abatch([{"price": 1.5}, {"price": "1.5"}])
    assert "PromptTemplate could not be filled with item 1" in caught.value.__notes__


async def test_prompt_takes_partial_variables() -> None:
    """A row overrides them; a function is called for every item."""
    count = iter(range(100))
    prompt = PromptTemplate.from_template("{a}{b}", partial_variables={"b": 0}).partial(a=lambda: next(count))
    assert prompt.input_variables == ()
    assert [value.to_string() for value in await prompt.abatch([{}, {}, {"a": "x"}])] == ["00", "10", "x0"]
    chat = ChatPromptTemplate.from_template("{a}{b}", partial_variables={"b": 0}).partial(a=lambda: "called")
    assert chat.format_messages() == [HumanMessage("called0")]
    assert chat.format_messages(b=1) == [HumanMessage("called1")]


def test_prompt_input_variables_are_the_required_fields() -> None:
    """They are sorted, without partial and optional ones; passing them is checked and changes nothing."""
    assert PromptTemplate("{b}{a}{b}{c}", partial_variables={"c": 1}).input_variables == ("a", "b")
    messages = [("human", "{z}"), MessagesPlaceholder("h"), ("placeholder", "{o}"), ("ai", "{a}")]
    assert ChatPromptTemplate.from_messages(messages).input_variables == ("a", "h", "z")
    assert PromptTemplate(template="{a}", input_variables=["a"]).format(a=1) == "1"
    with pytest.raises(ValueError, match="the input_variables are a, by the template, and not b"):
        PromptTemplate(template="{a}", input_variables=["b"])


def test_prompt_makes_a_message_for_every_role() -> None:
    """Roles have LCEL's and the API's names, in pairs, dicts, lists or classes; a string is human."""
    assert messages_of(
        [
            ("system", "s{x}"),
            {"role": "human", "content": "h{x}"},
            ["user", "u{x}"],
            ("ai", "a{x}"),
            ("assistant", "as"),
            (AIMessage, "c{x}"),
            ("developer", "d{x}"),
            "{x}",
        ],
        x=1,
    ) == [
        SystemMessage("s1"),
        HumanMessage("h1"),
        HumanMessage("u1"),
        AIMessage("a1"),
        AIMessage("as"),
        AIMessage("c1"),
        Message("developer", "d1"),
        HumanMessage("1"),
    ]


def test_prompt_uses_message_objects_unchanged() -> None:
    """They are not templates."""
    literal = SystemMessage("literal {x}")
    assert messages_of([literal, "{x}"], x=1) == [literal, HumanMessage("1")]


@pytest.mark.parametrize(
    ("message", "error", "match"),
    [
        (("robot", "x"), ValueError, "no role 'robot'; the roles are system, human"),
        (("human", "a", "b"), TypeError, "must be a"),
        (3, TypeError, "not 3"),
        (("human", 3), TypeError, "a text or a list of parts, not 3"),
        ({"role": "user", "content": "x", "name": "n"}, TypeError, "a dict of role and content"),
        (("placeholder", "h"), ValueError, "in braces"),
    ],
)
def test_prompt_refuses_other_objects_as_messages(message: Any, error: type[Exception], match: str) -> None:
    """The constructor raises."""
    with pytest.raises(error, match=match):
        ChatPromptTemplate.from_messages([message])


def test_prompt_fills_content_parts_at_any_depth() -> None:
    """Texts and image addresses are filled; a string among them is a text part."""
    image = {"url": "https://{host}/{x}", "detail": "low", "n": 1}
    parts = ["hi {x}", {"type": "image_url", "image_url": image}]
    (message,) = messages_of([("human", parts)], x=1, host="h")
    assert message.content == [
        {"type": "text", "text": "hi 1"},
        {"type": "image_url", "image_url": {"url": "https://h/1", "detail": "low", "n": 1}},
    ]


def test_prompt_placeholder_inserts_messages() -> None:
    """Objects and dicts are unchanged, pairs and strings become messages, and nothing is filled in."""
    api = {"role": "tool", "content": "{x}", "tool_call_id": "1"}
    history = [HumanMessage("{x}"), api, ("human", "{x}"), ("ai", "b"), "c"]
    expected = [HumanMessage("{x}"), api, HumanMessage("{x}"), AIMessage("b"), HumanMessage("c")]
    placeholders: list[Any] = [
        MessagesPlaceholder("h"),
        ("placeholder", "{h}"),
        ("placeholder", ["{h}", False]),
    ]
    for placeholder in placeholders:
        assert messages_of([placeholder, "{x}"], h=history, x=1) == [*expected, HumanMessage("1")]
    assert messages_of([MessagesPlaceholder("h", n_messages=2)], h=history) == expected[-2:]
    assert messages_of([MessagesPlaceholder("h", n_messages=9)], h=tuple(history)) == expected
    with pytest.raises(ValueError, match="n_messages must be at least 1"):
        MessagesPlaceholder("h", n_messages=0)


def test_prompt_placeholder_may_be_optional() -> None:
    """A row without its field has no messages there; otherwise the field is missing."""
    optional: list[Any] = [MessagesPlaceholder("h", optional=True), ("placeholder", "{h}")]
    for placeholder in optional:
        assert messages_of([placeholder, "x"]) == [HumanMessage("x")]
    required: list[Any] = [MessagesPlaceholder("h"), ("placeholder", ["{h}", False])]
    for placeholder in required:
        with pytest.raises(MissingFieldError, match="'h'"):
            messages_of([placeholder, "x"])


@pytest.mark.parametrize("value", ["text", None, 3, {"role": "user", "content": "x"}])
def test_prompt_placeholder_requires_a_list(value: Any) -> None:
    """A string is not a list of characters; the error names the field and the item."""
    with pytest.raises(TypeError, match="'h' must hold a list of messages") as caught:
        messages_of([MessagesPlaceholder("h")], h=value)
    assert caught.value.__notes__ == ["ChatPromptTemplate could not be filled with item 0"]
    with pytest.raises(TypeError, match="must be a message"):
        messages_of([MessagesPlaceholder("h")], h=[value if not isinstance(value, str | dict) else 3])


def test_prompt_gives_each_item_a_list_of_its_own() -> None:
    """Changes to one item's messages do not reach the next."""
    prompt = ChatPromptTemplate.from_messages(["fixed"])
    first, second = prompt.batch([{}, {}])
    first.to_messages().append(HumanMessage("more"))
    assert isinstance(first.messages, list)
    first.messages.append(HumanMessage("more"))
    assert second.messages == [HumanMessage("fixed")]


def test_prompt_value_converts_to_text_and_to_messages() -> None:
    """A text names the speakers as LCEL does."""
    text = PromptTemplate.from_template("{a}").invoke({"a": 1})
    assert (text.text, text.to_messages()) == ("1", [HumanMessage("1")])
    parts = [{"type": "text", "text": "a"}]
    tool = {"role": "tool", "content": "d"}
    value = ChatPromptValue([SystemMessage("s"), HumanMessage("h"), AIMessage(parts), ("human", "t"), tool])
    assert value.to_string() == "System: s\nHuman: h\nAI: a\nHuman: t\nTool: d"
    assert ChatPromptTemplate.from_template("{a}").format(a=1) == "Human: 1"


async def test_prompt_runs_without_a_slot_or_a_thread() -> None:
    """It is inline, also with bound arguments."""
    prompt = ChatPromptTemplate.from_messages([("human", "{a}{b}")])
    assert prompt._step().inline
    assert (await everyway(prompt.bind(b=2), {"a": 1})).messages == [HumanMessage("12")]


async def test_prompts_add_up() -> None:
    """With the variables that are already given."""
    prompt = PromptTemplate.from_template("{a} ").partial(a=1) + PromptTemplate.from_template("{b}") + " {c}!"
    assert prompt.format(b=2, c=3) == "1 2 3!"
    assert prompt.input_variables == ("b", "c")
    with pytest.raises(TypeError):
        _ = prompt + 1  # type: ignore[operator]


async def test_chat_prompts_add_up() -> None:
    """Prompts, messages, pairs, lists of them, and texts of the user."""
    system = ChatPromptTemplate.from_messages([("system", "{a}")]).partial(a="A")
    history = MessagesPlaceholder("history", optional=True)
    prompt = (
        system
        + history
        + HumanMessage("{b}")
        + ("ai", "{c}")
        + [("human", "d"), "{e}"]
        + "f"
        + {
            "role": "ai",
            "content": "g",
        }
    )
    prompt = prompt + system + PromptTemplate.from_template("h{i}")
    messages: list[Any] = prompt.format_messages(c="C", e="E", i="I")
    assert [message.content for message in messages] == [
        *("A", "{b}", "C", "d", "E", "f", "g", "A", "hI"),
    ]
    assert prompt.input_variables == ("c", "e", "i")
    with pytest.raises(TypeError):
        _ = system + 1


async def test_chat_prompt_takes_message_prompts_of_lcel() -> None:
    """They are the same as pairs."""
    prompt = ChatPromptTemplate.from_messages(
        [
            SystemMessagePromptTemplate.from_template("Be {how}."),
            HumanMessagePromptTemplate.from_template([{"type": "text", "text": "{q}"}]),
            AIMessagePromptTemplate(PromptTemplate.from_template("{x}{y}", partial_variables={"x": "X"})),
        ]
    )
    value = await everyway(prompt, {"how": "brief", "q": "why?", "y": "Y"})
    assert value.to_messages() == [
        SystemMessage("Be brief."),
        HumanMessage([{"type": "text", "text": "why?"}]),
        AIMessage("XY"),
    ]
    assert HumanMessagePromptTemplate.from_template("{a}").format(a=1) == HumanMessage("1")


async def test_prompts_are_formatted_in_async_code() -> None:
    """`format`, `format_prompt` and `format_messages` have a twin each."""
    text, chat = PromptTemplate.from_template("{a}"), ChatPromptTemplate.from_template("{a}")
    assert text.format_prompt(a=1) == await text.aformat_prompt(a=1)
    assert await text.aformat(a=1) == "1"
    assert await chat.aformat_messages(a=1) == chat.format_messages(a=1) == [HumanMessage("1")]
