"""Cells: text of any value, and errors on one line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from pydantic import BaseModel

from batchrt.errors import BatchError
from batchrt.files import (
    open_sink,
    open_source,
)
from tests.files.files import TEXT, json_rows, json_values, table_rows, write_one

INF = float("inf")


class Ticket(BaseModel):
    """A structured output."""

    category: str
    urgency: int


@dataclass
class Point:
    """A result that is a dataclass."""

    x: int


class Colour(str, Enum):  # noqa: UP042  the form whose str() is not its value
    """An enum whose members are strings."""

    RED = "red"


class Opaque:
    """A result without a JSON form."""

    def __str__(self) -> str:
        return "opaque!"


def circular() -> list[Any]:
    """Return a list that contains itself."""
    loop: list[Any] = []
    loop.append(loop)
    return loop


RENDERINGS: list[tuple[object, object, str]] = [
    # value, in JSONL, in CSV
    ("text", "text", "text"),
    ('"quoted"', '"quoted"', '"quoted"'),
    (None, None, ""),
    (True, True, "true"),
    (12, 12, "12"),
    (1.5, 1.5, "1.5"),
    (float("nan"), None, ""),
    (-INF, None, ""),
    ([1, "ü", None], [1, "ü", None], '[1, "ü", null]'),
    ((1, 2), [1, 2], "[1, 2]"),
    ({"a": {"b": []}}, {"a": {"b": []}}, '{"a": {"b": []}}'),
    (
        {"a": INF, "b": [float("nan"), 1]},
        {"a": None, "b": [None, 1]},
        '{"a": null, "b": [null, 1]}',
    ),
    ({1: "a", (2, 3): "b"}, {"1": "a", "[2, 3]": "b"}, '{"1": "a", "[2, 3]": "b"}'),
    (MappingProxyType({"a": 1}), {"a": 1}, '{"a": 1}'),
    ({7}, [7], "[7]"),
    (
        Ticket(category="bug", urgency=3),
        {"category": "bug", "urgency": 3},
        '{"category": "bug", "urgency": 3}',
    ),
    (
        [Ticket(category="ü", urgency=1)],
        [{"category": "ü", "urgency": 1}],
        '[{"category": "ü", "urgency": 1}]',
    ),
    (Point(1), {"x": 1}, '{"x": 1}'),
    (Colour.RED, "red", "red"),
    (date(2025, 3, 1), "2025-03-01", "2025-03-01"),
    (Decimal("1.10"), "1.10", "1.10"),
    (b"caf\xc3\xa9", "café", "café"),
    (b"\xff", "\ufffd", "\ufffd"),
    (Opaque(), "opaque!", "opaque!"),
    ([Opaque()], ["opaque!"], '["opaque!"]'),
    (10**400, 10**400, "1" + "0" * 400),
]


@pytest.mark.parametrize(("value", "in_json", "in_csv"), RENDERINGS)
def test_cell_writes_every_value(tmp_path: Path, value: object, in_json: object, in_csv: str) -> None:
    """Strings as they are, all else JSON: nested in JSONL, as text in CSV; in any column."""
    for name in ("a.jsonl", "a.csv"):
        with open_sink(tmp_path / name, columns=["in"]) as sink:
            sink.write({"in": value}, value)
    [row] = json_rows(tmp_path / "a.jsonl")
    assert (row["in"], row["output"]) == (in_json, in_json)
    assert type(row["output"]) is type(in_json)
    [record] = table_rows(tmp_path / "a.csv")
    assert (record["in"], record["output"]) == (in_csv, in_csv)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_cell_writes_a_recursive_value(tmp_path: Path, name: str) -> None:
    """A list that contains itself does not cost the row."""
    assert "[...]" in write_one(tmp_path / name, circular())


def test_cell_writes_an_integer_above_the_digit_limit(tmp_path: Path) -> None:
    """Python refuses 10,000 digits: they become hexadecimal rather than an error."""
    for name in ("a.jsonl", "a.csv"):
        assert hex(10**9999) in write_one(tmp_path / name, [10**9999])


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (None, None),
        ("plain\ntext", "plain text"),
        (BatchError("no\r\n good"), "BatchError: no good"),
        (TimeoutError(), "TimeoutError"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_error_line_is_one_line(tmp_path: Path, error: Any, line: str | None) -> None:
    """The class and the message; null without an error."""
    path = tmp_path / "a.jsonl"
    with open_sink(path, columns=[]) as sink:
        sink.write({}, None, error)
    assert json_rows(path)[0]["error"] == line


@settings(deadline=None)
@given(json_values(TEXT))
def test_cell_json_in_a_table_can_be_parsed(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    """A CSV field that is not a string is JSON with the same value."""
    path = tmp_path_factory.mktemp("t") / "a.csv"
    write_one(path, [value])
    with open_source(path) as source:
        [row] = source
    assert json.loads(row.values["output"]) == [value]
