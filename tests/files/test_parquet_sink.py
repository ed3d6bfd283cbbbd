"""Parquet sinks: one schema, whatever the values are, and no good row lost."""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from batchrt.errors import InputError
from batchrt.files import open_sink, open_source, parquet_sink
from batchrt.files.cells import json_text
from tests.files.files import write
from tests.files.test_parquet_source import NOON, table

pa: Any = pytest.importorskip("pyarrow")
pq: Any = pytest.importorskip("pyarrow.parquet")


def rows_written(path: Path, rows: list[dict[str, Any]], **options: Any) -> Any:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open_sink(path, columns=columns, **options) as sink:
        for row in rows:
            sink.write(row, "out")
    return pq.read_table(path)


def test_parquet_sink_writes_outputs_as_text(tmp_path: Path) -> None:
    """An object is JSON text; an error has its column."""
    path = tmp_path / "a.parquet"
    with open_sink(path, columns=["id"], finish_reasons=True) as sink:
        assert sink.format == "parquet"
        sink.write({"id": 1}, {"tags": ["ü"]}, finish_reason="stop")
        sink.write({"id": 2}, error=ValueError("no\n  luck"))
        sink.write({"id": 3}, "half \ud83d")
        sink.flush()
    found = pq.read_table(path)
    assert found.schema == pa.schema(
        [("id", pa.int64()), *((name, pa.string()) for name in ("output", "error", "finish_reason"))]
    )
    assert found.to_pylist() == [
        {"id": 1, "output": '{"tags": ["ü"]}', "error": None, "finish_reason": "stop"},
        {"id": 2, "output": None, "error": "ValueError: no luck", "finish_reason": None},
        {"id": 3, "output": "half \ufffd", "error": None, "finish_reason": None},
    ]


@pytest.mark.parametrize(
    ("given", "kind", "stored"),
    [
        ([None, "a"], "string", [None, "a"]),
        ([None, None], "string", [None, None]),
        ([1, None, -(2**63) + 1], "int64", [1, None, -(2**63) + 1]),
        ([1, 2**63], "string", ["1", str(2**63)]),
        ([1, 0.5], "double", [1.0, 0.5]),
        ([2**60 + 1, 0.5], "string", [str(2**60 + 1), "0.5"]),
        ([True, None], "bool", [True, None]),
        ([True, 1], "string", ["true", "1"]),
        ([1, "a"], "string", ["1", "a"]),
        ([[1], {"a": None}], "string", ["[1]", '{"a": null}']),
        (["a\0b", "\ud83d"], "string", ["a\0b", "\ufffd"]),
    ],
    ids=str,
)
def test_parquet_sink_types_the_columns_of_json(
    tmp_path: Path, given: list[Any], kind: str, stored: list[Any]
) -> None:
    """A column that begins with null, or mixes types, is one of strings; nothing is dropped."""
    found = rows_written(tmp_path / "a.parquet", [{"x": value} for value in given])
    assert str(found.schema.field("x").type) == kind
    assert found.column("x").to_pylist() == stored


def test_parquet_sink_keeps_keys_that_the_first_row_lacks(tmp_path: Path) -> None:
    """A row without a key has null."""
    found = rows_written(tmp_path / "a.parquet", [{"a": 1}, {"b": "x"}])
    assert found.select(["a", "b"]).to_pylist() == [{"a": 1, "b": None}, {"a": None, "b": "x"}]


