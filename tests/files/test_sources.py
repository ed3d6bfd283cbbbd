"""Sources: files are opened or refused at once, and read one row at a time."""

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


def test_source_recognises_gzip_by_its_bytes(tmp_path: Path) -> None:
    """Under any name."""
    path = write(tmp_path, "a.csv", gzip.compress(b"id\n1\n"))
    assert values(read(path)) == [{"id": "1"}]


def test_source_format_overrides_the_suffix(tmp_path: Path) -> None:
    """And serves where there is none."""
    for name in ("a.txt", "a.csv", "a"):
        path = write(tmp_path, name, "id\ttext\n1\ta,b\n")
        assert values(read(path, format="tsv")) == [{"id": "1", "text": "a,b"}]


def test_source_reads_the_example() -> None:
    """The tickets of the examples have no faulty row and are all different."""
    with open_source(EXAMPLES / "support_tickets.csv") as source:
        required_columns(source, ["id", "product", "subject", "body", "created_at"])
        rows = list(source)
    assert len(rows) == 300
    assert all(isinstance(row, Row) for row in rows)
    assert len({row.values["body"] for row in rows}) == 300


def test_source_fraction_read_goes_from_start_to_end(tmp_path: Path) -> None:
    """Without counting rows, compressed or not."""
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


def test_source_close_ends_the_rows(tmp_path: Path) -> None:
    """After `close` there are no more rows and the file is closed; closing twice is fine."""
    source = open_source(write(tmp_path, "a.csv", "id\n1\n2\n"))
    assert next(source).number == 1
    source.close()
    source.close()
    assert list(source) == []


def test_source_reads_stdin_and_leaves_it_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` is stdin."""
    put_in_stdin(monkeypatch, b"id,text\n1,a\n")
    with open_source("-", format="csv") as source:
        assert source.path == "stdin"
        assert source.fraction_read is None
        assert values(list(source)) == [{"id": "1", "text": "a"}]
    assert not sys.stdin.buffer.closed


def test_source_reads_a_real_pipe_as_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is yielded before the pipe is closed."""
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


def test_source_stdin_needs_a_format() -> None:
    """The error names the parameter."""
    assert "`format` csv, tsv or jsonl" in str(refuse("-"))


def test_source_stdin_closed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without a stdin gets a clear line."""
    monkeypatch.setattr(sys, "stdin", None)
    assert "stdin is closed" in str(refuse("-", format="csv"))


@pytest.mark.parametrize("name", ["a.txt", "a", "a.json", "a.csv.zip"])
def test_source_unknown_suffix_asks_for_format(tmp_path: Path, name: str) -> None:
    """The error names the parameter."""
    refusal = refuse(write(tmp_path, name, "id\n1\n"))
    assert "`format`" in str(refusal)
    assert refusal.parameter == "format"


def test_source_unknown_format_is_refused(tmp_path: Path) -> None:
    """With the known ones."""
    error = refuse(write(tmp_path, "a.csv", "id\n1\n"), format="xml")
    assert "'xml'" in str(error)
    assert "csv, tsv, jsonl or parquet" in str(error)


def test_source_missing_file_and_folder_are_said(tmp_path: Path) -> None:
    """In words."""
    assert "no such file" in str(refuse(tmp_path / "a.csv"))
    (tmp_path / "b.csv").mkdir()
    assert "folder" in str(refuse(tmp_path / "b.csv"))


def test_source_unreadable_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In words."""

    def deny(*_: object) -> io.FileIO:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path, "a.csv", "id\n")
    monkeypatch.setattr(io, "FileIO", deny)
    assert "permission denied" in str(refuse(path))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"  \r\n"])
def test_source_empty_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """At once."""
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
        (gzip.compress(b"id,text\n" * 99)[:12], "gzip"),
    ],
)
def test_source_refuses_binary_files(tmp_path: Path, content: bytes, word: str) -> None:
    """At once, with the remedy."""
    assert word in str(refuse(write(tmp_path, "a.csv", content)))


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz"])
def test_source_truncated_gzip_ends_in_a_bad_row(tmp_path: Path, name: str) -> None:
    """Rows before the break are good; the last item says that the rest is missing."""
    table = "id\n" + "".join(f"{number}{os.urandom(8).hex()}\n" for number in range(20_000))
    lines = "".join(json.dumps({"id": line}) + "\n" for line in table.split())
    packed = gzip.compress((table if "csv" in name else lines).encode())
    rows = read(write(tmp_path, name, packed[: len(packed) // 2]))
    assert len(rows) > 1000
    assert all(isinstance(row, Row) for row in rows[:-1])
    assert "cannot read on" in str(only_bad(rows[-1:]).error)
    assert rows[-1].number == len(rows)


def test_required_columns_names_the_missing_one(tmp_path: Path) -> None:
    """With the file, the existing columns and the likely one."""
    with open_source(write(tmp_path, "a.csv", "id,lemma,gloss\n")) as source:
        required_columns(source, ["lemma", "gloss"])
        required_columns(source, [])
        with pytest.raises(InputError) as caught:
            required_columns(source, ["id", "lema", "other", "other"])
    assert caught.value.column == "lema"
    message = str(caught.value)
    assert message.startswith(f"{source.path}: no columns 'lema', 'other', did you mean 'lemma'?")
    assert "(it has: id, lemma, gloss)" in message


def test_required_columns_detects_other_delimiters(tmp_path: Path) -> None:
    """A header that looks like one long name with semicolons is one of a CSV with semicolons."""
    with open_source(write(tmp_path, "a.csv", "id;text\n1;a\n")) as source:
        required_columns(source, ["text"])
        assert values(list(source)) == [{"id": "1", "text": "a"}]


@settings(deadline=None)
@given(
    st.one_of(st.binary(), st.text('",\n\r\t{}[]:1aé\0').map(str.encode)),
    st.sampled_from(["csv", "tsv", "jsonl"]),
)
def test_source_survives_any_bytes(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, kind: str
) -> None:
    """An InputError at once or rows numbered without a gap, each good or faulty."""
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
