"""JSONL reader: JSON's types are kept, and faults cost their own row only."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchrt.files import (
    BadRow,
    Row,
    open_source,
)
from batchrt.files.jsonl_reader import read_jsonlines
from tests.files.files import only_bad, read, refuse, write


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz"])
def test_jsonl_reader_keeps_json_types(tmp_path: Path, name: str) -> None:
    """Blank lines are skipped, and keys may differ from row to row."""
    content = '\ufeff{"id": 1, "tags": ["a"], "x": null}\r\n\n  \n{"id": 2.5, "y": "\u2028"}'.encode()
    path = write(tmp_path, name, gzip.compress(content) if name.endswith("gz") else content)
    with open_source(path) as source:
        assert source.columns == ("id", "tags", "x")
        assert list(source) == [
            Row(1, 1, {"id": 1, "tags": ["a"], "x": None}),
            Row(2, 4, {"id": 2.5, "y": "\u2028"}),
        ]


def test_jsonl_reader_reads_a_row_at_a_time() -> None:
    """Only the first good row is read before it is requested."""
    pulled: list[int] = []

    def lines() -> Iterator[bytes]:
        for number in range(1_000_000):
            pulled.append(number)
            yield b'{"id": %d}\n' % number

    columns, rows = read_jsonlines(lines(), "x.jsonl")
    assert columns == ("id",)
    assert [next(rows).values["id"], next(rows).values["id"]] == [0, 1]
    assert pulled == [0, 1]


def test_jsonl_reader_refuses_a_json_list(tmp_path: Path) -> None:
    """On one line or over several, with the way to convert it."""
    one_line = write(tmp_path, "a.jsonl", '[{"id": 1}]\n')
    assert "jq -c '.[]'" in str(refuse(one_line))
    for text in ('[\n{"id": 1}\n]\n', '{\n  "id": 1\n}\n'):
        assert "over several lines" in str(refuse(write(tmp_path, "b.jsonl", text)))


def test_jsonl_reader_refuses_a_file_without_a_good_row_among_a_hundred(tmp_path: Path) -> None:
    """However long, with its first fault."""
    error = refuse(write(tmp_path, "a.jsonl", "plain text\n" * 1000))
    assert error.row == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": 2 2}', ["row 2 (line 2)", "character 10"]),
        ("plain", ["not valid JSON at character 1"]),
        ('{"id": 2', ["not valid JSON"]),
        ("[1, 2]", ["expected an object", "found a list"]),
        ("null", ["found null"]),
        ("true", ["found true or false"]),
        ("12", ["found a number"]),
        ('"text"', ["found a string"]),
        ('{"id": ' + "9" * 5000 + "}", ["too many digits"]),
        ('{"id": ' + "[" * 100_000 + "]" * 100_000 + "}", ["nested too deeply"]),
        ('{"score": NaN, "id": ' + "9" * 5000 + "}", ["NaN"]),
    ],
)
def test_jsonl_reader_faulty_row_costs_itself_only(tmp_path: Path, line: str, words: list[str]) -> None:
    """The rows around it are read; its error is one line with row and column."""
    path = write(tmp_path, "a.jsonl", f'{{"id": 1}}\n{line}\n{{"id": 3}}\n')
    first, bad, last = read(path)
    assert [first.values, last.values, last.number] == [{"id": 1}, {"id": 3}, 3]
    assert isinstance(bad, BadRow)
    assert bad.error.row == 2
    assert len(str(bad.error)) < 300 + len(str(path))
    assert "\n" not in str(bad.error)
    for word in words:
        assert word in str(bad.error)


def test_jsonl_reader_locates_invalid_utf8(tmp_path: Path) -> None:
    """The error gives the byte."""
    rows = read(write(tmp_path, "a.jsonl", b'{"id": 1}\n{"id": "\xff"}\n'))
    assert "byte 9 of the line is not UTF-8" in str(only_bad(rows).error)


def test_jsonl_reader_keeps_faulty_first_rows(tmp_path: Path) -> None:
    """The columns come from the first good row; the faulty ones before it are not lost."""
    path = write(tmp_path, "a.jsonl", '{"id": }\n{"id": 2}\n')
    with open_source(path) as source:
        assert source.columns == ("id",)
        assert [type(row) for row in source] == [BadRow, Row]
