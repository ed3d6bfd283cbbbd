"""Parquet sources: values as Python's, a batch at a time, and damage that costs only its row group."""

from __future__ import annotations

import datetime as dt
import os
import sys
import tracemalloc
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batchrt.errors import InputError
from batchrt.files import BadRow, Row, open_source, required_columns
from tests.files.files import read, refuse, values, write

pa: Any = pytest.importorskip("pyarrow")
pq: Any = pytest.importorskip("pyarrow.parquet")

NOON = dt.datetime(2025, 11, 28, 12, 0, 0, 123456, tzinfo=None)  # noqa: DTZ001  Parquet has times without zone
UTC_NOON = NOON.replace(tzinfo=dt.UTC)


def table(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_parquet_source_gives_rows(tmp_path: Path) -> None:
    """Numbered from 1, without lines; the suffix tells the format, or `format` does."""
    path = table(tmp_path / "a.parquet", {"id": [1, 2], "text": ["é\n", None]})
    with open_source(path) as source:
        assert (source.format, source.columns, source.is_table) == ("parquet", ("id", "text"), False)
        required_columns(source, ["text"])
        with pytest.raises(InputError, match="did you mean 'text'"):
            required_columns(source, ["tekst"])
        assert source.count(0) == 2
        assert source.survey() == ("id", "text")
        shares = [source.fraction_read]
        rows = []
        for row in source:
            rows.append(row)
            shares.append(source.fraction_read)
        assert shares == [0, 0.5, 1]
    assert source.fraction_read is None
    assert rows == [Row(1, 0, {"id": 1, "text": "é\n"}), Row(2, 0, {"id": 2, "text": None})]
    assert read(path.rename(tmp_path / "b.data"), format="parquet") == rows


@pytest.mark.parametrize(
    ("kind", "given", "read_as"),
    [
        (pa.null(), [None], None),
        (pa.dictionary(pa.int32(), pa.string()), ["a"], "a"),
        (pa.large_string(), ["a"], "a"),
        (pa.decimal128(9, 2), [Decimal("1.20")], Decimal("1.20")),
        (pa.binary(), [b"\xff\0"], b"\xff\0"),
        (pa.binary(2), [b"ab"], b"ab"),
        (pa.timestamp("ns"), [NOON], NOON),
        (pa.timestamp("us", "UTC"), [UTC_NOON], UTC_NOON),
        (pa.timestamp("ns"), [1764331200123456789], "2025-11-28T12:00:00.123456789"),
        (pa.date32(), [dt.date(2025, 1, 2)], dt.date(2025, 1, 2)),
        (pa.time64("ns"), [3723000000000], dt.time(1, 2, 3)),
        (pa.duration("ns"), [1_000_001_000], dt.timedelta(seconds=1, microseconds=1)),
        (pa.list_(pa.struct([("a", pa.timestamp("ns"))])), [[{"a": 1764331200123456789}]], [{"a": NOON}]),
        (pa.struct([("x", pa.list_(pa.int8()))]), [{"x": [1, None]}], {"x": [1, None]}),
        (pa.map_(pa.string(), pa.int32()), [[("k", 1)]], [("k", 1)]),
        (pa.list_(pa.float32(), 2), [[0.5, 1]], [0.5, 1.0]),
        (pa.bool_(), [True], True),
        (pa.uint64(), [2**64 - 1], 2**64 - 1),
    ],
    ids=str,
)
def test_parquet_source_values_are_pythons(tmp_path: Path, kind: Any, given: list[Any], read_as: Any) -> None:
    """Whether pandas, which has times of its own, is installed or not."""
    path = table(tmp_path / "a.parquet", {"x": pa.array([*given, None], kind)})
    [first, second] = values(read(path))
    assert first["x"] == read_as
    assert type(first["x"]) is type(read_as)
    assert second["x"] is None


def test_parquet_source_value_without_a_form_in_python_is_a_fault_of_its_row(tmp_path: Path) -> None:
    """The values beside it and the rows around it are good."""
    raw = pa.array([b"good", b"caf\xe9", b"fine"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    dates = pa.array([1, 2, 2**52], pa.int64()).cast(pa.timestamp("ms"))
    rows = read(table(tmp_path / "a.parquet", {"id": [1, 2, 3], "text": text, "when": dates}))
    assert [row.values["id"] for row in rows] == [1, 2, 3]
    assert [row.values["text"] for row in rows] == ["good", None, "fine"]
    faults = [row.faults for row in rows if isinstance(row, Row)]
    assert faults[0] is None
    assert faults[1] is not None
    assert str(faults[1]["text"]).startswith(
        f"{tmp_path}/a.parquet, row 2, column 'text': the text is not UTF-8"
    )
    assert faults[2] is not None
    assert "cannot be read" in str(faults[2]["when"])


def test_parquet_source_that_is_damaged_loses_one_row_group(tmp_path: Path) -> None:
    """The error names its rows, and the groups after it are read."""
    path = table(
        tmp_path / "a.parquet", {"x": [os.urandom(20).hex() for _ in range(300)]}, row_group_size=100
    )
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(content)
    with open_source(path) as source:
        rows = list(source)
        assert source.is_broken
        assert source.fraction_read == 1
    assert [row.number for row in rows] == [*range(1, 102), *range(201, 301)]
    [bad] = [row for row in rows if isinstance(row, BadRow)]
    assert bad.number == 101
    assert "a.parquet, row 101: cannot be read, nor the rows after it to row 200" in str(bad.error)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100), b"id\n1\n"])
