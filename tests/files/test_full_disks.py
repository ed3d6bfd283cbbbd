"""Files on a full disk: the rows written before can be read."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from batchrt.files import OutputError, open_sink, open_source, open_vector_sink, parquet_file
from batchrt.files import output_file as outlets
from batchrt.files.vectors import parquet

WIDTH = 64


def vector(number: int) -> bytes:
    """Return an incompressible vector that begins with `number`."""
    return struct.pack("<f", number) + random.Random(number).randbytes(4 * (WIDTH - 1))


@pytest.fixture(params=[2000, 30_000, 50_000, 123_456, 250_000])
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Limit the size of any file."""
    most = int(request.param)

    def allocate(stream: io.FileIO, start: int, size: int) -> None:
        if start + size > most:
            raise OSError(errno.ENOSPC, "No space left on device")

    def write_all(stream: Any, data: bytes) -> None:
        left = most - os.fstat(stream.fileno()).st_size
        stream.write(data[: max(0, left)])
        if len(data) > left:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parquet_file, "_allocate", allocate)
    monkeypatch.setattr(outlets, "write_all", write_all)
    return most


def test_full_disk_leaves_a_readable_table(
    tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the rows that fit, in order, and not cut within a group."""
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(parquet, "_GROUP_ROWS", 200)
    for name, value in {"_GROUP_OVERHEAD": 512, "_CONTENTS": 4096}.items():
        monkeypatch.setattr(parquet_file, name, value)
    path = tmp_path / "a.parquet"
    sink = open_vector_sink(path, columns={"id": int, "s": str})
    with pytest.raises(OutputError, match=r"no space left.*the file has the first [\d,]+ rows"):
        for number in range(2000):
            sink.write({"id": number, "s": f"row {number}"}, vector(number))
    with pytest.raises(OutputError):
        sink.write({"id": 0, "s": ""}, vector(0))
    sink.close()
    table = pq.read_table(path)
    assert table.column("id").to_pylist() == [*range(table.num_rows)]
    assert [row[0] for row in table.column("embedding").to_pylist()] == [*range(table.num_rows)]
    assert path.stat().st_size <= max(room, 8000)
    assert table.num_rows * WIDTH * 4 > 0.5 * room - 20_000


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv"])
def test_full_disk_leaves_whole_rows(tmp_path: Path, room: int, name: str) -> None:
    """Also where a row has several lines."""
    path = tmp_path / name
    sink = open_sink(path, columns=["n"])
    with pytest.raises(OutputError, match="no space left"):
        for number in range(20_000):
            sink.write({"n": str(number)}, "first line\nsecond, é line")
    sink.close()
    with open_source(path) as source:
        rows = [row.values for row in source]
    assert [row["n"] for row in rows] == [str(number) for number in range(len(rows))]
    assert all(row["output"] == "first line\nsecond, é line" for row in rows)
    assert len(rows) > room / 100 - 50


def test_full_disk_does_not_truncate_stdout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a file that others write to."""
    path = tmp_path / "log"
    path.write_text("precious\n")

    def refuse(stream: Any, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outlets, "write_all", refuse)
    with path.open("a") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        sink = open_sink("-", columns=[])
        sink.write({}, "x")
        with pytest.raises(OutputError):
            sink.flush()
        sink.close()
    assert path.read_text() == "precious\n"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("caf\ud83d", "caf\ufffd"),
        ("\ude00x", "\ufffdx"),
        ("\ud83d\ude00", "😀"),
        ("caf\udce9.csv", "caf\ufffd.csv"),
        ({"a": "\ud83d"}, '{"a": "\ufffd"}'),
        ("a\0b", "a\0b"),
        ("x" * 100_000, "x" * 100_000),
    ],
)
@pytest.mark.parametrize("early", [True, False])
def test_parquet_stores_values_of_all_kinds(tmp_path: Path, given: Any, kept: str, early: bool) -> None:
    """In an id and in an error, before the first vector and after it."""
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    with open_vector_sink(path, columns={"id": str}) as sink:
        if not early:
            sink.write({"id": "first"}, vector(1))
        sink.write({"id": given}, None, json.dumps(given) if isinstance(given, dict) else given)
        sink.write({"id": "last"}, vector(2))
    rows = pq.read_table(path).to_pylist()
    assert rows[-2]["id"] == kept
    assert rows[-1]["id"] == "last"


def test_parquet_refuses_an_unstorable_value_alone(tmp_path: Path) -> None:
    """Before it is among the others."""
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    with open_vector_sink(path, columns={"n": int}) as sink:
        for number in (1, 2**63, "x", 1.5, -(2**63) + 1):
            if isinstance(number, int) and abs(number) < 2**63:
                sink.write({"n": number}, vector(1))
            else:
                with pytest.raises(ValueError, match="integers of 64 bits"):
                    sink.write({"n": number}, vector(1))
    assert pq.read_table(path).column("n").to_pylist() == [1, -(2**63) + 1]
