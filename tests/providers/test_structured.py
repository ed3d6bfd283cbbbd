"""Answers of a shape, or an error that says what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, Field

from batchrt.errors import OutputParserError
from batchrt.messages import AIMessage
from batchrt.providers.chat import ChatOpenAI
from batchrt.providers.structured import response_format
from batchrt.runnables.base import Runnable

from .replies import chat_body

pytestmark = pytest.mark.anyio


class Place(BaseModel):
    """A place."""

    name: str
    people: int = Field(ge=0)
    notes: str = "none"


GOOD = '{"name": "Bonn", "people": 330000}'
BONN = Place(name="Bonn", people=330_000)


class Model:
    """A chat model that always says the same, and what it was asked."""

    def __init__(self, content: Any = GOOD, finish_reason: str = "stop", **message: Any) -> None:
        body = chat_body(content, **message)
        body["choices"][0]["finish_reason"] = finish_reason
        self._body = body
        self.asked: list[dict[str, Any]] = []
        transport = httpx.MockTransport(self._handle)
        self.chat = ChatOpenAI("m", base_url="http://mock", api_key="", transport=transport)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(json.loads(request.content))
        return httpx.Response(200, json=self._body)


async def test_a_model_comes_out_validated() -> None:
    """And the request asked for its schema, strictly."""
    model = Model()
    place = await model.chat.with_structured_output(Place).ainvoke("where?")
    assert place == BONN
    asked = model.asked[0]["response_format"]
    assert asked["type"] == "json_schema"
    assert (asked["json_schema"]["name"], asked["json_schema"]["strict"]) == ("Place", True)
    assert asked["json_schema"]["schema"]["required"] == ["name", "people", "notes"]


async def test_it_composes_and_batches_like_any_runnable() -> None:
    """In every batch method, with usage counted."""
    chain: Runnable[Any, str] = Model().chat.with_structured_output(Place) | (lambda p: p.name)
    assert await chain.abatch(["a", "b"]) == ["Bonn", "Bonn"]
    result = await chain.arun(["a", "b", "c"])
    assert result.usage is not None
    assert result.usage.total_tokens == 36


async def test_a_dict_schema_gives_dicts() -> None:
    """Under the name its title gives, made fit for the API."""
    model = Model()
    schema = {
        "title": "A place: größer!" + "x" * 100,
        "type": "object",
        "properties": {"name": {"type": "string"}},
    }
    assert await model.chat.with_structured_output(schema).ainvoke("?") == json.loads(GOOD)
    name = model.asked[0]["response_format"]["json_schema"]["name"]
    assert name == ("A_place__gr__er_" + "x" * 100)[:64]


@pytest.mark.parametrize("text", [f"```json\n{GOOD}\n```", f"```\n{GOOD}\n```\n", f"  {GOOD}\n"])
async def test_fences_around_the_json_are_taken_off(text: str) -> None:
    """Servers that ignore response_format leave the model to its habits."""
    assert await Model(text).chat.with_structured_output(Place).ainvoke("?") == BONN


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: Model("Bonn, I think"), "does not fit the schema: it: Invalid JSON"),
        (lambda: Model('{"name": 5, "people": -1}'), "name: .*string; people: .*greater"),
        (lambda: Model('{"name": "B'), "Invalid JSON"),
        (lambda: Model('{"name": "B', "length"), "cut off at the token limit"),
        (lambda: Model("", "content_filter"), "content filter"),
        (lambda: Model(None, refusal="I cannot"), "the model refused: I cannot"),
        (lambda: Model(None), "does not fit"),
    ],
)
async def test_an_answer_that_does_not_fit_says_why(model: Callable[[], Model], says: str) -> None:
    """With the whole text, so that nothing paid for is lost."""
    with pytest.raises(OutputParserError, match=says) as caught:
        await model().chat.with_structured_output(Place).ainvoke("?")
    content = model()._body["choices"][0]["message"]["content"]
    assert caught.value.text == (content or "")


async def test_a_cut_answer_that_fits_all_the_same_is_taken() -> None:
    """The reason only matters where something is missing."""
    assert await Model(GOOD, "length").chat.with_structured_output(Place).ainvoke("?") == BONN


@pytest.mark.parametrize(("content", "says"), [("[1]", "no JSON object but a list"), ("{", "EOF")])
async def test_a_dict_schema_wants_an_object(content: str, says: str) -> None:
    """Not a list and not half of one."""
    chat = Model(content).chat
    with pytest.raises(OutputParserError, match=says):
        await chat.with_structured_output({"type": "object"}).ainvoke("?")


async def test_the_raw_message_can_come_along() -> None:
    """Then an answer that does not fit is no exception."""
    fine = await Model().chat.with_structured_output(Place, include_raw=True).ainvoke("?")
    assert isinstance(fine["raw"], AIMessage)
    assert (fine["parsed"], fine["parsing_error"]) == (BONN, None)
    bad = await Model("no").chat.with_structured_output(Place, include_raw=True).ainvoke("?")
    assert (bad["raw"].content, bad["parsed"]) == ("no", None)
    assert isinstance(bad["parsing_error"], OutputParserError)


async def test_bound_options_reach_the_request() -> None:
    """Together with the format."""
    model = Model()
    await model.chat.with_structured_output(Place).bind(temperature=0).ainvoke("?")
    assert model.asked[0]["temperature"] == 0
    assert "response_format" in model.asked[0]


class Free(BaseModel):
    """What strict mode cannot say."""

    counts: dict[str, int]


def test_strict_is_what_the_schema_allows() -> None:
    """By default; asked for, it is an error where it cannot be."""
    plain = response_format(Free, method="json_schema", strict=None)["json_schema"]
    assert plain == {"name": "Free", "strict": False, "schema": Free.model_json_schema()}
    with pytest.raises(ValueError, match=r"schema\.counts has keys of any name"):
        response_format(Free, method="json_schema", strict=True)
    loose = response_format(Place, method="json_schema", strict=False)["json_schema"]
    assert (loose["strict"], loose["schema"]) == (False, Place.model_json_schema())


def test_json_mode_asks_for_any_object() -> None:
    """For servers that know no schemas."""
    assert response_format(Place, method="json_mode", strict=None) == {"type": "json_object"}


@pytest.mark.parametrize("schema", [str, "Place", None, BONN])
def test_what_is_no_schema_is_refused(schema: Any) -> None:
    """When the chain is built."""
    with pytest.raises(TypeError, match="pydantic model or a dict"):
        Model().chat.with_structured_output(schema)


def test_an_unknown_method_is_refused() -> None:
    """By name."""
    method: Any = "tools"
    with pytest.raises(ValueError, match="not 'tools'"):
        Model().chat.with_structured_output(Place, method=method)
