"""Schemas of inputs and outputs."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest
from pydantic import BaseModel, RootModel, ValidationError

from batchrt import (
    AIMessage,
    ChatOpenAI,
    ChatPromptTemplate,
    CommaSeparatedListOutputParser,
    ConfigurableField,
    JsonOutputParser,
    MessagesPlaceholder,
    OpenAI,
    OpenAIEmbeddings,
    PromptTemplate,
    PydanticOutputParser,
    Runnable,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    StrOutputParser,
)

HERE: dict[str, Any] = {"base_url": "http://127.0.0.1:9/v1", "api_key": ""}
MODEL = ChatOpenAI("m", **HERE)
PROMPT = ChatPromptTemplate.from_messages(
    [("system", "{a}"), MessagesPlaceholder("history", optional=True), MessagesPlaceholder("more"), "{b}"]
)


class Place(BaseModel):
    name: str


def size(text: str) -> int:
    return len(text)


async def halves(number: int) -> dict[str, float]:
    return {"half": number / 2}


def later(text: str) -> Awaitable[list[int]]:
    raise AssertionError


def chain_for(text: str) -> Runnable[str, int]:
    return RunnableLambda(size)


def untyped(x):  # type: ignore[no-untyped-def]
    return x


def kind_of(schema: type[BaseModel]) -> Any:
    """Return the type of a value, or the fields of a dict with their types; `!` marks the required ones."""
    fields = {
        name + "!" * field.is_required(): field.annotation for name, field in schema.model_fields.items()
    }
    return fields["root!"] if issubclass(schema, RootModel) else fields


FIRST = PromptTemplate.from_template("{a}")
SIZE: Runnable[str, int] = RunnableLambda(size)
CASES: list[tuple[Runnable[Any, Any], Any, Any]] = [
    (SIZE, str, int),
    (SIZE | halves, str, dict[str, float]),
    (RunnableLambda(later), str, list[int]),
    (RunnableLambda(chain_for), str, Any),
    (RunnableLambda(untyped), Any, Any),
    (RunnableLambda(len), Any, Any),
    (SIZE.map(), list[str], list[int]),
    (SIZE.with_retry().with_config(tags=["a"]).with_fallbacks([SIZE]), str, int),
    (SIZE.with_listeners(on_end=print), str, int),
    (SIZE.with_types(input_type=bytes, output_type=float), bytes, float),
    (SIZE.configurable_alternatives(ConfigurableField("x"), y=SIZE), str, int),
    (PROMPT, {"a!": Any, "b!": Any, "more!": list[Any], "history": list[Any]}, Any),
    (PromptTemplate.from_template("{x}{y}").partial(y=1) | MODEL | StrOutputParser(), {"x!": Any}, str),
    (RunnableParallel({"n": size, "t": RunnablePassthrough()}), str, {"n!": int, "t!": str}),
    (RunnableParallel({"n": size, "h": halves}), Any, {"n!": int, "h!": dict[str, float]}),
    (
        RunnableParallel(
            {"x": PromptTemplate.from_template("{a}"), "y": PromptTemplate.from_template("{b}")}
        ),
        {"a!": Any, "b!": Any},
        {"x!": Any, "y!": Any},
    ),
    (RunnablePassthrough.assign(n=size) | {"n": SIZE}, str, {"n!": int}),
    (
        RunnablePassthrough.assign(a=PromptTemplate.from_template("{c}")) | PROMPT | MODEL,
        {"c!": Any, "b!": Any, "more!": list[Any], "history": list[Any]},
        AIMessage,
    ),
    (RunnableParallel({"n": size, "h": halves}).pick("n"), Any, int),
    (RunnableParallel({"n": size, "h": halves}).pick(["n"]), Any, {"n!": int}),
    (RunnableParallel({"n": size}).assign(h=halves), str, {"n!": int, "h!": dict[str, float]}),
    (MODEL, str | list[Any], AIMessage),
    (MODEL | JsonOutputParser(), str | list[Any], Any),
    (MODEL | CommaSeparatedListOutputParser(), str | list[Any], list[str]),
    (OpenAI("m", **HERE), str, str),
    (OpenAI("m", n=2, **HERE), str, list[str]),
    (OpenAIEmbeddings("m", **HERE), str, list[float]),
]


NAMES = [repr(case[0])[:60] for case in CASES]


@pytest.mark.parametrize(("runnable", "takes", "gives"), CASES, ids=NAMES)
def test_schema_tells_what_a_chain_takes_and_gives(
    runnable: Runnable[Any, Any], takes: Any, gives: Any
) -> None:
    """As far as prompts and annotations say it."""
    assert kind_of(runnable.input_schema) == takes
    assert kind_of(runnable.output_schema) == gives
    assert runnable.get_input_jsonschema() == runnable.get_input_schema().model_json_schema()
    assert runnable.get_output_jsonschema() == runnable.get_output_schema().model_json_schema()


def test_schema_of_structured_outputs_is_their_class() -> None:
    """And validates, if it is asked to."""
    assert (MODEL | PydanticOutputParser(Place)).output_schema is Place
    assert MODEL.with_structured_output(Place).output_schema is Place
    raw = MODEL.with_structured_output(Place, include_raw=True)
    assert kind_of(raw.output_schema) == dict[str, Any]
    with pytest.raises(ValidationError):
        PROMPT.input_schema.model_validate({"a": 1})
    assert PROMPT.input_schema.__name__ == "ChatPromptTemplateInput"


class Own(Runnable[int, str]):
    """A class of a user's, whose types are told."""

    InputType = int
    OutputType = str

    def invoke(self, value: int, config: Any = None, **_: Any) -> str:  # type: ignore[override]
        return str(value)


def test_schema_of_a_users_class_is_what_it_says() -> None:
    """By LCEL's attributes."""
    assert kind_of((Own() | SIZE).input_schema) is int
    assert kind_of(Own().output_schema) is str
