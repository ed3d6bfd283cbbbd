"""Outcome tables: results as Arrow tables and data frames."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import BaseModel

from batchrt import AIMessage, BatchResult, Job, JobReport, Outcome, RunnableLambda, Usage

NAN = float("nan")
OWN = (
    "error",
    "attempts",
    "seconds",
    "request_seconds",
    "input_tokens",
    "output_tokens",
    "cost",
    "request_id",
)


def result_of(*outputs: Any) -> BatchResult[Any]:
    """Return the result of a run with these outputs; an exception is an error."""
    outcomes = [
        Outcome(place, None, output, 2, 0.5, None)
        if isinstance(output, Exception)
        else Outcome(place, output, None, 1, 0.25, Usage(3, 1, 4), 0.2, cost=0.5, request_id="r")
        for place, output in enumerate(outputs)
    ]
    return BatchResult(tuple(outcomes), 1.0)


def test_outcome_table_has_a_row_for_each_outcome() -> None:
    """With its output or its error, its attempts, times, tokens and cost."""
    table = result_of("a", ValueError("no")).to_arrow()
    assert tuple(table.column_names) == ("output", *OWN)
    first, second = table.to_pylist()
    assert first == {
        "output": "a",
        "error": None,
        "attempts": 1,
        "seconds": 0.25,
        "request_seconds": 0.2,
        "input_tokens": 3,
        "output_tokens": 1,
        "cost": 0.5,
        "request_id": "r",
    }
    assert (second["output"], second["error"], second["attempts"]) == (None, "ValueError: no", 2)
    assert second["input_tokens"] is second["cost"] is None


def test_outcome_table_has_the_inputs() -> None:
    """If they are given: their fields, or the column `input`."""
    result = result_of("a", "b")
    table = result.to_arrow([{"id": 1, "q": "x"}, {"id": 2, "more": True}])
    assert table.column_names[:4] == ["id", "q", "more", "output"]
    assert table["more"].to_pylist() == [None, True]
    assert result.to_arrow(["x", "y"])["input"].to_pylist() == ["x", "y"]
    with pytest.raises(ValueError, match="3 inputs for 2 outcomes"):
        result.to_arrow([1, 2, 3])


class Person(BaseModel):
    """A person."""

    name: str
    age: int | None = None
    tags: list[str] = []


@dataclass
class Point:
    """A point."""

    x: float
    y: float


def test_outcome_table_has_columns_of_structured_outputs() -> None:
    """Of models, data classes and dicts, also of a run with errors; lists and objects are JSON text."""
    table = result_of(Person(name="Ann", tags=["a"]), ValueError("no"), Person(name="Bo", age=3)).to_arrow()
    assert table.column_names[:3] == ["name", "age", "tags"]
    assert table["name"].to_pylist() == ["Ann", None, "Bo"]
    assert table["age"].to_pylist() == [None, None, 3]
    assert table["tags"].to_pylist() == ['["a"]', None, "[]"]
    assert result_of(Point(1, 2.5)).to_arrow()["y"].to_pylist() == [2.5]
    table = result_of({"a": 1}, {"b": {"c": None}}).to_arrow()
    assert table.column_names[:2] == ["a", "b"]
    assert table["b"].to_pylist() == [None, '{"c":null}']


def test_outcome_table_renames_fields_whose_names_are_taken() -> None:
    """By an input's column or by one of its own."""
    table = result_of({"error": "e", "id": 7}).to_arrow([{"id": 1, "seconds": 9}])
    assert table.to_pylist()[0] | {"error": None} == table.to_pylist()[0]
    assert table["output_error"].to_pylist() == ["e"]
    assert table["output_id"].to_pylist() == [7]
    assert table["id"].to_pylist() == [1]
    assert table["input_seconds"].to_pylist() == [9]
    assert table["seconds"].to_pylist() == [0.25]


