"""Answers of a shape, or an error that says what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NotRequired, TypedDict

import httpx
import pytest
from pydantic import BaseModel, Field

from batchrt import Quota, RetryBudget
from batchrt.errors import BadRequestError, OutputParserError
from batchrt.messages import AIMessage, HumanMessage
from batchrt.providers.chat.model import ChatOpenAI
from batchrt.providers.chat.structured_output import response_format
from batchrt.runnables.base import Runnable
from tests.providers.http.replies import chat_body

pytestmark = pytest.mark.anyio


class Place(BaseModel):
    """A place."""

    name: str
    people: int = Field(ge=0)
    notes: str = "none"


GOOD = '{"name": "Bonn", "people": 330000}'
BONN = Place(name="Bonn", people=330_000)


class Model:
    """A chat model that says one thing after the other, the last for ever, and what it was asked."""

    def __init__(
        self,
        content: Any = GOOD,
        finish_reason: str = "stop",
        then: Any = (),
        quota: Any = None,
        **message: Any,
    ) -> None:
        self._bodies = [chat_body(each, **message) for each in (content, *then)]
        for body in self._bodies:
            body["choices"][0]["finish_reason"] = finish_reason
        self._body = self._bodies[0]
        self.asked: list[dict[str, Any]] = []
        transport = httpx.MockTransport(self._handle)
        self.chat = ChatOpenAI("m", base_url="http://mock", api_key="", transport=transport, quota=quota)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(json.loads(request.content))
        return httpx.Response(200, json=self._bodies[min(len(self.asked), len(self._bodies)) - 1])


async def test_structured_output_is_a_validated_model() -> None:
    """And the request has its schema, in strict mode."""
    model = Model()
    place = await model.chat.with_structured_output(Place).ainvoke("where?")
    assert place == BONN
    asked = model.asked[0]["response_format"]
    assert asked["type"] == "json_schema"
    assert (asked["json_schema"]["name"], asked["json_schema"]["strict"]) == ("Place", True)
    assert asked["json_schema"]["schema"]["required"] == ["name", "people", "notes"]


async def test_structured_output_composes_and_batches() -> None:
    """In every batch method, with usage counted."""
    chain: Runnable[Any, str] = Model().chat.with_structured_output(Place) | (lambda p: p.name)
    assert await chain.abatch(["a", "b"]) == ["Bonn", "Bonn"]
    result = await chain.arun(["a", "b", "c"])
    assert result.usage is not None
    assert result.usage.total_tokens == 36


async def test_structured_output_of_a_dict_schema_is_a_dict() -> None:
    """The schema is named by its title, made fit for the API."""
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
async def test_structured_output_strips_code_fences(text: str) -> None:
    """A server that ignores response_format does not prevent them."""
    assert await Model(text).chat.with_structured_output(Place).ainvoke("?") == BONN


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: Model("Bonn, I think"), "^the answer does not fit the schema: Invalid JSON: expected value"),
        (lambda: Model('{"name": 5, "people": -1}'), "name: .*string; people: .*greater"),
        (lambda: Model('{"name": "B'), "Invalid JSON"),
        (lambda: Model('{"name": "B', "length"), "cut off at the token limit"),
        (lambda: Model("", "content_filter"), "content filter"),
        (lambda: Model(None, refusal="I cannot"), "the model refused: I cannot"),
        (lambda: Model(None), "does not fit"),
    ],
)
async def test_structured_output_misfit_has_the_reason(model: Callable[[], Model], says: str) -> None:
    """With the whole text, so that nothing paid for is lost."""
    with pytest.raises(OutputParserError, match=says) as caught:
        await model().chat.with_structured_output(Place).ainvoke("?")
    content = model()._body["choices"][0]["message"]["content"]
    assert caught.value.text == (content or "")


async def test_structured_output_accepts_a_cut_answer_that_fits() -> None:
    """The reason only matters where something is missing."""
    assert await Model(GOOD, "length").chat.with_structured_output(Place).ainvoke("?") == BONN


@pytest.mark.parametrize(("content", "says"), [("[1]", "no JSON object but a list"), ("{", "EOF")])
async def test_structured_output_of_a_dict_schema_must_be_an_object(content: str, says: str) -> None:
    """Not a list, nor half an object."""
    chat = Model(content).chat
    with pytest.raises(OutputParserError, match=says):
        await chat.with_structured_output({"type": "object"}).ainvoke("?")


async def test_structured_output_can_include_the_raw_message() -> None:
    """Then an answer that does not fit is not raised."""
    fine = await Model().chat.with_structured_output(Place, include_raw=True).ainvoke("?")
    assert isinstance(fine["raw"], AIMessage)
    assert (fine["parsed"], fine["parsing_error"]) == (BONN, None)
    bad = await Model("no").chat.with_structured_output(Place, include_raw=True).ainvoke("?")
    assert (bad["raw"].content, bad["parsed"]) == ("no", None)
    assert isinstance(bad["parsing_error"], OutputParserError)


async def test_structured_output_passes_bound_options() -> None:
    """Together with the format."""
    model = Model()
    await model.chat.with_structured_output(Place).bind(temperature=0).ainvoke("?")
    assert model.asked[0]["temperature"] == 0
    assert "response_format" in model.asked[0]


class Free(BaseModel):
    """What strict mode cannot say."""

    counts: dict[str, int]


def test_structured_output_is_strict_if_the_schema_allows() -> None:
    """By default; with strict=True it is an error if the schema does not."""
    plain = response_format(Free, method="json_schema", strict=None)["json_schema"]
    assert plain == {"name": "Free", "strict": False, "schema": Free.model_json_schema()}
    with pytest.raises(ValueError, match=r"schema\.counts has keys of any name"):
        response_format(Free, method="json_schema", strict=True)
    loose = response_format(Place, method="json_schema", strict=False)["json_schema"]
    assert (loose["strict"], loose["schema"]) == (False, Place.model_json_schema())


def test_structured_output_json_mode_asks_for_any_object() -> None:
    """For servers that do not support schemas."""
    assert response_format(Place, method="json_mode", strict=None) == {"type": "json_object"}


@pytest.mark.parametrize("schema", [str, "Place", None, BONN])
def test_structured_output_refuses_other_objects_as_schema(schema: Any) -> None:
    """When the chain is built."""
    with pytest.raises(TypeError, match="pydantic model, a TypedDict or a JSON schema"):
        Model().chat.with_structured_output(schema)


def test_structured_output_refuses_an_unknown_method() -> None:
    """By name."""
    method: Any = "tools"
    with pytest.raises(ValueError, match="not 'tools'"):
        Model().chat.with_structured_output(Place, method=method)


# What stands around the JSON


@pytest.mark.parametrize(
    "text",
    [
        f"<think>\nIt is about money.\n</think>\n\n{GOOD}",
        f"It is about money.\n</think>\n{GOOD}",
        f'<think>Perhaps {{"name": "Ulm"}}?</think>```json\n{GOOD}\n```',
        f"<thinking>a</thinking>{GOOD}",
        f"[THINK]a[/THINK]{GOOD}",
        f"◁think▷a◁/think▷{GOOD}",
        f"<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>{GOOD}<|return|>",
        f"Here it is:\n```json\n{GOOD}\n```\nAnything else?",
        f"Here it is [as you asked]: {GOOD}",
        f"\ufeff{GOOD}",
        '{"name": "Bonn", "people": 330000, "notes": "none"}\n',
    ],
)
@pytest.mark.parametrize("schema", [Place, Place.model_json_schema()], ids=["model", "dict"])
async def test_structured_output_ignores_text_around_the_json(text: str, schema: Any) -> None:
    """Reasoning, fences, words: as the parsers do."""
    place = await Model(text).chat.with_structured_output(schema, max_reasks=0).ainvoke("?")
    assert Place.model_validate(place) == BONN


async def test_structured_output_accepts_line_breaks_in_strings() -> None:
    """As the parsers do."""
    model = Model('{"name": "Bonn", "people": 1, "notes": "two\nlines"}')
    place = await model.chat.with_structured_output(Place).ainvoke("?")
    assert place.notes == "two\nlines"


@pytest.mark.parametrize(
    "text",
    [
        f'<think>Perhaps {GOOD}</think>{{"name": "Bo',
        f"<think>Perhaps {GOOD}, or",
        f"Perhaps {GOOD}?</think>",
    ],
)
async def test_structured_output_ignores_a_draft_in_the_reasoning(text: str) -> None:
    """If the answer itself was cut off."""
    with pytest.raises(OutputParserError):
        await Model(text).chat.with_structured_output(Place, max_reasks=0).ainvoke("?")


async def test_structured_output_ignores_a_refusal_beside_a_fitting_answer() -> None:
    """The answer was paid for."""
    assert await Model(GOOD, refusal="but").chat.with_structured_output(Place).ainvoke("?") == BONN


# Asked again


BAD = '{"name": "Bonn", "people": -1}'


async def test_structured_output_asks_again_after_a_misfit() -> None:
    """Once by default, with the answer and its fault; it counts as a retry."""
    model = Model(BAD, then=[GOOD])
    result = await model.chat.with_structured_output(Place).arun(["where?"])
    assert result.outputs == [BONN]
    assert result.outcomes[0].attempts == 2
    assert result.usage.total_tokens == 24
    first, again = model.asked
    assert first["response_format"] == again["response_format"]
    *before, answer, asking = again["messages"]
    assert before == first["messages"]
    assert answer == {"role": "assistant", "content": BAD}
    assert asking["role"] == "user"
    assert "people: Input should be greater than or equal to 0" in asking["content"]


@pytest.mark.parametrize("most", [0, 1, 3])
async def test_structured_output_asks_again_max_reasks_times(most: int) -> None:
    """Then the last answer's error is raised."""
    model = Model(BAD, then=["{}", "[]"])
    with pytest.raises(OutputParserError) as caught:
        await model.chat.with_structured_output(Place, max_reasks=most).ainvoke("?")
    assert len(model.asked) == 1 + most
    assert caught.value.text == [BAD, "{}", "[]", "[]"][most]


