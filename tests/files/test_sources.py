"""Rows in: files are opened or refused at once, and read a row at a time."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrt.errors import InputError
from batchrt.files import (
    Row,
    Source,
    open_source,
    required_columns,
)
from tests.files.files import only_bad, read, refuse, values, write

EXAMPLES = Path(__file__).parents[2] / "examples"


def put_in_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_gzip_is_known_by_its_bytes(tmp_path: Path) -> None:
    """A compressed file is read whatever it is called."""
    path = write(tmp_path, "a.csv", gzip.compress(b"id\n1\n"))
    assert values(read(path)) == [{"id": "1"}]


def test_explicit_format_beats_the_suffix(tmp_path: Path) -> None:
    """`format` decides even against the suffix, and where there is none."""
    for name in ("a.txt", "a.csv", "a"):
        path = write(tmp_path, name, "id\ttext\n1\ta,b\n")
        assert values(read(path, format="tsv")) == [{"id": "1", "text": "a,b"}]


def test_the_example_is_clean() -> None:
    """The tickets of the examples have no faulty row and are all different."""
    with open_source(EXAMPLES / "support_tickets.csv") as source:
        required_columns(source, ["id", "product", "subject", "body", "created_at"])
        rows = list(source)
    assert len(rows) == 300
    assert all(isinstance(row, Row) for row in rows)
    assert len({row.values["body"] for row in rows}) == 300


def test_fraction_read_goes_from_start_to_end(tmp_path: Path) -> None:
    """Progress through a file is known without counting its rows, compressed or not."""
    lines = "".join(f"{number},{os.urandom(20).hex()}\n" for number in range(100_000))
    for name in ("a.csv", "a.csv.gz"):
        content = f"id,text\n{lines}".encode()
        path = write(tmp_path, name, gzip.compress(content) if name.endswith("gz") else content)
        with open_source(path) as source:
            seen = [source.fraction_read for _ in source]
            shares = [share for share in seen if share is not None]
        assert len(shares) == 100_000
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
    assert "`format` csv, tsv or jsonl" in str(refuse("-"))


def test_closed_stdin_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without a stdin gets a clear line."""
    monkeypatch.setattr(sys, "stdin", None)
    assert "stdin is closed" in str(refuse("-", format="csv"))


@pytest.mark.parametrize("name", ["a.txt", "a", "a.json", "a.csv.zip"])
def test_unknown_suffix(tmp_path: Path, name: str) -> None:
    """A suffix that tells nothing asks for `format`."""
    assert "`format`" in str(refuse(write(tmp_path, name, "id\n1\n")))


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


def test_required_columns_finds_other_separators(tmp_path: Path) -> None:
    """A header that would be one long name with semicolons in it is a header of a CSV with semicolons."""
    with open_source(write(tmp_path, "a.csv", "id;text\n1;a\n")) as source:
        required_columns(source, ["text"])
        assert values(list(source)) == [{"id": "1", "text": "a"}]


@settings(deadline=None)
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
        assert len(str(error).splitlines()) == 1
        return
    with source:
        rows = list(source)
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    lines = [row.line for row in rows]
    assert lines == sorted(set(lines))
    for row in rows:
        if isinstance(row, Row) and kind != "jsonl":
            assert tuple(row.values) == source.columns