def test_parquet_sink_leaves_out_a_late_value_of_another_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says so; the row and its answer are written, and strings take any value."""
    monkeypatch.setattr(parquet_sink, "_GROUP_ROWS", 2)
    path = tmp_path / "a.parquet"
    with open_sink(path, columns=["n", "s"]) as sink:
        for number, text in [(1, None), (2, None), ("three", 3), (4, [5]), (5, None)]:
            sink.write(
                {"n": number, "s": text, "unknown": 1} if number == 5 else {"n": number, "s": text}, "out"
            )
        assert (sink.rows_short, sink.left_out) == (2, {"n", "unknown"})
    found = pq.read_table(path)
    assert found.column("n").to_pylist() == [1, 2, None, 4, 5]
    assert found.column("s").to_pylist() == [None, None, "3", "[5]", None]
    assert found.column("output").to_pylist() == ["out"] * 5


def test_parquet_sink_keeps_the_types_of_a_parquet_source(tmp_path: Path) -> None:
    """Every one, to the nanosecond; also where the first values are null."""
    given = {
        "null": pa.array([None, None], pa.null()),
        "word": pa.array([None, "b"], pa.dictionary(pa.int32(), pa.string())),
        "when": pa.array([None, 1764331200123456789], pa.timestamp("ns")),
        "zone": pa.array([1764331200123456789, NOON], pa.timestamp("ns", "Europe/Berlin")),
        "list": pa.array([None, [{"a": 1}, {"a": None}]], pa.list_(pa.struct([("a", pa.int8())]))),
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int32())),
        "money": pa.array([None, 1], pa.decimal128(30, 4)),
        "bytes": pa.array([None, b"\xff"], pa.binary()),
        "day": pa.array([None, 3], pa.date32()),
        "time": pa.array([None, 3000], pa.time64("ns")),
        "wait": pa.array([None, 3000], pa.duration("us")),
        "vector": pa.array([None, [1, 2]], pa.list_(pa.float32(), 2)),
        "nan": pa.array([float("nan"), None], pa.float32()),
        "big": pa.array([None, 2**64 - 1], pa.uint64()),
    }
    path, out = table(tmp_path / "a.parquet", given), tmp_path / "b.parquet"
    with open_source(path) as source, open_sink(out, columns=source.columns, source=source) as sink:
        for row in source:
            sink.write(row.values, "out")
        assert sink.rows_short == 0
    before, after = pq.read_table(path), pq.read_table(out)
    assert after.schema.types[: len(given)] == before.schema.types
    nan = after.column("nan").to_pylist()
    assert nan[0] != nan[0]
    assert after.select([name for name in given if name != "nan"]).equals(before.drop_columns(["nan"]))


def test_parquet_sink_of_a_source_without_nulls_may_have_them(tmp_path: Path) -> None:
    """A row that could not be read has no values."""
    path = tmp_path / "a.parquet"
    schema = pa.schema([pa.field("x", pa.int64(), nullable=False)])
    pq.write_table(pa.table({"x": [1]}, schema=schema), path)
    with open_source(path) as source, open_sink(tmp_path / "b.parquet", columns=["x"], source=source) as sink:
        sink.write({}, error="row 1 is damaged")
    assert pq.read_table(tmp_path / "b.parquet").column("x").to_pylist() == [None]


def test_parquet_sink_of_a_csv_has_strings(tmp_path: Path) -> None:
    """Rows and columns as in the file."""
    path, out = write(tmp_path, "a.csv", "id,text\n1,\n02,é\n"), tmp_path / "b.parquet"
    with open_source(path) as source, open_sink(out, columns=source.columns, source=source) as sink:
        for row in source:
            sink.write(row.values, "out")
    assert pq.read_table(out).select(["id", "text"]).to_pylist() == [
        {"id": "1", "text": ""},
        {"id": "02", "text": "é"},
    ]


def test_parquet_sink_without_rows_can_be_read(tmp_path: Path) -> None:
    """With its columns."""
    with open_sink(tmp_path / "a.parquet", columns=["id"]):
        pass
    assert pq.read_table(tmp_path / "a.parquet").column_names == ["id", "output", "error"]


def test_parquet_sink_writes_in_groups(tmp_path: Path) -> None:
    """Memory does not grow with rows, whose texts are long here."""
    path = tmp_path / "a.parquet"
    with open_sink(path, columns=["id"]) as sink:
        sink.write({"id": 0}, "x")
        tracemalloc.start()
        for number in range(1000):
            sink.write({"id": number}, f"{number:06}" * 50_000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 100 << 20
    assert pq.ParquetFile(path).metadata.num_row_groups > 5


def test_parquet_sink_on_stdout_or_compressed_is_refused(tmp_path: Path) -> None:
    """Before anything is written."""
    with pytest.raises(InputError, match="name a file"):
        open_sink("-", columns=[], format="parquet")
    with pytest.raises(InputError, match="leave .zst out"):  # noqa: RUF043
        open_sink(tmp_path / "a.parquet.zst", columns=[])
    with pytest.raises(InputError, match="Parquet has none"):
        open_sink(tmp_path / "a.parquet", columns=[], delimiter=";")
    assert list(tmp_path.iterdir()) == []


def test_parquet_sink_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra; no file is made."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"install batchrt\[parquet\], or write .csv or .jsonl"):
        open_sink(tmp_path / "a.parquet", columns=[])
    assert list(tmp_path.iterdir()) == []


def test_parquet_sink_is_read_back(tmp_path: Path) -> None:
    """By a source, for a second run."""
    path = tmp_path / "a.parquet"
    with open_sink(path, columns=["id"]) as sink:
        sink.write({"id": 1}, "x")
    with open_source(path) as source:
        assert [row.values for row in source] == [{"id": 1, "output": "x", "error": None}]


def test_parquet_sink_restores_values_that_have_been_json(tmp_path: Path) -> None:
    """As those out of a journal: times and decimals are text there."""
    given = {
        "when": pa.array([None, 1764331200123456789], pa.timestamp("ns")),
        "zone": pa.array([NOON, None], pa.timestamp("us", "UTC")),
        "money": pa.array([None, 1], pa.decimal128(30, 4)),
        "day": pa.array([None, 3], pa.date32()),
        "time": pa.array([None, 3_000_000], pa.time64("us")),
        "wait": pa.array([None, 3_000_000], pa.duration("us")),
        "list": pa.array(
            [None, [{"a": NOON, "b": None}]],
            pa.list_(pa.struct([("a", pa.timestamp("us")), ("b", pa.int8())])),
        ),
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.decimal128(9, 2))),
        "bytes": pa.array([b"abc", None], pa.binary()),
    }
    path, out = table(tmp_path / "a.parquet", given), tmp_path / "b.parquet"
    with open_source(path) as source, open_sink(out, columns=source.columns, source=source) as sink:
        for row in source:
            sink.write(json.loads(json_text(row.values)), "out")
        assert (sink.rows_short, sink.left_out) == (0, set())
    assert pq.read_table(out).select(list(given)).equals(pq.read_table(path))