async def test_structured_output_raw_message_is_the_last_one() -> None:
    """And the error is about it."""
    chat = Model(BAD, then=["{}"]).chat
    both = await chat.with_structured_output(Place, include_raw=True).ainvoke("?")
    assert (both["raw"].content, both["parsed"]) == ("{}", None)
    assert "name: Field required" in str(both["parsing_error"])
    good = await Model(BAD, then=[GOOD]).chat.with_structured_output(Place, include_raw=True).ainvoke("?")
    assert (good["raw"].content, good["parsed"], good["parsing_error"]) == (GOOD, BONN, None)


@pytest.mark.parametrize(
    ("content", "reason", "message"),
    [
        ('{"name": "B', "length", {}),
        ("", "content_filter", {}),
        (None, "stop", {"refusal": "I cannot"}),
        ('{"name": "B', "MAX_TOKENS", {}),
    ],
)
async def test_structured_output_does_not_ask_again_after_a_cut_answer(
    content: Any, reason: str, message: Any
) -> None:
    """Nor after a refusal."""
    model = Model(content, reason, **message)
    with pytest.raises(OutputParserError):
        await model.chat.with_structured_output(Place).ainvoke("?")
    assert len(model.asked) == 1


async def test_structured_output_reasks_use_the_retry_budget() -> None:
    """An empty budget ends them, and the error says so."""
    quota = Quota(retry_budget=RetryBudget(capacity=10.0, cost=5.0, repayment=0.0))
    model = Model(BAD, quota=quota)
    errors = await model.chat.with_structured_output(Place).abatch(["?"] * 5, return_exceptions=True)
    assert len(model.asked) == 5 + 2
    assert sum("the retry budget is empty" in "".join(getattr(e, "__notes__", ())) for e in errors) == 3


