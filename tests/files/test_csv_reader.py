"""CSV and TSV reader: round trips, and faults that cost their own row only."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrt.files import (
    BadRow,
    Row,
    open_source,
)
from batchrt.files import csv_reader as delimited_module
from batchrt.files.csv_reader import CsvReader
from tests.files.files import AWKWARD, only_bad, read, refuse, values, write


def test_csv_reader_numbers_rows_and_lines(tmp_path: Path) -> None:
    """Rows count from 1 without the header; lines are the file's, quoted line ends included."""
    path = write(tmp_path, "a.csv", 'id,text\n1,"one\ntwo"\n\n2,"x, ""y"""\n')
    with open_source(path) as source:
        assert source.columns == ("id", "text")
        assert source.format == "csv"
        assert list(source) == [
            Row(1, 2, {"id": "1", "text": "one\ntwo"}),
            Row(2, 5, {"id": "2", "text": 'x, "y"'}),
        ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff", "\ufeff\ufeff"])
def test_csv_reader_accepts_all_line_ends_and_byte_order_marks(tmp_path: Path, end: str, mark: str) -> None:
    """A byte order mark is no part of a name."""
    path = write(tmp_path, "a.csv", mark + end.join(["id,text", "1,a", "2,é", ""]))
    assert read(path) == [Row(1, 2, {"id": "1", "text": "a"}), Row(2, 3, {"id": "2", "text": "é"})]


@pytest.mark.parametrize("name", ["a.tsv", "A.TSV", "a.tsv.gz"])
def test_csv_reader_reads_tsv(tmp_path: Path, name: str) -> None:
    """TSV separates by tabs, quotes as CSV does, and a comma is an ordinary character."""
    content = b'id\ttext\n1\ta,b\n2\t"tab\there"\n'
    path = write(tmp_path, name, gzip.compress(content) if name.endswith("gz") else content)
    assert values(read(path)) == [{"id": "1", "text": "a,b"}, {"id": "2", "text": "tab\there"}]


def test_csv_reader_accepts_fields_above_the_csv_modules_limit(tmp_path: Path) -> None:
    """The module's default is 131,072 characters."""
    long = "x" * 300_000
    path = write(tmp_path, "a.csv", f'id,text\n1,{long}\n2,"{long}\n"\n')
    assert [len(row["text"]) for row in values(read(path))] == [300_000, 300_001]


def test_csv_reader_accepts_a_header_without_rows(tmp_path: Path) -> None:
    """A table without rows is a table."""
    with open_source(write(tmp_path, "a.csv", "\n\nid,text")) as source:
        assert source.columns == ("id", "text")
        assert list(source) == []


def test_csv_reader_tells_blank_lines_from_blank_values(tmp_path: Path) -> None:
    """In a file of one column a line of blanks is a value, an empty line is none."""
    path = write(tmp_path, "a.csv", 'text\n\n  \n""\n')
    assert values(read(path)) == [{"text": "  "}, {"text": ""}]
    wide = write(tmp_path, "b.csv", "a,b\n   \n1,2\n")
    assert read(wide) == [Row(1, 3, {"a": "1", "b": "2"})]


def test_csv_reader_names_columns_without_a_name(tmp_path: Path) -> None:
    """For pandas' index and a spreadsheet's spare separators."""
    with open_source(write(tmp_path, "a.csv", ",text,,\n0,a,,\n")) as source:
        assert source.columns == ("column_1", "text", "column_3", "column_4")
        assert next(source).values["column_1"] == "0"


def test_csv_reader_refuses_a_column_named_twice(tmp_path: Path) -> None:
    """The error names both positions."""
    error = refuse(write(tmp_path, "a.csv", "id,text,id\n1,2,3\n"))
    assert error.column == "id"
    assert "columns 1 and 3 are both called 'id'" in str(error)


def test_csv_reader_reads_a_row_at_a_time() -> None:
    """No line is read before its row is requested: for live pipes and huge files."""
    pulled: list[int] = []

    def lines() -> Iterator[str]:
        yield "id,text\n"
        for number in range(1_000_000):
            pulled.append(number)
            yield f'{number},"a\n'
            yield 'b"\n'

    rows = CsvReader(lines(), "x.csv", ",").rows()
    assert pulled == []
    assert next(rows).values == {"id": "0", "text": "a\nb"}
    assert next(rows).line == 4
    assert pulled == [0, 1]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (b"2", ["1 field,", "header has 3", "'b', 'c' missing"]),
        (b"2,x,y,z", ["4 fields,", "header has 3", "separator"]),
        (b'2,"x"y,z', ["text follows a closing quote"]),
        (b'2,"he said "hi"",z', ["text follows a closing quote"]),
        (b"2,x\0,y", ["column 'b'", "NUL"]),
        (b"2,x,\xe9t\xe9", ["column 'c'", "UTF-8"]),
    ],
)
def test_csv_reader_faulty_row_costs_itself_only(tmp_path: Path, row: bytes, words: list[str]) -> None:
    """The rows before and after it are read, and its error gives position and problem."""
    path = write(tmp_path, "a.csv", b"a,b,c\n1,x,y\n" + row + b"\n3,x,y\n")
    first, bad, last = read(path)
    assert [first.values["a"], last.values["a"], last.number, last.line] == ["1", "3", 3, 4]
    assert isinstance(bad, BadRow)
    assert (bad.number, bad.line, bad.error.row, bad.error.path) == (2, 3, 2, str(path))
    assert str(bad.error).startswith(f"{path}, row 2 (line 3)")
    for word in words:
        assert word in str(bad.error)


