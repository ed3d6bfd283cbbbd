"""Sinks: every row can be written, and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrt.errors import InputError
from batchrt.files import (
    BadRow,
    Row,
    open_sink,
    open_source,
)
from tests.files.files import AWKWARD, TEXT, json_rows, json_values, table_rows, write_one


def test_sink_writes_jsonl(tmp_path: Path) -> None:
    """Each row is one object on one line: the input's values, then output and error."""
    path = tmp_path / "a.jsonl"
    with open_sink(path, columns=["id", "text"]) as sink:
        assert sink.columns == ("id", "text", "output", "error")
        sink.write({"id": 1, "text": "é\n"}, {"tags": ["ü"]})
        sink.write({"id": 2, "more": None}, error=ValueError("no\n  luck"))
    assert path.read_bytes().decode() == (
        '{"id": 1, "text": "é\\n", "output": {"tags": ["ü"]}, "error": null}\n'
        '{"id": 2, "more": null, "output": null, "error": "ValueError: no luck"}\n'
    )


def test_sink_writes_csv(tmp_path: Path) -> None:
    """A header first; a missing value is an empty field; lines end in a newline."""
    path = tmp_path / "a.csv"
    with open_sink(path, columns=["id", "text"]) as sink:
        sink.write({"id": "1", "text": 'x, "y"'}, "two\nlines")
        sink.write({"id": "2"}, error="broken")
    assert path.read_bytes().decode() == ('id,text,output,error\n1,"x, ""y""","two\nlines",\n2,,,broken\n')


def test_sink_writes_tsv(tmp_path: Path) -> None:
    """TSV separates by tabs and quotes fields that contain one."""
    path = tmp_path / "a.tsv"
    with open_sink(path, columns=["id"]) as sink:
        sink.write({"id": "a,b"}, "c\td")
    assert path.read_text() == 'id\toutput\terror\na,b\t"c\td"\t\n'


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_sink_writes_lone_surrogates(tmp_path: Path, name: str) -> None:
    """Half a character at the end of a truncated answer does not cost the rows around it."""
    path = tmp_path / name
    with open_sink(path, columns=[]) as sink:
        for output in ("before ü", "half \ud83d", "\ude00\\\ud83d", "pair \ud83d\ude00", "after"):
            sink.write({}, output)
    with open_source(path) as source:
        found = [row.values["output"] for row in source]
    halves = ["half \ud83d", "\ude00\\\ud83d"]
    if name == "a.csv":
        halves = ["half \ufffd", "\ufffd\\\ufffd"]
    assert found == ["before ü", *halves, "pair 😀", "after"]


def test_sink_replaces_nul_in_a_table(tmp_path: Path) -> None:
    """So that the CSV can be read again."""
    write_one(tmp_path / "a.csv", "a\0b")
    with open_source(tmp_path / "a.csv") as source:
        assert [row.values["output"] for row in source] == ["a\ufffdb"]


def test_sink_writes_a_bad_row(tmp_path: Path) -> None:
    """Its readable values, beside its error."""
    (tmp_path / "in.csv").write_text("id,text\n1,a\n2\n")
    with (
        open_source(tmp_path / "in.csv") as source,
        open_sink(tmp_path / "out.csv", columns=source.columns, source=source) as sink,
    ):
        for row in source:
            sink.write(row.values, error=row.error if isinstance(row, BadRow) else None)
    good, bad = table_rows(tmp_path / "out.csv")
    assert (good["id"], good["error"], bad["id"], bad["text"]) == ("1", "", "2", "")
    assert bad["error"].startswith("InputError: ")
    assert "row 2 (line 3)" in bad["error"]


def test_sink_reports_values_without_a_column(tmp_path: Path) -> None:
    """They are left out, and `left_out` has up to twenty names."""
    with open_sink(tmp_path / "a.csv", columns=["id"]) as sink:
        sink.write({"id": 1})
        assert sink.left_out == set()
        sink.write({"id": 1, "late": 2})
        assert sink.left_out == {"late"}
        for number in range(100):
            sink.write({f"key{number}": 1})
        assert len(sink.left_out) == 20


