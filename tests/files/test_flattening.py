"""Flattening: fields are columns, and no part of an answer is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.errors import InputError
from batchrt.files import FieldKind, fields_of_schema, open_sink
from batchrt.files.flattening import Flattening
from tests.files.files import TEXT, json_rows, json_values, table_rows

FIELDS: dict[str, FieldKind] = {
    "name": "string",
    "age": "integer",
    "score": "number",
    "ok": "boolean",
    "tags": "json",
}
WHOLE: dict[str, Any] = {"name": "é", "age": 3, "score": 1, "ok": True, "tags": ["a"]}


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "string"}, "string"),
        ({"type": ["integer", "null"]}, "integer"),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, "number"),
        ({"type": "boolean", "description": "x"}, "boolean"),
        ({"type": "array", "items": {"type": "string"}}, "json"),
        ({"type": ["string", "integer"]}, "json"),
        ({"anyOf": [{"type": "string"}, {"$ref": "#/$defs/A"}]}, "json"),
        ({"enum": ["a", 1]}, "json"),
        ({"$ref": "#/$defs/A"}, "json"),
        (True, "json"),
        ({}, "json"),
    ],
)
def test_flattening_types_are_the_schemas(part: Any, kind: str) -> None:
    """A field that may be null has the other type; one of several types, or none, is any JSON."""
    assert fields_of_schema({"type": "object", "properties": {"x": part}}) == {"x": kind}


def test_flattening_needs_properties() -> None:
    """Of the outermost object."""
    assert fields_of_schema({"type": "object"}) == {}
    assert fields_of_schema({"properties": []}) == {}


@given(
    st.one_of(json_values(TEXT), st.fixed_dictionaries({}, optional={n: json_values(TEXT) for n in FIELDS}))
)
def test_flattening_loses_nothing(output: Any) -> None:
    """The columns hold the answer, or the output's column does."""
    values, rest = Flattening(FIELDS, (), "output").split(output)
    assert len(values) == len(FIELDS)
    if rest is None:
        given_values = {name: value for name, value in (output or {}).items() if value is not None}
        assert {n: v for n, v in zip(FIELDS, values, strict=True) if v is not None} == given_values
    else:
        assert rest == output


@pytest.mark.parametrize(
    ("output", "columns", "rest"),
    [
        (WHOLE, WHOLE, None),
        ({**WHOLE, "more": 1}, WHOLE, {**WHOLE, "more": 1}),
        ({**WHOLE, "age": "3"}, {**WHOLE, "age": None}, {**WHOLE, "age": "3"}),
        ({**WHOLE, "age": True}, {**WHOLE, "age": None}, {**WHOLE, "age": True}),
        ({"name": None}, {}, None),
        ("no object", {}, "no object"),
        (None, {}, None),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_flattening_in_files(
    tmp_path: Path, name: str, output: Any, columns: dict[str, Any], rest: Any
) -> None:
    """Columns come before the output's, with types in Parquet."""
    path = tmp_path / name
    with open_sink(path, columns=["id"], flatten=FIELDS, finish_reasons=True) as sink:
        assert sink.columns == ("id", *FIELDS, "output", "error", "finish_reason")
        sink.write({"id": 1}, output, finish_reason="stop")
    expected = dict.fromkeys(FIELDS) | columns
    if name == "a.jsonl":
        [row] = json_rows(path)
        assert row == {"id": 1, **expected, "output": rest, "error": None, "finish_reason": "stop"}
    elif name == "a.csv":
        [row] = table_rows(path)
        assert [row[field] for field in ("name", "age", "ok", "tags")] == [
            "" if expected[field] is None else text
            for field, text in {"name": "é", "age": "3", "ok": "true", "tags": '["a"]'}.items()
        ]
        assert row["output"] == (
            "" if rest is None else rest if isinstance(rest, str) else json.dumps(rest, ensure_ascii=False)
        )
    else:
        pq = pytest.importorskip("pyarrow.parquet")
        table = pq.read_table(path)
        assert [str(kind) for kind in table.schema.types[1:6]] == [
            "string",
            "int64",
            "double",
            "bool",
            "string",
        ]
        [row] = table.to_pylist()
        assert row["age"] == expected["age"]
        assert row["tags"] == (None if expected["tags"] is None else '["a"]')
        assert (row["output"] is None) == (rest is None)
        assert sink.rows_short == 0


def test_flattening_names_that_are_taken(tmp_path: Path) -> None:
    """Begin with the output's; if that is taken as well, the error says what to do."""
    with open_sink(
        tmp_path / "a.jsonl", columns=["name"], flatten={"name": "string", "error": "json"}
    ) as sink:
        assert sink.columns == ("name", "output_name", "output_error", "output", "error")
        sink.write({"name": "mine"}, {"name": "its", "error": 0})
    assert json_rows(tmp_path / "a.jsonl") == [
        {"name": "mine", "output_name": "its", "output_error": 0, "output": None, "error": None}
    ]
    with pytest.raises(InputError, match="choose another `output_column`"):
        open_sink(tmp_path / "b.jsonl", columns=["name", "output_name"], flatten={"name": "string"})
