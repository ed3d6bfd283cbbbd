"""Table sources: data frames, Arrow tables, data sets and dicts are read as files are."""

from __future__ import annotations

import datetime as dt
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchrt.errors import InputError
from batchrt.files import BadRow, Row, open_sink, open_source, required_columns
from tests.files.files import values

DAY = dt.datetime(2025, 1, 2)  # noqa: DTZ001  data frames have times without zone
ROWS = [{"id": 1, "text": "é", "when": DAY, "list": [1]}, {"id": 2, "text": None, "when": None, "list": None}]


def arrow() -> Any:
    return pytest.importorskip("pyarrow").Table.from_pylist(ROWS)


def polars() -> Any:
    return pytest.importorskip("polars").DataFrame(ROWS)


def pandas() -> Any:
    return pytest.importorskip("pandas").DataFrame(ROWS)


def hugging_face() -> Any:
    return pytest.importorskip("datasets").Dataset.from_list(ROWS)


def reader() -> Any:
    return arrow().to_reader()


def dicts() -> Any:
    return list(ROWS)


def generator() -> Any:
    return (row for row in ROWS)


@pytest.mark.parametrize("make", [arrow, polars, pandas, hugging_face, reader, dicts, generator])
def test_table_source_reads_rows(make: Callable[[], Any]) -> None:
    """Of every kind the same, numbered from 1, with missing values as `None`."""
    data = make()
    has_length = hasattr(data, "__len__")
    with open_source(data) as source:
        assert (source.format, source.columns) == ("table", ("id", "text", "when", "list"))
        assert source.survey() == source.columns
        assert source.count(9) == (2 if has_length else None)
        assert source.fraction_read == (0 if has_length else None)
        required_columns(source, ["text"])
        with pytest.raises(InputError, match="the table: no column 'tex', did you mean 'text'"):
            required_columns(source, ["tex"])
        rows = list(source)
        assert source.fraction_read == (1 if has_length else None)
    assert values(rows) == ROWS
    assert [(row.number, row.line) for row in rows] == [(1, 0), (2, 0)]
    assert str(source.row_error(rows[1], "no", column="text")) == "the table, row 2, column 'text': no"


@pytest.mark.parametrize("make", [polars, pandas])
def test_table_source_reads_data_frames_without_pyarrow(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their rows; each value of JSON that is there is the same."""
    frame = make()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with open_source(frame) as source:
        rows = values(list(source))
    assert [row["id"] for row in rows] == [1, 2]
    assert rows[0]["text"] == "é"
    assert list(rows[0]["list"]) == [1]


def test_table_source_reads_columns_of_mixed_types() -> None:
    """Of pandas, for which Arrow has no type."""
    frame = pytest.importorskip("pandas").DataFrame({"x": [1, "a", [2]]})
    with open_source(frame) as source:
        assert values(list(source)) == [{"x": 1}, {"x": "a"}, {"x": [2]}]


@pytest.mark.parametrize("make", [arrow, polars, pandas])
def test_table_source_types_are_kept_in_parquet(tmp_path: Path, make: Callable[[], Any]) -> None:
    """As those of a Parquet file are."""
    data = make()
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    with open_source(data) as source, open_sink(path, columns=source.columns, source=source) as sink:
        for row in source:
            sink.write(row.values, "out")
        assert sink.rows_short == 0
    schema = pq.read_schema(path)
    assert "timestamp" in str(schema.field("when").type)
    assert "list" in str(schema.field("list").type)
    assert pq.read_table(path).select(["id", "text", "when", "list"]).to_pylist() == ROWS


def test_table_source_of_dicts_may_have_more_keys_later() -> None:
    """Found in a sequence before its rows are read; of a generator those that come soon are."""
    rows: list[Any] = [{"a": 1}, {"a": 2, "b": 3}]
    with open_source(rows) as source:
        assert source.columns == ("a",)
        assert source.survey() == ("a", "b")
        required_columns(source, ["b"])
    with open_source(iter(rows)) as source:
        required_columns(source, ["b"])
        assert values(list(source)) == rows


def test_table_source_row_that_is_no_mapping_is_a_bad_row() -> None:
    """Unless it is the first: then the object is refused, as one is that has no rows."""
    rows: list[Any] = [{"a": 1}, "b", {"a": 3}]
    with open_source(rows) as source:
        first, bad, last = source
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert isinstance(bad, BadRow)
    assert bad.number == 2
    for data in ([1], 1, {"a": 1}, b"a.csv", None):
        with pytest.raises(InputError, match=r"rows cannot be read from|a row must be a mapping"):
            open_source(data)


def test_table_source_is_read_in_pieces() -> None:
    """A table of one large batch is not turned into Python's objects at once."""
    pa: Any = pytest.importorskip("pyarrow")
    table = pa.table({"x": pa.array([str(number) * 20 for number in range(200_000)])})
    tracemalloc.start()
    with open_source(table) as source:
        count = sum(1 for _ in source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 200_000
    assert peak < 2_000_000


def test_table_source_names_the_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Arrow table without pyarrow to read it has no rows."""

    class Capsule:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            raise AssertionError

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"Capsule needs pyarrow: install batchrt\[parquet\]"):
        open_source(Capsule())