def test_sink_output_wins_over_a_late_key(tmp_path: Path) -> None:
    """A later JSONL row's key `output` is replaced and reported."""
    path = tmp_path / "a.jsonl"
    with open_sink(path, columns=["id"]) as sink:
        sink.write({"id": 1, "output": "old"}, "new")
        assert sink.left_out == {"output"}
    assert json_rows(path)[0]["output"] == "new"


def test_sink_names_the_added_columns(tmp_path: Path) -> None:
    """The error's column follows the output's, so that a second run over an output works."""
    with open_sink(tmp_path / "a.csv", columns=["id"]) as first:
        pass
    with open_sink(tmp_path / "b.csv", columns=first.columns, output_column="label") as second:
        assert second.columns == ("id", "output", "error", "label", "label_error")
    with open_sink(tmp_path / "c.csv", columns=["id"], error_column="oops") as third:
        assert third.columns == ("id", "output", "oops")


@pytest.mark.parametrize(
    ("columns", "options", "column"),
    [
        (["id", "output"], {}, "output"),
        (["error"], {}, "error"),
        (["x"], {"output_column": "x"}, "x"),
        (["x_error"], {"output_column": "x"}, "x_error"),
        (["id"], {"output_column": "error", "error_column": "error"}, "error"),
    ],
)
def test_sink_refuses_names_that_are_taken(
    tmp_path: Path, columns: list[str], options: dict[str, Any], column: str
) -> None:
    """Before there is a file, with the parameter that helps."""
    with pytest.raises(InputError, match=r"`output_column`|rename") as caught:
        open_sink(tmp_path / "a.csv", columns=columns, **options)
    assert caught.value.column == column
    assert caught.value.parameter in {"output_column", None}
    assert not (tmp_path / "a.csv").exists()


# Eight characters at most, as all drawn text: longer names in the tests cannot clash with them.
NAMES = st.lists(
    TEXT.filter(lambda name: name and name not in {"output", "error"} and name[0] != "\ufeff"),
    min_size=1,
    max_size=4,
    unique=True,
)


ANY_TEXT = st.one_of(st.text(max_size=8), st.characters(categories=["Cs"]))


ROWS = st.lists(
    st.dictionaries(ANY_TEXT, json_values(ANY_TEXT), min_size=1, max_size=4), min_size=1, max_size=5
)


@settings(deadline=None)
@given(NAMES, st.data(), st.sampled_from(["csv", "tsv", "csv.gz"]))
def test_sink_tables_are_read_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], data: st.DataObject, suffix: str
) -> None:
    """Written, read, written again and read again: names and values are the same."""
    width = len(names)
    table = data.draw(st.lists(st.lists(AWKWARD, min_size=width, max_size=width), max_size=5))
    rows = [dict(zip(names, fields, strict=True)) for fields in table]
    folder = tmp_path_factory.mktemp("t")
    with open_sink(folder / f"a.{suffix}", columns=names) as sink:
        for row in rows:
            sink.write(row, row[names[0]], row[names[-1]])
    with (
        open_source(folder / f"a.{suffix}") as source,
        open_sink(folder / f"b.{suffix}", columns=source.columns, output_column="second answer") as copy,
    ):
        assert source.columns == (*names, "output", "error")
        for read, row in zip(source, rows, strict=True):
            assert isinstance(read, Row)
            error = " ".join(row[names[-1]].split())
            assert read.values == {**row, "output": row[names[0]], "error": error}
            copy.write(read.values)
    with (
        open_source(folder / f"b.{suffix}") as again,
        open_source(folder / f"a.{suffix}") as source,
    ):
        for copied, read in zip(again, source, strict=True):
            assert copied.values == {**read.values, "second answer": "", "second answer_error": ""}


@settings(deadline=None)
@given(ROWS, json_values(ANY_TEXT))
def test_sink_jsonl_is_read_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], output: object
) -> None:
    """Any JSON values, lone surrogates included, one a line."""
    path = tmp_path_factory.mktemp("t") / "a.jsonl"
    with open_sink(path, columns=[], output_column="the answer", error_column="the error") as sink:
        for row in rows:
            sink.write(row, output)
    assert path.read_bytes().count(b"\n") == len(rows)
    with open_source(path) as source:
        for read, row in zip(source, rows, strict=True):
            assert read.values == {**row, "the answer": output, "the error": None}
