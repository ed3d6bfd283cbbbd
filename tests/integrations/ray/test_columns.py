"""Columns of a block: inputs taken from them, outcomes as new ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchrt import AIMessage, InputError, OutputParserError, RateLimitError, Usage
from batchrt.integrations.ray.columns import FACTS, InputColumns, OutputColumns
from batchrt.runtime.outcome import Outcome

TABLE = pa.table({"text": ["a", "b"], "number": [1, None]})


def outcomes(*outputs: Any) -> list[Outcome[Any]]:
    return [
        Outcome(index, None, output, 2, 0.1, None)
        if isinstance(output, Exception)
        else Outcome(index, output, None, 1, 0.1, Usage(3, 4))
        for index, output in enumerate(outputs)
    ]


@pytest.mark.parametrize(
    ("given", "values"),
    [
        (None, [{"text": "a", "number": 1}, {"text": "b", "number": None}]),
        ("text", ["a", "b"]),
        (["number"], [{"number": 1}, {"number": None}]),
        (lambda row: row["text"].upper(), ["A", "B"]),
    ],
)
def test_input_columns_give_the_chains_inputs(given: Any, values: list[Any]) -> None:
    """A row is a dict; a column, some columns or a function take from it."""
    assert InputColumns(given).values(TABLE) == values


def test_input_columns_fail_the_row_of_a_function_that_raises() -> None:
    """The error stands in the place of that row's input alone."""
    first, second = InputColumns(lambda row: row["number"] + 1).values(TABLE)
    assert first == 2
    assert isinstance(second, TypeError)


def test_input_columns_name_a_column_that_is_missing() -> None:
    """Each row gets an error that says which column is missing, and which there are."""
    values = InputColumns("txt").values(TABLE)
    assert [type(value) for value in values] == [InputError] * 2
    assert "'txt'" in str(values[0])
    assert "'text', 'number'" in str(values[0])


def test_output_columns_keep_rows_and_add_facts() -> None:
    """The block's own columns stay; a failed row has a null and says why."""
    error = RateLimitError("too many", status=429, request_id="req-1")
    table = OutputColumns("answer").added(TABLE, outcomes("yes", error))
    assert table.column_names == ["text", "number", "answer", *FACTS]
    assert table["text"].to_pylist() == ["a", "b"]
    assert table["answer"].to_pylist() == ["yes", None]
    failed = table.to_pylist()[1]
    assert failed["error"] == str(error)
    assert (failed["error_type"], failed["error_status"], failed["request_id"]) == (
        "RateLimitError",
        429,
        "req-1",
    )
    assert table["attempts"].to_pylist() == [1, 2]
    assert table["input_tokens"].to_pylist() == [3, None]


@pytest.mark.parametrize(
    ("outputs", "kind", "cells"),
    [
        (["a", AIMessage("b")], pa.string(), ["a", "b"]),
        ([1, None], pa.int64(), [1, None]),
        ([1, 2.5], pa.float64(), [1.0, 2.5]),
        ([[0.5, 1.0], [2.0, 3.0]], pa.list_(pa.float64()), [[0.5, 1.0], [2.0, 3.0]]),
        ([np.ones(2, np.float32), np.zeros(2, np.float32)], pa.list_(pa.float32()), [[1, 1], [0, 0]]),
        ([{"a": 1}, {"b": "x"}], pa.string(), ['{"a":1}', '{"b":"x"}']),
        ([1, "two"], pa.string(), ["1", "two"]),
        (["\ud83d", "a"], pa.string(), ["\ufffd", "a"]),
    ],
)
def test_output_columns_find_a_type(outputs: list[Any], kind: pa.DataType, cells: list[Any]) -> None:
    """Values of one type keep it; mappings, and values of several types, become JSON text."""
    column = OutputColumns("answer").added(TABLE, outcomes(*outputs))["answer"]
    assert column.type == kind
    assert column.to_pylist() == cells


@dataclass
class Verdict:
    label: str
    score: float


@pytest.mark.parametrize("kind", [dict, Verdict])
def test_output_columns_take_fields_of_outputs(kind: Any) -> None:
    """Fields of mappings and data classes become columns, of the types that are given."""
    columns = OutputColumns(["label", pa.field("score", pa.float32())])
    table = columns.added(TABLE, outcomes(kind(label="good", score=1), ValueError("no")))
    assert table["label"].to_pylist() == ["good", None]
    assert table["score"].type == pa.float32()
    assert table["score"].to_pylist() == [1, None]
    assert table["error_type"].to_pylist() == [None, "ValueError"]


def test_output_columns_have_their_type_where_all_rows_failed() -> None:
    """A schema gives blocks without any output the same columns as the others."""
    schema = pa.schema([("label", pa.string()), ("score", pa.float64())])
    table = OutputColumns(schema).added(TABLE, outcomes(ValueError("a"), ValueError("b")))
    assert table.schema.field("score").type == pa.float64()


@pytest.mark.parametrize("wrong", ["text", 7])
def test_output_columns_fail_the_row_whose_output_does_not_fit(wrong: Any) -> None:
    """An output of a wrong form fails its own row, which shows the output."""
    columns = OutputColumns([pa.field("score", pa.float64())])
    table = columns.added(TABLE, outcomes({"score": 0.5}, wrong))
    assert table["score"].to_pylist() == [0.5, None]
    assert table["error_type"].to_pylist() == [None, OutputParserError.__name__]
    assert repr(wrong) in table["error"][1].as_py()
    table = columns.added(TABLE, outcomes({"score": "bad"}, {"score": 1}))
    assert table["score"].to_pylist() == [None, 1.0]
    assert "'bad'" in table["error"][0].as_py()
    assert table["input_tokens"].to_pylist() == [3, 3]


def test_output_columns_refuse_names_that_are_taken() -> None:
    """A column is never replaced, nor there twice; a prefix makes room."""
    with pytest.raises(ValueError, match="'error'"):
        OutputColumns("error")
    with pytest.raises(ValueError, match="'text'"):
        OutputColumns("text").check(TABLE.column_names)
    assert OutputColumns("error", "summary_").names[:2] == ("error", "summary_error")
