"""Tools in the API's form, from functions, classes and schemas."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import httpx
import pytest
from pydantic import BaseModel, Field

from batchrt import AIMessage, ChatOpenAI, HumanMessage, ToolMessage
from batchrt.providers.chat.tools import tool_choice_of, tool_of
from tests.providers.http.replies import chat_body

pytestmark = pytest.mark.anyio


Second = Annotated[float, Field(description="the second")]


def add(a: int, b: Second = 2.0, *, how: Literal["x"] | None = None) -> float:
    """Add two numbers.

    The rest of this is not sent.
    """
    return a + b + len(how or "")


async def search(query: Annotated[str, "what to look for"], anything: Any, untyped="x"):  # type: ignore[no-untyped-def]
    return query, anything, untyped


class Weather(BaseModel):
    """Tell the weather."""

    city: str = Field(description="its name")
    unit: Literal["C", "F"] = "C"


class Order(TypedDict):
    """Order a thing."""

    what: Annotated[str, ..., "the thing"]
    count: NotRequired[int]


class LangChainTool:
    """What a tool of LangChain's has."""

    name = "weather"
    description = "Says it."
    tool_call_schema = Weather


def sent(parameters: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": parameters, **({"required": list(required)} if required else {})}


WEATHER = sent(
    {
        "city": {"type": "string", "description": "its name"},
        "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
    },
    "city",
)
ORDER = sent({"what": {"type": "string", "description": "the thing"}, "count": {"type": "integer"}}, "what")


@pytest.mark.parametrize(
    ("thing", "name", "description", "parameters"),
    [
        (
            add,
            "add",
            "Add two numbers.",
            sent(
                {
                    "a": {"type": "integer"},
                    "b": {"type": "number", "default": 2.0, "description": "the second"},
                    "how": {"anyOf": [{"type": "string", "const": "x"}, {"type": "null"}]},
                },
                "a",
            ),
        ),
        (
            search,
            "search",
            None,
            sent(
                {
                    "query": {"type": "string", "description": "what to look for"},
                    "anything": {},
                    "untyped": {"default": "x"},
                },
                "query",
                "anything",
            ),
        ),
        (Weather, "Weather", "Tell the weather.", WEATHER),
        (Order, "Order", "Order a thing.", ORDER),
        (
            {"title": "t", "description": "d", "type": "object", "properties": {"a": {}}},
            "t",
            "d",
            sent({"a": {}}),
        ),
        ({"name": "n", "parameters": WEATHER}, "n", None, WEATHER),
        ({"name": "n", "description": "d", "input_schema": WEATHER}, "n", "d", WEATHER),
        ({"name": "n"}, "n", None, sent({})),
    ],
)
def test_tool_has_name_description_and_parameters(
    thing: Any, name: str, description: str | None, parameters: dict[str, Any]
) -> None:
    """Whatever it was made of; titles are left out, as they only say the names again."""
    function = tool_of(thing)["function"]
    assert (function["name"], function.get("description")) == (name, description)
    assert function["parameters"] == parameters


def test_tool_of_langchain_has_its_schema() -> None:
    """Without the arguments that LangChain injects, as `tool_call_schema` says."""
    function = tool_of(LangChainTool())["function"]
    assert (function["name"], function["description"]) == ("weather", "Says it.")
    assert function["parameters"]["required"] == ["city"]


@pytest.mark.parametrize("tool", [{"type": "function", "function": {"name": "f"}}, {"type": "web_search"}])
def test_tool_in_the_form_of_the_api_is_sent_as_it_is(tool: dict[str, Any]) -> None:
    """Also one that the server runs itself."""
    assert tool_of(tool) == tool


def test_tool_is_strict_if_it_is_to_be() -> None:
    """Then all properties are required, and no others allowed."""
    function = tool_of(Weather, strict=True)["function"]
    assert function["strict"] is True
    assert function["parameters"]["required"] == ["city", "unit"]
    assert function["parameters"]["additionalProperties"] is False
    assert tool_of(Weather, strict=False)["function"]["strict"] is False
    with pytest.raises(ValueError, match="anything"):
        tool_of(search, strict=True)


def many(*args: int) -> None: ...
def named(**kwargs: int) -> None: ...
def unsendable(thing: object, when: type[Any] = int) -> None: ...
def by_place(a: int, /) -> None: ...


@pytest.mark.parametrize(
    ("thing", "error", "match"),
    [
        (many, TypeError, r"many cannot be a tool: \*args"),
        (named, TypeError, r"named cannot be a tool: \*\*kwargs"),
        (by_place, TypeError, "by_place cannot be a tool: a: .*by name"),
        (unsendable, TypeError, "unsendable cannot be a tool"),
        (lambda a: a, ValueError, "<lambda>"),
        ({"properties": {}}, TypeError, "needs a name or a title; it has 'properties'"),
        ({"name": "n", "parameters": {"type": "nonsense"}}, ValueError, "schema of the tool n"),
        ({"name": "a b", "parameters": {}}, ValueError, "'a b'"),
        (int, TypeError, "a pydantic model or a TypedDict"),
        (5, TypeError, "not int"),
    ],
)
def test_tool_of_something_else_is_refused(thing: Any, error: type[Exception], match: str) -> None:
    """When it is bound; the message has the reason."""
    with pytest.raises(error, match=match):
        tool_of(thing)


def test_tool_choice_takes_words_and_names() -> None:
    """LangChain's "any" and True are the API's "required"."""
    tools = [tool_of(add), {"type": "web_search"}]
    chosen = [tool_choice_of(choice, tools) for choice in (None, False, True, "any", "auto", "none", "add")]
    function = {"type": "function", "function": {"name": "add"}}
    assert chosen == [None, None, "required", "required", "auto", "none", function]
    assert tool_choice_of("web_search", tools) == {"type": "web_search"}
    assert tool_choice_of(function, tools) == function
    with pytest.raises(ValueError, match="'sub' is none of auto, none, required, any, add, web_search"):
        tool_choice_of("sub", tools)


async def test_chat_model_with_tools_sends_them_and_their_results() -> None:
    """A `ToolMessage` answers a call by its id."""
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        body = chat_body("3") if len(asked) > 1 else chat_body(None, tool_calls=[call])
        return httpx.Response(200, json=body)

    model = ChatOpenAI("m", base_url="http://mock/v1", transport=httpx.MockTransport(answer))
    bound = model.bind_tools([add], tool_choice="any", parallel_tool_calls=False)
    question = HumanMessage("1 + 2?")
    first = await bound.ainvoke([question])
    assert asked[0]["tools"] == [tool_of(add)]
    assert (asked[0]["tool_choice"], asked[0]["parallel_tool_calls"]) == ("required", False)
    second = await model.bind_tools([add]).ainvoke([question, first, ToolMessage("3", tool_call_id="1")])
    assert second.text == "3"
    assert asked[1]["messages"][1:] == [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "1"},
    ]
    assert "tool_choice" not in asked[1]
    assert isinstance(first, AIMessage)


def test_tool_calls_of_an_answer_are_parsed() -> None:
    """With their names, arguments and identifiers; the raw form stays beside it."""
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=chat_body(None, tool_calls=[call])))
    message = ChatOpenAI("m", base_url="http://mock/v1", transport=transport).invoke("x")
    assert message.tool_calls == [{"name": "add", "args": {"a": 1}, "id": "1", "type": "tool_call"}]
    assert message.raw_tool_calls == [call]
