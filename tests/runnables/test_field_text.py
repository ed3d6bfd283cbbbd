"""Field text: a prompt's fields are written as in the command line's files."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from batchrt import AIMessage, ChatPromptTemplate, HumanMessage, PromptTemplate
from batchrt.files.cells import cell
from batchrt.runnables.field_text import field_text, is_missing


class Ticket(BaseModel):
    """A row of its own kind."""

    vip: bool


@dataclass
class Point:
    """A dataclass."""

    x: int


class Colour(str, enum.Enum):  # noqa: UP042  the form whose str() is not its value
    """A string that is more than one."""

    RED = "red"


class NaTType:
    """As pandas' is called."""


NOTHING = [
    None,
    math.nan,
    -math.nan,
    decimal.Decimal("NaN"),
    decimal.Decimal("sNaN"),
    np.float32("nan"),
    np.float64("nan"),
    np.datetime64("NaT", "s"),
    NaTType(),
]


@pytest.mark.parametrize("value", NOTHING, ids=repr)
@pytest.mark.parametrize("template", ["[{a}]", "[{a:.2f}]", "[{a:>5}]", "[{a!s}]", "[{a}{b}]"])
def test_field_text_of_a_missing_value_is_empty(value: Any, template: str) -> None:
    """This holds for every missing value and every format, in a message as in a text."""
    row = {"a": value, "b": ""}
    assert is_missing(value)
    assert PromptTemplate.from_template(template).invoke(row).to_string() == "[]"
    (message,) = ChatPromptTemplate.from_template(template).invoke(row).to_messages()
    assert message == HumanMessage("[]")


def test_field_text_of_a_single_missing_field_is_empty() -> None:
    """The only field may be given as the input itself."""
    prompt = ChatPromptTemplate.from_template("[{a}]")
    assert prompt.batch([None, math.nan, "x"]) == [prompt.invoke({"a": text}) for text in ("", "", "x")]


SAME = [
    "text",
    "",
    True,
    False,
    0,
    -5,
    1.5,
    1e300,
    math.inf,
    10**20,
    2**20_000,
    {"vip": True, "n": None, "x": math.nan},
    {"ü": ["é", 1]},
    [1, "a", None, [math.nan]],
    (1, 2),
    {1, 2},
    b"bytes",
    Ticket(vip=True),
    Point(1),
    Colour.RED,
    [Colour.RED],
    dt.date(2026, 1, 2),
    dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC),
    decimal.Decimal("1.10"),
    Path("a/b"),
    {"key": dt.date(2026, 1, 2)},
    {1: "a"},
    object,
]


@pytest.mark.parametrize("value", SAME, ids=lambda value: type(value).__name__)
def test_field_text_is_the_text_in_files(value: Any) -> None:
    """This holds for a plain field, with a conversion, and beside another field."""
    assert field_text(value) == cell(value)
    assert PromptTemplate.from_template("{a}").invoke({"a": value}).to_string() == cell(value)
    assert (
        PromptTemplate.from_template("{b}{a}").invoke({"a": value, "b": 1}).to_string()
        == "1" + cell(value)[:]
    )


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_field_text_is_the_text_in_files_for_all_json(value: Any) -> None:
    """Any JSON value in a row is written in the same way."""
    assert field_text(value) == cell(value)


def test_field_text_of_a_message_is_its_text() -> None:
    """So the output of one model can be the input of another."""
    prompt = PromptTemplate.from_template("Shorten: {text}")
    assert prompt.invoke(AIMessage("a long one", reasoning="hm")).to_string() == "Shorten: a long one"


def test_field_text_leaves_formats_and_reprs_to_the_value() -> None:
    """An explicit format or conversion applies to the value itself."""
    prompt = PromptTemplate.from_template("{a:.1f} {a!r} {b!r} {c!r}")
    assert prompt.invoke({"a": 0.25, "b": None, "c": {}}).to_string() == "0.2 0.25 None {}"
