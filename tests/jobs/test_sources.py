"""Rows in: what is read is what was written, and a fault costs its own row only."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.errors import InputError
from batchrt.jobs import BadRow, Row, Source, open_source, required_columns
from batchrt.jobs import delimited as delimited_module
from batchrt.jobs.delimited import DelimitedReader
from batchrt.jobs.jsonlines import read_jsonlines

EXAMPLES = Path(__file__).parents[2] / "examples"


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, **options: Any) -> list[Row | BadRow]:
    with open_source(path, **options) as source:
        return list(source)


def values(rows: list[Row | BadRow]) -> list[dict[str, Any]]:
    return [row.values for row in rows]


def only_bad(rows: list[Row | BadRow]) -> BadRow:
    [bad] = [row for row in rows if isinstance(row, BadRow)]
    return bad


def refuse(path: Path | str, **options: Any) -> InputError:
    """Give the error of a file that cannot be used; it is one line, which names the file."""
    with pytest.raises(InputError) as caught:
        open_source(path, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.path is not None
    return caught.value


def put_in_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


# Reading well-formed files


def test_reads_csv_with_row_and_line_numbers(tmp_path: Path) -> None:
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
def test_line_ends_and_byte_order_marks(tmp_path: Path, end: str, mark: str) -> None:
    """Every system's line end is understood, and a byte order mark is no part of a name."""
    path = write(tmp_path, "a.csv", mark + end.join(["id,text", "1,a", "2,é", ""]))
    assert read(path) == [Row(1, 2, {"id": "1", "text": "a"}), Row(2, 3, {"id": "2", "text": "é"})]