def test_parquet_source_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    """As one that was not finished is, since it lacks the footer."""
    assert "no Parquet file, or one that was not finished" in str(
        refuse(write(tmp_path, "a.parquet", content))
    )


def test_parquet_source_names_must_differ(tmp_path: Path) -> None:
    """As in a CSV; a column without a name is called after its position."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([[1], [2]], names=["x", "x"]), path)
    assert "columns 1 and 2 are both called 'x'; rename one" in str(refuse(path))
    pq.write_table(pa.table([[1], [2]], names=["x", ""]), path)
    assert values(read(path)) == [{"x": 1, "column_2": 2}]
    pq.write_table(pa.table({}), path)
    assert "there are no columns" in str(refuse(path))


def test_parquet_source_without_rows_has_columns(tmp_path: Path) -> None:
    """It is no error."""
    path = table(tmp_path / "a.parquet", {"x": pa.array([], pa.string())})
    with open_source(path) as source:
        assert source.columns == ("x",)
        assert list(source) == []


def test_parquet_source_from_a_pipe_is_refused(tmp_path: Path) -> None:
    """It is read from its end. And it is not compressed as a whole."""
    assert "name a file" in str(refuse("-", format="parquet"))
    assert "leave .gz out" in str(refuse(tmp_path / "a.parquet.gz"))
    pipe = tmp_path / "p"
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR)
    try:
        assert "not a pipe" in str(refuse(pipe, format="parquet"))
    finally:
        os.close(descriptor)


def test_parquet_source_named_csv_is_recognised(tmp_path: Path) -> None:
    """With the remedy."""
    path = table(tmp_path / "a.csv", {"x": [1]})
    assert "add `format` parquet" in str(refuse(path))


def test_parquet_source_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra."""
    path = table(tmp_path / "a.parquet", {"x": [1]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "install batchrt[parquet]" in str(refuse(path))


def test_parquet_source_memory_is_a_batch(tmp_path: Path) -> None:
    """Not a row group of 40 MB of texts, nor of 1,024 rows where each is 100 kB.

    Its pages are small here; a reader cannot hold less than a page.
    """
    texts = {"x": [os.urandom(50_000).hex() for _ in range(400)]}
    path = table(tmp_path / "a.parquet", texts, use_dictionary=False, write_batch_size=8)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    most = 0
    with open_source(path) as source:
        for _ in source:
            most = max(most, pa.total_allocated_bytes() - before)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20 << 20
    assert peak < 20 << 20