@pytest.mark.parametrize(
    ("outputs", "kind", "values"),
    [
        ([AIMessage("hello")], pa.string(), ["hello"]),
        ([1, 2], pa.int64(), [1, 2]),
        ([1, 2.5], pa.float64(), [1.0, 2.5]),
        ([2**70, 1], pa.string(), [str(2**70), "1"]),
        ([True, None], pa.bool_(), [True, None]),
        ([b"\0\1"], pa.binary(), [b"\0\1"]),
        ([[0.5, 1.0], [2]], pa.list_(pa.float64()), [[0.5, 1.0], [2.0]]),
        ([None, None], pa.string(), [None, None]),
        (["a", 1, {"b": 2}], pa.string(), ["a", "1", '{"b":2}']),
        (["\ud83d"], pa.string(), ["\ufffd"]),
        ([["\ud83d"]], pa.string(), ['["\\ud83d"]']),
        (
            [float("nan"), float("inf")],
            pa.float64(),
            [pytest.approx(float("nan"), nan_ok=True), float("inf")],
        ),
    ],
    ids=str,
)
def test_outcome_table_has_typed_columns(outputs: list[Any], kind: Any, values: list[Any]) -> None:
    """Of one type each; values of several types are JSON text."""
    column = result_of(*outputs).to_arrow()["output"]
    assert column.type == kind
    assert column.to_pylist() == values


def test_outcome_table_of_nothing_has_its_columns() -> None:
    """And their types."""
    table = result_of().to_arrow()
    assert tuple(table.column_names) == ("output", *OWN)
    assert table.schema.field("attempts").type == pa.int64()
    assert len(result_of().to_pandas()) == 0


def test_outcome_table_as_a_data_frame() -> None:
    """Missing numbers are missing, and no floats; lists and objects stay Python's."""
    frame = result_of({"a": [1], "b": 2}, ValueError("no")).to_pandas([{"id": 1}, {"id": 2}])
    assert list(frame.columns) == ["id", "a", "b", *OWN]
    assert frame["a"][0] == [1]
    assert frame["b"].dtype == "Int64"
    assert frame["input_tokens"].dtype == "Int64"
    assert frame["attempts"].tolist() == [1, 2]
    assert frame["error"].isna().tolist() == [True, False]
    assert frame["cost"].sum() == 0.5


@pytest.mark.parametrize(("library", "extra"), [("pandas", "pandas"), ("pyarrow", "parquet")])
def test_outcome_table_names_the_extra_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, library: str, extra: str
) -> None:
    """And a data frame does not need pyarrow."""
    monkeypatch.setitem(sys.modules, library, None)
    result = result_of("a")
    convert = result.to_pandas if library == "pandas" else result.to_arrow
    with pytest.raises(ImportError, match=rf"install batchrt\[{extra}\]"):
        convert()
    if library == "pyarrow":
        assert result.to_pandas()["output"].tolist() == ["a"]


def test_outcome_table_of_a_run() -> None:
    """As it is used."""
    rows = [{"n": number} for number in (1, 0, 4)]
    frame = RunnableLambda(lambda row: 100 / row["n"]).run(rows).to_pandas(rows)
    assert frame[frame["error"].isna()]["output"].tolist() == [100.0, 25.0]
    assert frame["n"].tolist() == [1, 0, 4]


def test_outcome_table_of_a_job(tmp_path: Path) -> None:
    """From the journal, with the inputs' fields, also without the job."""
    rows = [{"n": number, "note": "x"} for number in (1, 0, 4)]
    job = Job(lambda row: {"half": row["n"] / 2, "all": 1 / row["n"]}, rows, journal=tmp_path / "j")
    job.run()
    for table in (job.to_arrow(), JobReport.of(tmp_path / "j").to_arrow()):
        assert table.column_names == ["n", "note", "half", "all", *OWN]
        assert table["half"].to_pylist() == [0.5, None, 2.0]
        assert table["error"].to_pylist() == [None, "ZeroDivisionError: division by zero", None]
    assert job.to_pandas()["n"].tolist() == JobReport.of(tmp_path / "j").to_pandas()["n"].tolist()