@pytest.mark.parametrize("name", ["a.tsv", "A.TSV", "a.tsv.gz"])
def test_reads_tsv(tmp_path: Path, name: str) -> None:
    """TSV separates by tabs, quotes as CSV does, and commas mean nothing in it."""
    content = b'id\ttext\n1\ta,b\n2\t"tab\there"\n'
    path = write(tmp_path, name, gzip.compress(content) if name.endswith("gz") else content)
    assert values(read(path)) == [{"id": "1", "text": "a,b"}, {"id": "2", "text": "tab\there"}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz"])
def test_reads_jsonl(tmp_path: Path, name: str) -> None:
    """JSON's types are kept, blank lines skipped, and keys may differ from row to row."""
    content = (
        '\ufeff{"id": 1, "tags": ["a"], "x": null}\r\n\n  \n{"id": 2.5, "y": "\u2028"}'.encode()
    )
    path = write(tmp_path, name, gzip.compress(content) if name.endswith("gz") else content)
    with open_source(path) as source:
        assert source.columns == ("id", "tags", "x")
        assert list(source) == [
            Row(1, 1, {"id": 1, "tags": ["a"], "x": None}),
            Row(2, 4, {"id": 2.5, "y": "\u2028"}),
        ]


def test_gzip_is_known_by_its_bytes(tmp_path: Path) -> None:
    """A compressed file is read whatever it is called."""
    path = write(tmp_path, "a.csv", gzip.compress(b"id\n1\n"))
    assert values(read(path)) == [{"id": "1"}]


def test_explicit_format_beats_the_suffix(tmp_path: Path) -> None:
    """`format` decides even against the suffix, and where there is none."""
    for name in ("a.txt", "a.csv", "a"):
        path = write(tmp_path, name, "id\ttext\n1\ta,b\n")
        assert values(read(path, format="tsv")) == [{"id": "1", "text": "a,b"}]


def test_fields_longer_than_the_csv_modules_limit(tmp_path: Path) -> None:
    """A field may be longer than the 131,072 characters that the csv module takes by default."""
    long = "x" * 300_000
    path = write(tmp_path, "a.csv", f'id,text\n1,{long}\n2,"{long}\n"\n')
    assert [len(row["text"]) for row in values(read(path))] == [300_000, 300_001]


def test_header_only_is_no_error(tmp_path: Path) -> None:
    """A table without rows is a table."""
    with open_source(write(tmp_path, "a.csv", "\n\nid,text")) as source:
        assert source.columns == ("id", "text")
        assert list(source) == []


def test_blank_lines_in_one_column_are_told_from_blank_values(tmp_path: Path) -> None:
    """In a file of one column a line of blanks is a value, an empty line is none."""
    path = write(tmp_path, "a.csv", 'text\n\n  \n""\n')
    assert values(read(path)) == [{"text": "  "}, {"text": ""}]
    wide = write(tmp_path, "b.csv", "a,b\n   \n1,2\n")
    assert read(wide) == [Row(1, 3, {"a": "1", "b": "2"})]


def test_columns_without_a_name_get_one(tmp_path: Path) -> None:
    """What pandas writes for its index, and a spreadsheet's spare separators, can be used."""
    with open_source(write(tmp_path, "a.csv", ",text,,\n0,a,,\n")) as source:
        assert source.columns == ("column_1", "text", "column_3", "column_4")
        assert next(source).values["column_1"] == "0"


def test_the_example_is_clean() -> None:
    """The tickets of the examples have no faulty row and are all different."""
    with open_source(EXAMPLES / "support_tickets.csv") as source:
        required_columns(source, ["id", "product", "subject", "body", "created_at"])
        rows = list(source)
    assert len(rows) == 300
    assert all(isinstance(row, Row) for row in rows)
    assert len({row.values["body"] for row in rows}) == 300


# Laziness


def test_csv_is_read_a_row_at_a_time() -> None:
    """No line is pulled before its row is asked for: a live pipe and a huge file both work."""
    pulled: list[int] = []

    def lines() -> Iterator[str]:
        yield "id,text\n"
        for number in range(1_000_000):
            pulled.append(number)
            yield f'{number},"a\n'
            yield 'b"\n'

    rows = DelimitedReader(lines(), "x.csv", ",").rows()
    assert pulled == []
    assert next(rows).values == {"id": "0", "text": "a\nb"}
    assert next(rows).line == 4
    assert pulled == [0, 1]


def test_jsonl_is_read_a_row_at_a_time() -> None:
    """Only the first good row is looked at before it is asked for."""
    pulled: list[int] = []

    def lines() -> Iterator[bytes]:
        for number in range(1_000_000):
            pulled.append(number)
            yield b'{"id": %d}\n' % number

    columns, rows = read_jsonlines(lines(), "x.jsonl")
    assert columns == ("id",)
    assert [next(rows).values["id"], next(rows).values["id"]] == [0, 1]
    assert pulled == [0, 1]


def test_fraction_read_goes_from_start_to_end(tmp_path: Path) -> None:
    """Progress through a file is known without counting its rows, compressed or not."""
    lines = "".join(f"{number},{os.urandom(20).hex()}\n" for number in range(10_000))
    for name in ("a.csv", "a.csv.gz"):
        content = f"id,text\n{lines}".encode()
        path = write(tmp_path, name, gzip.compress(content) if name.endswith("gz") else content)
        with open_source(path) as source:
            seen = [source.fraction_read for _ in source]
            shares = [share for share in seen if share is not None]
        assert len(shares) == 10_000
        assert shares == sorted(shares)
        assert shares[0] < 0.5
        assert shares[-1] == 1.0
        assert source.fraction_read is None


def test_closing_ends_the_rows(tmp_path: Path) -> None:
    """After `close` there are no more rows and the file is closed; closing twice is fine."""
    source = open_source(write(tmp_path, "a.csv", "id\n1\n2\n"))
    assert next(source).number == 1
    source.close()
    source.close()
    assert list(source) == []


# Stdin


def test_reads_stdin_and_leaves_it_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` is stdin; it is not closed, for it is not ours."""
    put_in_stdin(monkeypatch, b"id,text\n1,a\n")
    with open_source("-", format="csv") as source:
        assert source.path == "stdin"
        assert source.fraction_read is None
        assert values(list(source)) == [{"id": "1", "text": "a"}]
    assert not sys.stdin.buffer.closed


def test_reads_a_real_pipe_as_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that has come through a pipe is given before the pipe is closed."""
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as stdin, open(writing, "wb", buffering=0) as pipe:
        monkeypatch.setattr(sys, "stdin", stdin)
        pipe.write(b'{"id": 1}\n')
        with open_source("-", format="jsonl") as source:
            assert next(source) == Row(1, 1, {"id": 1})
            pipe.write(b'{"id": 2}\n')
            assert next(source) == Row(2, 2, {"id": 2})
            pipe.close()
            assert list(source) == []
        assert not stdin.closed


def test_stdin_needs_a_format() -> None:
    """Nothing tells the format of stdin: the error says how to say it."""
    assert "--format csv, tsv or jsonl" in str(refuse("-"))


def test_closed_stdin_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without a stdin gets a clear line."""
    monkeypatch.setattr(sys, "stdin", None)
    assert "stdin is closed" in str(refuse("-", format="csv"))


# Files that cannot be used


@pytest.mark.parametrize("name", ["a.txt", "a", "a.json", "a.csv.zip"])
def test_unknown_suffix(tmp_path: Path, name: str) -> None:
    """A suffix that tells nothing asks for `--format`."""
    assert "--format" in str(refuse(write(tmp_path, name, "id\n1\n")))


def test_unknown_format(tmp_path: Path) -> None:
    """A format that does not exist is named, with those that do."""
    error = refuse(write(tmp_path, "a.csv", "id\n1\n"), format="xml")
    assert "'xml'" in str(error)
    assert "csv, tsv or jsonl" in str(error)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    """A path that is not there, or is a folder, is said in words."""
    assert "no such file" in str(refuse(tmp_path / "a.csv"))
    (tmp_path / "b.csv").mkdir()
    assert "folder" in str(refuse(tmp_path / "b.csv"))


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal of the system's is said in words."""

    def deny(*_: object) -> io.FileIO:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path, "a.csv", "id\n")
    monkeypatch.setattr(io, "FileIO", deny)
    assert "permission denied" in str(refuse(path))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"  \r\n"])
def test_empty_file(tmp_path: Path, name: str, content: bytes) -> None:
    """A file with nothing in it is a mistake somewhere: say so at once."""
    assert "the file is empty" in str(refuse(write(tmp_path, name, content)))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("id,text".encode("utf-16"), "UTF-16"),
        ("id,text".encode("utf-16-le"), "NUL"),
        (b"PK\x03\x04rest", "spreadsheet"),
        (gzip.compress(b"PAR1rest"), "Parquet"),
        ("id,größe\n".encode("latin-1"), "UTF-8"),
        (b'id,"text\n1,2\n', "never closed"),
        (gzip.compress(b"id,text\n" * 99)[:20], "gzip"),
    ],
)
def test_files_that_are_no_text(tmp_path: Path, content: bytes, word: str) -> None:
    """What is plainly another kind of file is refused at once, with the way out."""
    assert word in str(refuse(write(tmp_path, "a.csv", content)))


def test_a_column_named_twice(tmp_path: Path) -> None:
    """Two columns of one name cannot both be meant: both places are named."""
    error = refuse(write(tmp_path, "a.csv", "id,text,id\n1,2,3\n"))
    assert error.column == "id"
    assert "columns 1 and 3 are both called 'id'" in str(error)


def test_jsonl_that_is_a_json_list(tmp_path: Path) -> None:
    """A JSON list, on one line or over several, is refused with the way to convert it."""
    one_line = write(tmp_path, "a.jsonl", '[{"id": 1}]\n')
    assert "jq -c '.[]'" in str(refuse(one_line))
    for text in ('[\n{"id": 1}\n]\n', '{\n  "id": 1\n}\n'):
        assert "over several lines" in str(refuse(write(tmp_path, "b.jsonl", text)))


def test_jsonl_without_a_good_row_among_the_first_hundred(tmp_path: Path) -> None:
    """A file that is not JSONL at all is refused, however long, with its first fault."""
    error = refuse(write(tmp_path, "a.jsonl", "plain text\n" * 1000))
    assert error.row == 1


# Faulty rows


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
def test_a_faulty_csv_row_costs_itself_only(tmp_path: Path, row: bytes, words: list[str]) -> None:
    """The rows before and after a faulty one are read, and its error says where and what."""
    path = write(tmp_path, "a.csv", b"a,b,c\n1,x,y\n" + row + b"\n3,x,y\n")
    first, bad, last = read(path)
    assert [first.values["a"], last.values["a"], last.number, last.line] == ["1", "3", 3, 4]
    assert isinstance(bad, BadRow)
    assert (bad.number, bad.line, bad.error.row, bad.error.path) == (2, 3, 2, str(path))
    assert str(bad.error).startswith(f"{path}, row 2 (line 3)")
    for word in words:
        assert word in str(bad.error)


def test_a_faulty_csv_row_keeps_what_could_be_read(tmp_path: Path) -> None:
    """The output can still tell which row it was, in text that can be written."""
    content = "id,text\n1\n2,b,c\n".encode() + b"3,\xff\n"
    rows = read(write(tmp_path, "a.csv", content))
    assert all(isinstance(row, BadRow) for row in rows)
    assert values(rows) == [{"id": "1"}, {"id": "2", "text": "b"}, {"id": "3", "text": "\ufffd"}]
    assert [row.error.column for row in rows if isinstance(row, BadRow)] == [None, None, "text"]


def test_a_stray_quote_does_not_swallow_the_rest(tmp_path: Path) -> None:
    """A quote that is never closed costs its row; every row after it is read, with its line."""
    good = "".join(f"{number},text\n" for number in range(2, 5000))
    rows = read(write(tmp_path, "a.csv", f'id,text\n1,"text\n{good}'))
    assert "never closed" in str(only_bad(rows).error)
    assert only_bad(rows).line == 2
    assert [row.line for row in rows] == list(range(2, 5001))
    assert rows[-1].values == {"id": "4999", "text": "text"}


def test_a_runaway_quote_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for a quote's end stops before it holds the whole file."""
    monkeypatch.setattr(delimited_module, "MAX_RECORD", 1000)
    pulled: list[int] = []

    def lines() -> Iterator[str]:
        yield from ("id,text\n", '0,"open\n')
        for number in range(1, 100_000):
            pulled.append(number)
            yield f"{number},text\n"

    rows = DelimitedReader(lines(), "x.csv", ",").rows()
    assert isinstance(next(rows), BadRow)
    assert len(pulled) < 200
    assert [next(rows).values["id"] for _ in range(500)] == [str(n) for n in range(1, 501)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": 2,}', ["row 2 (line 2)", "character 10"]),
        ("plain", ["not valid JSON at character 1"]),
        ('{"id": 2', ["not valid JSON"]),
        ("[1, 2]", ["expected an object", "found a list"]),
        ("null", ["found null"]),
        ("true", ["found true or false"]),
        ("12", ["found a number"]),
        ('"text"', ["found a string"]),
        ('{"id": 2, "score": NaN}', ["column 'score'", "NaN", "write null"]),
        ('{"score": {"a": [-Infinity]}}', ["column 'score'", "-Infinity"]),
        ('{"id": 1e999}', ["column 'id'", "1e999"]),
        ('{"id": ' + "9" * 5000 + "}", ["too many digits"]),
        ('{"id": ' + "[" * 100_000 + "]" * 100_000 + "}", ["nested too deeply"]),
        ('{"score": NaN, "id": ' + "9" * 5000 + "}", ["NaN"]),
    ],
)
def test_a_faulty_jsonl_row_costs_itself_only(tmp_path: Path, line: str, words: list[str]) -> None:
    """The rows around a faulty one are read, and its error is one line that names row and column."""
    path = write(tmp_path, "a.jsonl", f'{{"id": 1}}\n{line}\n{{"id": 3}}\n')
    first, bad, last = read(path)
    assert [first.values, last.values, last.number] == [{"id": 1}, {"id": 3}, 3]
    assert isinstance(bad, BadRow)
    assert bad.error.row == 2
    assert len(str(bad.error)) < 300 + len(str(path))
    assert "\n" not in str(bad.error)
    for word in words:
        assert word in str(bad.error)


def test_invalid_utf8_in_jsonl(tmp_path: Path) -> None:
    """The byte that is not UTF-8 is found."""
    rows = read(write(tmp_path, "a.jsonl", b'{"id": 1}\n{"id": "\xff"}\n'))
    assert "byte 9 of the line is not UTF-8" in str(only_bad(rows).error)


def test_faulty_first_rows_of_jsonl_are_rows_too(tmp_path: Path) -> None:
    """The columns come from the first good row; the faulty ones before it are not lost."""
    path = write(tmp_path, "a.jsonl", '{"id": }\n{"id": 2}\n')
    with open_source(path) as source:
        assert source.columns == ("id",)
        assert [type(row) for row in source] == [BadRow, Row]


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz"])
def test_gzip_that_breaks_off_ends_in_a_bad_row(tmp_path: Path, name: str) -> None:
    """Rows before the break are good; the last thing said is that the rest is missing."""
    table = "id\n" + "".join(f"{number}{os.urandom(8).hex()}\n" for number in range(20_000))
    lines = "".join(json.dumps({"id": line}) + "\n" for line in table.split())
    packed = gzip.compress((table if "csv" in name else lines).encode())
    rows = read(write(tmp_path, name, packed[: len(packed) // 2]))
    assert len(rows) > 1000
    assert all(isinstance(row, Row) for row in rows[:-1])
    assert "cannot read on" in str(only_bad(rows[-1:]).error)
    assert rows[-1].number == len(rows)


# Columns that a prompt needs


def test_required_columns(tmp_path: Path) -> None:
    """A missing column is named, with the file, the columns there are and the likely one."""
    with open_source(write(tmp_path, "a.csv", "id,lemma,gloss\n")) as source:
        required_columns(source, ["lemma", "gloss"])
        required_columns(source, [])
        with pytest.raises(InputError) as caught:
            required_columns(source, ["id", "lema", "other", "other"])
    assert caught.value.column == "lema"
    message = str(caught.value)
    assert message.startswith(f"{source.path}: no columns 'lema', 'other', did you mean 'lemma'?")
    assert "(it has: id, lemma, gloss)" in message


def test_required_columns_suspects_the_separator(tmp_path: Path) -> None:
    """A header that is one long name with semicolons in it says what is probably wrong."""
    with open_source(write(tmp_path, "a.csv", "id;text\n1;a\n")) as source:
        with pytest.raises(InputError, match="separator"):
            required_columns(source, ["text"])


# Properties

CELLS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
AWKWARD = st.one_of(CELLS, st.text('",\t\n\r a', max_size=6))


@given(st.lists(st.tuples(AWKWARD, AWKWARD)), st.sampled_from(["csv", "tsv"]))
def test_what_the_csv_module_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], kind: str
) -> None:
    """Any table that the csv module writes in its default dialects is read unchanged."""
    path = tmp_path_factory.mktemp("t") / f"a.{kind}"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, "excel-tab" if kind == "tsv" else "excel")
        writer.writerows([("a", "b"), *rows])
    assert [(row["a"], row["b"]) for row in values(read(path))] == rows


@given(
    st.one_of(st.binary(), st.text('",\n\r\t{}[]:1aé\0').map(str.encode)),
    st.sampled_from(["csv", "tsv", "jsonl"]),
)
def test_no_bytes_whatever_break_the_reader(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, kind: str
) -> None:
    """Any bytes give an InputError at once or rows numbered without a gap, each good or faulty."""
    path = write(tmp_path_factory.mktemp("t"), "a", content)
    try:
        source: Source = open_source(path, format=kind)
    except InputError as error:
        assert "\n" not in str(error).replace(str(path), "")
        return
    with source:
        rows = list(source)
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    lines = [row.line for row in rows]
    assert lines == sorted(set(lines))
    for row in rows:
        if isinstance(row, Row) and kind != "jsonl":
            assert tuple(row.values) == source.columns


@given(st.lists(st.integers(0, 99), min_size=1, max_size=30), st.data())
def test_one_stray_quote_costs_one_row(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], data: st.DataObject
) -> None:
    """In a plain table a quote opened by mistake costs the row it is in, and no other."""
    victim = data.draw(st.integers(0, len(numbers) - 1))
    lines = [f"{number},text" for number in numbers]
    lines[victim] = '"' + lines[victim]
    path = write(tmp_path_factory.mktemp("t"), "a.csv", "\n".join(["id,text", *lines]))
    rows = read(path)
    assert [row.number - 1 for row in rows if isinstance(row, BadRow)] == [victim]
    good = [int(row.values["id"]) for row in rows if isinstance(row, Row)]
    assert good == numbers[:victim] + numbers[victim + 1 :]