async def test_structured_output_failed_reask_keeps_the_first_answer() -> None:
    """Its error is raised, with its text."""

    class Failing(Model):
        def _handle(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(400) if self.asked else super()._handle(request)

    with pytest.raises(OutputParserError, match="greater") as caught:
        await Failing(BAD).chat.with_structured_output(Place).ainvoke("?")
    assert caught.value.text == BAD


@pytest.mark.parametrize("value", ["?", ("user", "?"), [("system", "s"), ("user", "?")], HumanMessage("?")])
async def test_structured_output_asks_again_for_any_input(value: Any) -> None:
    """A text, a message, a conversation, a prompt's value."""
    value = [value] if isinstance(value, tuple) else value
    model = Model(BAD, then=[GOOD])
    assert await model.chat.with_structured_output(Place).ainvoke(value) == BONN
    assert model.asked[1]["messages"][:-2] == model.asked[0]["messages"]


@pytest.mark.parametrize(
    ("value", "kind"), [(-1, ValueError), ("1", TypeError), (True, TypeError), (None, TypeError)]
)
def test_structured_output_max_reasks_is_a_whole_number(value: Any, kind: type[Exception]) -> None:
    """From 0."""
    with pytest.raises(kind, match="max_reasks must be"):
        Model().chat.with_structured_output(Place, max_reasks=value)


# Refused in strict mode


class Lenient(Model):
    """A model whose server refuses a schema in strict mode."""

    def _handle(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if body["response_format"].get("json_schema", {}).get("strict"):
            self.asked.append(body)
            error = {"message": "Invalid schema for response_format 'Place'", "param": "response_format"}
            return httpx.Response(400, json={"error": error})
        return super()._handle(request)


async def test_structured_output_leaves_strict_mode_after_a_refusal() -> None:
    """And does not return to it."""
    model = Lenient()
    structured = model.chat.with_structured_output(Place)
    assert await structured.abatch(["a", "b", "c"], {"max_concurrency": 1}) == [BONN] * 3
    strict = [body["response_format"]["json_schema"]["strict"] for body in model.asked]
    assert strict == [True, False, False, False]
    with pytest.raises(BadRequestError):
        await Lenient().chat.with_structured_output(Place, strict=True).ainvoke("?")


class Town(TypedDict):
    """A town."""

    name: str
    people: NotRequired[int]


CALL = {"id": "1", "type": "function", "function": {"name": "Place", "arguments": GOOD}}


@pytest.mark.parametrize("arguments", [GOOD, json.loads(GOOD)], ids=["text", "object"])
async def test_structured_output_by_function_calling_is_the_arguments(arguments: Any) -> None:
    """The model has to call the one tool that there is."""
    call = {**CALL, "function": {"name": "Place", "arguments": arguments}}
    model = Model(None, finish_reason="tool_calls", tool_calls=[call])
    chain = model.chat.with_structured_output(Place, method="function_calling")
    assert await chain.ainvoke("where?") == BONN
    (asked,) = model.asked
    assert asked["tool_choice"] == {"type": "function", "function": {"name": "Place"}}
    assert asked["tools"][0]["function"]["strict"] is True
    assert asked["tools"][0]["function"]["description"] == "A place."
    assert "response_format" not in asked


async def test_structured_output_by_function_calling_reads_an_answer_in_text() -> None:
    """Of a server that does not know tools; a wrong call is asked for again."""
    assert (
        await Model(GOOD).chat.with_structured_output(Place, method="function_calling").ainvoke("x") == BONN
    )
    wrong = {**CALL, "function": {"name": "Place", "arguments": '{"name": 5'}}
    model = Model(None, then=[None], tool_calls=[wrong])
    chain = model.chat.with_structured_output(Place, method="function_calling")
    with pytest.raises(OutputParserError, match="does not fit"):
        await chain.ainvoke("x")
    assert len(model.asked) == 2
    assert model.asked[1]["messages"][1] == {"role": "assistant", "content": '{"name": 5'}


OTHER = {**CALL, "function": {"name": "Person", "arguments": GOOD}}


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
async def test_structured_output_call_of_another_tool_is_no_answer(method: Any) -> None:
    """Also if its arguments fit; the model is asked again, and the error names the tool that it called."""
    model = Model(None, finish_reason="tool_calls", tool_calls=[OTHER])
    chain = model.chat.with_structured_output(Place, method=method)
    with pytest.raises(OutputParserError, match="the model called 'Person', and not 'Place'"):
        await chain.ainvoke("where?")
    said = "The model called 'Person', and not 'Place'. Answer again: "
    assert model.asked[1]["messages"][1]["content"].startswith(said)
    both = Model(None, tool_calls=[OTHER, CALL])
    assert await both.chat.with_structured_output(Place, method=method).ainvoke("where?") == BONN


async def test_structured_output_call_counts_before_a_text_beside_it() -> None:
    """Models think aloud before they call; in the other methods the text is the answer."""
    model = Model("I note down the place.", tool_calls=[CALL])
    chain = model.chat.with_structured_output(Place, method="function_calling")
    assert await chain.ainvoke("where?") == BONN
    assert len(model.asked) == 1
    model = Model(GOOD, tool_calls=[OTHER])
    assert await model.chat.with_structured_output(Place).ainvoke("where?") == BONN
    assert await model.chat.with_structured_output(Place, method="function_calling").ainvoke("x") == BONN
    model = Model("I note down the person.", tool_calls=[OTHER])
    with pytest.raises(OutputParserError, match="the model called 'Person'"):
        await model.chat.with_structured_output(Place, method="function_calling").ainvoke("x")


async def test_structured_output_by_function_calling_leaves_strict_mode_that_is_refused() -> None:
    """A schema that cannot be strict is not, unless it has to be."""

    class Free(BaseModel):
        counts: dict[str, int]

    call = {"id": "1", "type": "function", "function": {"name": "Free", "arguments": '{"counts": {"a": 1}}'}}
    model = Model(None, tool_calls=[call])
    chain = model.chat.with_structured_output(Free, method="function_calling")
    assert await chain.ainvoke("x") == Free(counts={"a": 1})
    assert model.asked[0]["tools"][0]["function"]["strict"] is False
    with pytest.raises(ValueError, match=r"counts has keys of any name"):
        model.chat.with_structured_output(Free, method="function_calling", strict=True)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
async def test_structured_output_of_a_typed_dict_is_a_dict(method: Any) -> None:
    """Its keys are the schema's; nothing is validated, as with a JSON schema."""
    model = Model('{"name": "Bonn", "people": "many"}')
    chain: Runnable[Any, Town] = model.chat.with_structured_output(Town, method=method)
    assert await chain.ainvoke("x") == {"name": "Bonn", "people": "many"}
    asked = model.asked[0]
    form = (
        asked["tools"][0]["function"]
        if method == "function_calling"
        else asked["response_format"]["json_schema"]
    )
    assert form["name"] == "Town"
    schema = form.get("parameters") or form["schema"]
    assert list(schema["properties"]) == ["name", "people"]
