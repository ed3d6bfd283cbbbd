"""Hostile files: each kind ends as `docs/files.md` says, and good rows come through to every format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchrt.errors import InputError
from batchrt.files import BadRow, Row, open_sink, open_source
from tests.files.files import read, refuse, values, write

OUTPUTS = ["out.csv", "out.tsv", "out.jsonl", "out.parquet", "out.csv.gz", "out.jsonl.zst"]

AWKWARD = [
    'quotes " and ""',
    "line\nend\r\nand\rmore",
    "comma, tab\t; |",
    "=1+1",
    "",
    " spaces ",
    "é 😀 \u2028",
    "null",
    "\\",
    "﻿mark",
]


def copied(source_path: Path, out: Path) -> tuple[list[Row | BadRow], list[dict[str, Any]]]:
    """Write the rows of one file to another; return them, and what can be read of that."""
    rows = []
    with (
        open_source(source_path) as source,
        open_sink(out, columns=source.survey(), source=source) as sink,
    ):
        for row in source:
            rows.append(row)
            sink.write(row.values, "answer", row.error if isinstance(row, BadRow) else None)
    return rows, values(read(out))


@pytest.mark.parametrize("out", OUTPUTS)
def test_hostile_texts_come_through(tmp_path: Path, out: str) -> None:
    """From each format to each other, and as answers."""
    lines = "".join(json.dumps({"id": str(n), "x": text}) + "\n" for n, text in enumerate(AWKWARD))
    path = write(tmp_path, "in.jsonl", lines)
    for target in (tmp_path / out, tmp_path / f"again-{out}"):
        _, found = copied(path, target)
        assert [row["x"] for row in found] == AWKWARD
        assert [row["id"] for row in found] == [str(n) for n in range(len(AWKWARD))]
        path = tmp_path / f"x-{out}"  # now from this format, in which the texts were answers
        if not path.exists():
            with open_sink(path, columns=["id"], output_column="x") as sink:
                for n, text in enumerate(AWKWARD):
                    sink.write({"id": str(n)}, text)


@pytest.mark.parametrize(
    ("content", "good"),
    [
        (b'id,x\n1,a\n2\n3,c,d\n4,"e\n5,f\n', ["1", "5"]),
        (b'id,x\n1,a\n2,"b"c\n3,d\n', ["1", "3"]),
        (b"id,x\n1,a\n2,b\0c\n3,d\n", ["1", "3"]),
        (b"id,x\n1,a\n2,caf\xe9\n3,d\n", ["1", "3"]),
        (b"id,x\r1,a\r\r2,b\r", ["1", "2"]),
        (b"\xef\xbb\xbf\xef\xbb\xbfid,x\n1,a\n", ["1"]),
    ],
)
@pytest.mark.parametrize("out", OUTPUTS)
def test_hostile_records_cost_only_themselves(
    tmp_path: Path, content: bytes, good: list[str], out: str
) -> None:
    """Each faulty record is a row of the output with its error, in its place."""
    rows, found = copied(write(tmp_path, "in.csv", content), tmp_path / out)
    assert [row.values["id"] for row in rows if isinstance(row, Row)] == good
    assert len(found) == len(rows)
    for row, written in zip(rows, found, strict=True):
        error = written["error"]
        assert bool(error) == isinstance(row, BadRow)
        assert not error or f"in.csv, row {row.number} (line {row.line})" in error


@pytest.mark.parametrize(
    "line",
    [b"nonsense", b"[1]", b'{"id": 2', b'{"id": "\xff"}', b'"text"', b"null", b"{}{}", b"\0", b"[" * 9999],
)
@pytest.mark.parametrize("out", OUTPUTS)
def test_hostile_lines_cost_only_themselves(tmp_path: Path, line: bytes, out: str) -> None:
    """In the middle of JSONL."""
    content = b'{"id": 1}\n' + line + b'\n{"id": 3}\n'
    rows, found = copied(write(tmp_path, "in.jsonl", content), tmp_path / out)
    assert [type(row) for row in rows] == [Row, BadRow, Row]
    assert [str(row["id"]) for row in (found[0], found[2])] == ["1", "3"]
    assert "in.jsonl, row 2 (line 2)" in found[1]["error"]


@pytest.mark.parametrize(
    ("name", "out"), [("in.csv", "out.parquet"), ("in.jsonl", "out.csv"), ("in.parquet", "out.jsonl")]
)
def test_hostile_field_of_50_megabytes_comes_through(tmp_path: Path, name: str, out: str) -> None:
    """With the rows around it."""
    path, big = tmp_path / name, "é" * (25 << 20)
    with open_sink(path, columns=["id"], output_column="x") as sink:
        for number, text in enumerate(["a", big, "b"]):
            sink.write({"id": number}, text)
    rows, found = copied(path, tmp_path / out)
    assert all(isinstance(row, Row) for row in rows)
    assert [len(row["x"]) for row in found] == [1, 25 << 20, 1]
    assert found[1]["x"] == big


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("name", ["in.csv", "in.tsv", "in.parquet"])
def test_hostile_file_without_rows_is_an_output_without_rows(tmp_path: Path, name: str, out: str) -> None:
    """With the columns of both, where the format has columns."""
    path = tmp_path / name
    with open_sink(path, columns=["id"], output_column="x", error_column="e"):
        pass
    with open_source(path) as source, open_sink(tmp_path / out, columns=source.columns, source=source):
        assert list(source) == []
    if "jsonl" in out:
        assert "is empty" in str(refuse(tmp_path / out))
        return
    with open_source(tmp_path / out) as source:
        assert source.columns == ("id", "x", "e", "output", "error")


def test_hostile_names_that_are_twice_there(tmp_path: Path) -> None:
    """Refused in a header; of a JSON object the last one counts."""
    for name, content in {"a.csv": "x,y,x\n1,2,3\n", "a.tsv": "x\tx\n1\t2\n"}.items():
        assert "are both called 'x'; rename one" in str(refuse(write(tmp_path, name, content)))
    assert values(read(write(tmp_path, "a.jsonl", '{"x": 1, "x": 2}\n'))) == [{"x": 2}]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp1252"])
def test_hostile_encodings_are_refused_or_named(tmp_path: Path, encoding: str) -> None:
    """At once, or at the row that shows it; with the encoding named, all rows are good."""
    path = write(tmp_path, "a.csv", "id,text\n1,é\n2,b\n".encode(encoding))
    try:
        rows = read(path)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert any(isinstance(row, BadRow) and "UTF-8" in str(row.error) for row in rows)
    assert values(read(path, encoding=encoding)) == [{"id": "1", "text": "é"}, {"id": "2", "text": "b"}]
