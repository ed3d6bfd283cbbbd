"""Lines of any length, in bounded memory and linear time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.errors import InputError
from batchrt.files import BadRow, Row, lines, open_source
from batchrt.files import csv_reader as delimited
from batchrt.files import jsonl_reader as jsonlines
from tests.files.files import read, values, write


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the bound of a row to a thousand characters."""
    for module in (lines, delimited, jsonlines):
        monkeypatch.setattr(module, "MAX_RECORD", 1000)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "id,text\n1,a\n2,{}\n3,b\n"),
        ("a.csv", 'id,text\n1,a\n2,"{}"\n3,b\n'),
        ("a.csv", "id,text\r\n1,a\r\n2,{}\r\n3,b"),
        ("a.tsv", "id\ttext\n1\ta\n2\t{}\n3\tb\n"),
        ("a.jsonl", '{{"id": "1", "text": "a"}}\n{{"id": "2", "text": "{}"}}\n{{"id": "3", "text": "b"}}\n'),
        ("a.jsonl", '{{"id": "1", "text": "a"}}\n[{}\n{{"id": "3", "text": "b"}}\n'),
    ],
)
def test_lines_too_long_cost_themselves_only(tmp_path: Path, name: str, content: str) -> None:
    """Their content is not kept, and the next line is the next row."""
    rows = read(write(tmp_path, name, content.format("x" * 5000)))
    assert [type(row) for row in rows] == [Row, BadRow, Row]
    assert values(rows)[0::2] == [{"id": "1", "text": "a"}, {"id": "3", "text": "b"}]
    assert [row.line for row in rows] == ([1, 2, 3] if "jsonl" in name else [2, 3, 4])
    [bad] = [row for row in rows if isinstance(row, BadRow)]
    assert len(str(bad.error)) < 300 + len(str(tmp_path))


@pytest.mark.usefixtures("short")
def test_lines_too_long_inside_an_open_quote_are_a_separate_row(tmp_path: Path) -> None:
    """The quote costs its row, the line another."""
    rows = read(write(tmp_path, "a.csv", 'id,text\n1,"open\n2,b\n3,' + "x" * 5000 + "\n4,c\n"))
    assert [type(row) for row in rows] == [BadRow, Row, BadRow, Row]
    assert [row.line for row in rows] == [2, 3, 4, 5]


@pytest.mark.usefixtures("short")
def test_lines_without_ends_are_refused_at_once(tmp_path: Path) -> None:
    """A file without line ends is not read to its end."""
    for content in ("[" + '{"id": 1},' * 1000, '{"id": "' + "x" * 5000):
        with pytest.raises(InputError, match=r"found a list|more than 1,000 bytes"):
            open_source(write(tmp_path, "a.jsonl", content))


@pytest.mark.parametrize(
    "line",
    [
        'x","y\n',  # opens in the open state, and in the other
        'a"b","c","d\n',
        ',"\n,",\n',
        '"a""","b\n',
        'x"";"",","y\n',
        'é","\n',
        '","\n',
    ],
)
@pytest.mark.parametrize("last", ["", '"x\n', "1,2\n"])
def test_csv_reader_open_quotes_take_linear_time(
    monkeypatch: pytest.MonkeyPatch, line: str, last: str
) -> None:
    """No line is parsed more than three times, for any quotes."""
    parsed = 0
    feed = delimited.CsvReader._feed

    def counting(reader: delimited.CsvReader) -> Iterator[str]:
        nonlocal parsed
        for each in feed(reader):
            parsed += 1
            yield each

    monkeypatch.setattr(delimited.CsvReader, "_feed", counting)
    count = 2000
    text = [*("id,text\n", *line.splitlines(keepends=True) * count), last]
    rows = list(delimited.CsvReader(iter(filter(None, text)), "x.csv", ",").rows())
    assert parsed <= 3 * len(text)
    assert len(rows) >= 1


class Unhurried(delimited.CsvReader):
    """A reader without the shortcut: it searches the end of each open quote anew."""

    def _next(self) -> list[str] | None:
        self._doomed = 0
        try:
            return super()._next()
        finally:
            self._doomed = 0


@given(st.lists(st.text('",ab', max_size=5), max_size=12))
def test_csv_reader_shortcut_changes_no_row(text: list[str]) -> None:
    """For any quotes, against a slow reader."""
    given_lines = ["id,text\n", *(f"{line}\n" for line in text)]

    def rows(kind: type[delimited.CsvReader]) -> list[object]:
        found = kind(iter(given_lines), "x.csv", ",").rows()
        return [(row.number, row.line, row.values, str(getattr(row, "error", ""))) for row in found]

    assert rows(delimited.CsvReader) == rows(Unhurried)


def test_csv_reader_shortcut_keeps_good_rows(tmp_path: Path) -> None:
    """Good rows among faulty ones are read."""
    content = 'id,text\n1,"open\n2,b\nx","y\n3,c\nx","y\n4,"d"\n5,e\n'
    rows = read(write(tmp_path, "a.csv", content))
    assert [row.values.get("id") for row in rows if isinstance(row, Row)] == ["2", "3", "4", "5"]
    assert [row.line for row in rows if isinstance(row, BadRow)] == [2, 4, 6]