def test_csv_reader_faulty_row_keeps_its_readable_values(tmp_path: Path) -> None:
    """They identify the row in the output, as valid text."""
    content = b"id,text\n1\n2,b,c\n3,\xff\n"
    rows = read(write(tmp_path, "a.csv", content))
    assert all(isinstance(row, BadRow) for row in rows)
    assert values(rows) == [{"id": "1"}, {"id": "2", "text": "b"}, {"id": "3", "text": "\ufffd"}]
    assert [row.error.column for row in rows if isinstance(row, BadRow)] == [None, None, "text"]


def test_csv_reader_stray_quote_does_not_swallow_the_rest(tmp_path: Path) -> None:
    """An unclosed quote costs its row; every row after it is read, with its line."""
    good = "".join(f"{number},text\n" for number in range(2, 5000))
    rows = read(write(tmp_path, "a.csv", f'id,text\n1,"text\n{good}'))
    assert "never closed" in str(only_bad(rows).error)
    assert only_bad(rows).line == 2
    assert [row.line for row in rows] == list(range(2, 5001))
    assert rows[-1].values == {"id": "4999", "text": "text"}


def test_csv_reader_bounds_an_unclosed_quote(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for the end of a quote stops before it holds the whole file."""
    monkeypatch.setattr(delimited_module, "MAX_RECORD", 1000)
    pulled: list[int] = []

    def lines() -> Iterator[str]:
        yield from ("id,text\n", '0,"open\n')
        for number in range(1, 100_000):
            pulled.append(number)
            yield f"{number},text\n"

    rows = CsvReader(lines(), "x.csv", ",").rows()
    assert isinstance(next(rows), BadRow)
    assert len(pulled) < 200
    assert [next(rows).values["id"] for _ in range(500)] == [str(n) for n in range(1, 501)]


@settings(deadline=None)
@given(st.lists(st.tuples(AWKWARD, AWKWARD)), st.sampled_from(["csv", "tsv"]))
def test_csv_reader_reads_the_csv_modules_output(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], kind: str
) -> None:
    """Any table in the module's default dialects is read unchanged."""
    path = tmp_path_factory.mktemp("t") / f"a.{kind}"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, "excel-tab" if kind == "tsv" else "excel")
        writer.writerows([("a", "b"), *rows])
    assert [(row["a"], row["b"]) for row in values(read(path))] == rows


@settings(deadline=None)
@given(st.lists(st.integers(0, 99), min_size=1, max_size=30), st.data())
def test_csv_reader_one_stray_quote_costs_one_row(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], data: st.DataObject
) -> None:
    """In a plain table a stray quote costs the row it is in, and no other."""
    victim = data.draw(st.integers(0, len(numbers) - 1))
    lines = [f"{number},text" for number in numbers]
    lines[victim] = '"' + lines[victim]
    path = write(tmp_path_factory.mktemp("t"), "a.csv", "\n".join(["id,text", *lines]))
    rows = read(path)
    assert [row.number - 1 for row in rows if isinstance(row, BadRow)] == [victim]
    good = [int(row.values["id"]) for row in rows if isinstance(row, Row)]
    assert good == numbers[:victim] + numbers[victim + 1 :]
