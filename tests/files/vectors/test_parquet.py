"""Parquet sink: a table of vectors."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from batchrt.files import OutputError, open_vector_sink
from batchrt.files.vectors import parquet

pq = pytest.importorskip("pyarrow.parquet")
pa = pytest.importorskip("pyarrow")


def vector(number: float) -> bytes:
    return struct.pack("<3f", number, number, number)


def test_parquet_columns_have_types(tmp_path: Path) -> None:
    """Integers are integers, everything else is text; vectors are of a fixed size."""
    path = tmp_path / "a.parquet"
    with open_vector_sink(path, columns={"n": int, "s": str}) as sink:
        sink.write({"n": 1, "s": "x"}, vector(1))
        sink.write({"n": None, "s": {"a": [1]}}, None, "no")
        sink.write({"s": 7}, vector(2))
    table = pq.read_table(path)
    assert table.schema == pa.schema(
        [
            ("n", pa.int64()),
            ("s", pa.string()),
            ("embedding", pa.list_(pa.field("element", pa.float32()), 3)),
            ("error", pa.string()),
        ]
    )
    assert table.to_pylist() == [
        {"n": 1, "s": "x", "embedding": [1, 1, 1], "error": None},
        {"n": None, "s": '{"a": [1]}', "embedding": None, "error": "no"},
        {"n": None, "s": "7", "embedding": [2, 2, 2], "error": None},
    ]


def test_parquet_without_vectors_has_lists_of_any_size(tmp_path: Path) -> None:
    """Unless the size is known."""
    for width, expected in ((None, pa.list_(pa.float32())), (3, pa.list_(pa.float32(), 3))):
        path = tmp_path / f"{width}.parquet"
        with open_vector_sink(path, columns={"id": int}, width=width) as sink:
            sink.write({"id": 1}, None, "no")
        table = pq.read_table(path)
        assert table.schema.field("embedding").type.equals(expected)
        assert table.to_pylist() == [{"id": 1, "embedding": None, "error": "no"}]


def test_parquet_writes_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many rows, and in order."""
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 120)
    path = tmp_path / "a.parquet"
    with open_vector_sink(path, columns={"id": int}) as sink:
        for number in range(95):
            sink.write({"id": number}, vector(number))
            sink.flush()
    file = pq.ParquetFile(path)
    assert file.metadata.num_row_groups == 10
    assert file.read().column("id").to_pylist() == [*range(95)]
    assert [row[0] for row in file.read().column("embedding").to_pylist()] == [*range(95)]


def test_parquet_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for rows that failed before the width was known."""
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 1 << 18)
    monkeypatch.setattr(parquet, "_GROUP_ROWS", 1000)
    monkeypatch.setattr(parquet, "_IN_MEMORY", 1 << 16)
    with open_vector_sink(tmp_path / "a.parquet", columns={"id": str}) as sink:
        sink.write({"id": "0"}, None, "no")
        tracemalloc.start()
        for number in range(10_000):
            sink.write({"id": str(number)}, None, f"error {number} " + "x" * 200)
        for number in range(1000):
            sink.write({"id": str(number)}, bytes(4096))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 << 20
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.num_rows == 11_001
    assert table.column("embedding").null_count == 10_001
    assert table.column("error")[10_000].as_py().startswith("error 9999 xxx")


def test_parquet_is_not_written_to_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And closing it raises nothing."""
    monkeypatch.setattr(parquet, "_GROUP_ROWS", 1)
    sink: Any = open_vector_sink(tmp_path / "a.parquet", columns={})
    sink.write({}, vector(1))

    def fail(_table: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sink._file._writer, "write_table", fail)
        with pytest.raises(OutputError, match="no space left on device"):
            sink.write({}, vector(2))
        with pytest.raises(OutputError):
            sink.write({}, vector(3))
        sink.close()
