"""Encodings, delimiters and byte order marks of spreadsheets."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from batchrt.errors import InputError
from batchrt.files import BadRow, open_sink, open_source
from tests.files.files import read, refuse, values, write

ROWS = [{"id": "1", "text": "café, €"}, {"id": "2", "text": "naïve"}]
TABLE = 'id{0}text\r\n1{0}"café, €"\r\n2{0}naïve\r\n'


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize("told", [True, False])
def test_delimiter_is_detected_or_given(tmp_path: Path, delimiter: str, told: bool) -> None:
    """By the header, where the first row agrees."""
    path = write(tmp_path, "a.csv", TABLE.format(delimiter))
    with open_source(path, delimiter=delimiter if told else None) as source:
        assert source.delimiter == delimiter
        assert values(list(source)) == ROWS


@pytest.mark.parametrize("delimiter", [";", ",", "|", "\t"])
def test_delimiter_is_read_from_a_sep_line(tmp_path: Path, delimiter: str) -> None:
    """`sep=;` is no header."""
    assert values(read(write(tmp_path, "a.csv", f"sep={delimiter}\r\n" + TABLE.format(delimiter)))) == ROWS


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("notes; or not\nplain\n", ("notes; or not",)),
        ("a|b\n1|2|3\n", ("a|b",)),
        ('"a;b"\n"1;2"\n', ("a;b",)),
        ("text\na;b\n", ("text",)),
        ("a;b,c\n1;2,3\n", ("a;b", "c")),
        ("a;b\n", ("a", "b")),
        ('a;b\n1;"x\ny"\n', ("a", "b")),
        ("a;b\n\n1;2\n", ("a", "b")),
    ],
)
def test_delimiter_is_not_guessed_from_a_column_name(
    tmp_path: Path, content: str, columns: tuple[str, ...]
) -> None:
    """A name may contain a semicolon; detection loses no row."""
    with open_source(write(tmp_path, "a.csv", content)) as source:
        assert source.columns == columns
        assert not any(isinstance(row, BadRow) for row in source) or content.startswith("a|b")


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n", "\r", "\0"])
def test_delimiter_is_one_character(tmp_path: Path, delimiter: str) -> None:
    """And none with another meaning."""
    with pytest.raises(InputError, match="one character"):
        open_source(write(tmp_path, "a.csv", "a\n"), delimiter=delimiter)
    with pytest.raises(InputError, match="JSONL has none"):
        open_source(write(tmp_path, "a.jsonl", "{}\n"), delimiter=";")


@pytest.mark.parametrize(
    "encoding", ["cp1252", "utf-16", "utf-16-le", "utf-32", "utf-8", "UTF8", "utf-8-sig"]
)
def test_encoding_is_read_by_its_python_name(tmp_path: Path, encoding: str) -> None:
    """For common encodings."""
    content = TABLE.format(",").encode(encoding)
    assert values(read(write(tmp_path, "a.csv", content), encoding=encoding)) == ROWS
    lines = '{"text": "café €"}\n{"text": "é"}\n'.encode(encoding)
    found = values(read(write(tmp_path, "a.jsonl", lines), encoding=encoding))
    assert found == [{"text": "café €"}, {"text": "é"}]


@pytest.mark.parametrize("encoding", ["klingon", "hex", "rot13", "", "zlib", "idna\0"])
def test_encoding_must_be_a_text_encoding(tmp_path: Path, encoding: str) -> None:
    """Codecs from bytes to bytes are refused too."""
    with pytest.raises(InputError, match=r"no encoding|cannot be read"):
        open_source(write(tmp_path, "a.csv", "a\n"), encoding=encoding)


def test_encoding_errors_cost_rows_only(tmp_path: Path) -> None:
    """A byte invalid in cp1252 is reported with its row; UTF-16 without a mark names the parameter."""
    first, second = read(write(tmp_path, "a.csv", b"id\na\x81\nb\n"), encoding="cp1252")
    assert isinstance(first, BadRow)
    assert second.values == {"id": "b"}
    assert "add `encoding`" in str(refuse(write(tmp_path, "b.csv", codecs.BOM_UTF16_LE + b"i\0d\0")))


@pytest.mark.parametrize(
    ("source", "encoding", "marked"),
    [
        ("\ufeffid\n1\n", None, True),
        ("id\n1\n", None, False),
        ("id\n1\n", "utf-8-sig", True),
        ("\ufeffid\n1\n", "utf-8", False),
    ],
)
@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.jsonl"])
def test_byte_order_mark_is_kept(
    tmp_path: Path, source: str, encoding: str | None, marked: bool, name: str
) -> None:
    """Spreadsheets recognise UTF-8 by it; JSON must not have one."""
    path, out = write(tmp_path, "in.csv", source), tmp_path / name
    with (
        open_source(path) as rows,
        open_sink(out, columns=rows.columns, source=rows, encoding=encoding) as sink,
    ):
        sink.write({"id": "1"}, "é")
    content = out.read_bytes()
    assert content.startswith(codecs.BOM_UTF8) == (marked and name != "out.jsonl")
    assert values(read(out))[0]["output"] == "é"


def test_delimiter_is_kept(tmp_path: Path) -> None:
    """In a CSV, unless another is given."""
    path = write(tmp_path, "in.csv", "id;text\n1;a\n")
    for told, expected in ((None, "id;text;output;error"), ("|", "id|text|output|error")):
        out = tmp_path / f"{expected[2]}.csv"
        with (
            open_source(path) as rows,
            open_sink(out, columns=rows.columns, source=rows, delimiter=told) as sink,
        ):
            sink.write({"id": "1", "text": "a;b"}, "c|d")
        assert out.read_text().splitlines()[0] == expected
    with pytest.raises(InputError, match="utf-8 or utf-8-sig"):
        open_sink(tmp_path / "x.csv", columns=[], encoding="cp1252")
