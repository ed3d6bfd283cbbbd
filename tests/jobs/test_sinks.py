"""Rows out: nothing that was paid for is refused, and nothing there is overwritten by accident."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from batchrt.errors import BatchError, InputError
from batchrt.jobs import BadRow, OutputClosedError, OutputError, Row, open_sink, open_source

FULL = Path("/dev/full")
INF = float("inf")


class Ticket(BaseModel):
    """A structured output."""

    category: str
    urgency: int


@dataclass
class Point:
    """A result that is a dataclass."""

    x: int


class Colour(str, Enum):
    """A string that is more than one."""

    RED = "red"


class Opaque:
    """A result without any JSON form."""

    def __str__(self) -> str:
        return "opaque!"


def circular() -> list[Any]:
    """Give a list that holds itself."""
    loop: list[Any] = []
    loop.append(loop)
    return loop


def write_one(path: Path, output: object, **options: Any) -> str:
    """Write one row without input columns and give the file's text."""
    with open_sink(path, columns=[], **options) as sink:
        sink.write({}, output)
    return path.read_bytes().decode()


def json_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]


def table_rows(path: Path, dialect: str = "excel") -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, dialect=dialect))


def refuse(path: Path | str, **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        open_sink(path, **{"columns": ["id"], **options})
    assert "\n" not in str(caught.value)
    return caught.value


# What is written


def test_jsonl(tmp_path: Path) -> None:
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


def test_csv(tmp_path: Path) -> None:
    """The header comes first; what is missing is an empty field; lines end in a newline."""
    path = tmp_path / "a.csv"
    with open_sink(path, columns=["id", "text"]) as sink:
        sink.write({"id": "1", "text": 'x, "y"'}, "two\nlines")
        sink.write({"id": "2"}, error="broken")
    assert path.read_bytes().decode() == (
        'id,text,output,error\n1,"x, ""y""","two\nlines",\n2,,,broken\n'
    )


def test_tsv(tmp_path: Path) -> None:
    """TSV separates by tabs and quotes what holds one."""
    path = tmp_path / "a.tsv"
    with open_sink(path, columns=["id"]) as sink:
        sink.write({"id": "a,b"}, "c\td")
    assert path.read_text() == 'id\toutput\terror\na,b\t"c\td"\t\n'


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz"])
def test_gzip(tmp_path: Path, name: str) -> None:
    """`.gz` compresses; what was flushed can be unpacked before the file is closed."""
    path = tmp_path / name
    with open_sink(path, columns=["id"]) as sink:
        sink.write({"id": "1"}, "x" * 200_000)
        sink.write({"id": "2"}, "y")
        sink.flush()
        early = gzip.GzipFile(fileobj=io.BytesIO(path.read_bytes()))
        assert early.read(200_000).count(b"x") > 199_000
    whole = gzip.decompress(path.read_bytes()).decode()
    assert whole.count("x") == 200_000
    with open_source(path) as source:
        assert [row.values["output"][:1] for row in source] == ["x", "y"]


RENDERINGS: list[tuple[object, object, str]] = [
    # value, in JSONL, in CSV
    ("text", "text", "text"),
    ('"quoted"', '"quoted"', '"quoted"'),
    (None, None, ""),
    (True, True, "true"),
    (12, 12, "12"),
    (1.5, 1.5, "1.5"),
    (float("nan"), None, ""),
    (-INF, None, ""),
    ([1, "ü", None], [1, "ü", None], '[1, "ü", null]'),
    ((1, 2), [1, 2], "[1, 2]"),
    ({"a": {"b": []}}, {"a": {"b": []}}, '{"a": {"b": []}}'),
    (
        {"a": INF, "b": [float("nan"), 1]},
        {"a": None, "b": [None, 1]},
        '{"a": null, "b": [null, 1]}',
    ),
    ({1: "a", (2, 3): "b"}, {"1": "a", "[2, 3]": "b"}, '{"1": "a", "[2, 3]": "b"}'),
    (MappingProxyType({"a": 1}), {"a": 1}, '{"a": 1}'),
    ({7}, [7], "[7]"),
    (
        Ticket(category="bug", urgency=3),
        {"category": "bug", "urgency": 3},
        '{"category": "bug", "urgency": 3}',
    ),
    (
        [Ticket(category="ü", urgency=1)],
        [{"category": "ü", "urgency": 1}],
        '[{"category": "ü", "urgency": 1}]',
    ),
    (Point(1), {"x": 1}, '{"x": 1}'),
    (Colour.RED, "red", "red"),
    (date(2025, 3, 1), "2025-03-01", "2025-03-01"),
    (Decimal("1.10"), "1.10", "1.10"),
    (b"caf\xc3\xa9", "café", "café"),
    (b"\xff", "\ufffd", "\ufffd"),
    (Opaque(), "opaque!", "opaque!"),
    ([Opaque()], ["opaque!"], '["opaque!"]'),
    (10**400, 10**400, "1" + "0" * 400),
]


@pytest.mark.parametrize(("value", "in_json", "in_csv"), RENDERINGS)
def test_every_value_has_a_form(
    tmp_path: Path, value: object, in_json: object, in_csv: str
) -> None:
    """Strings as they are, all else as JSON: nested in JSONL, as text in CSV; as output and input."""
    for name in ("a.jsonl", "a.csv"):
        with open_sink(tmp_path / name, columns=["in"]) as sink:
            sink.write({"in": value}, value)
    [row] = json_rows(tmp_path / "a.jsonl")
    assert (row["in"], row["output"]) == (in_json, in_json)
    assert type(row["output"]) is type(in_json)
    [record] = table_rows(tmp_path / "a.csv")
    assert (record["in"], record["output"]) == (in_csv, in_csv)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_value_that_never_ends_is_written_all_the_same(tmp_path: Path, name: str) -> None:
    """A list that holds itself does not cost the row."""
    assert "[...]" in write_one(tmp_path / name, circular())


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_lone_surrogates(tmp_path: Path, name: str) -> None:
    """Half a character, as a truncated answer may end in, does not cost the rows around it."""
    path = tmp_path / name
    with open_sink(path, columns=[]) as sink:
        for output in ("before ü", "half \ud83d", "\ude00\\\ud83d", "pair \ud83d\ude00", "after"):
            sink.write({}, output)
    with open_source(path) as source:
        found = [row.values["output"] for row in source]
    halves = (
        ["half \ud83d", "\ude00\\\ud83d"] if "json" in name else ["half \ufffd", "\ufffd\\\ufffd"]
    )
    assert found == ["before ü", *halves, "pair 😀", "after"]


def test_nul_in_a_table_becomes_a_replacement(tmp_path: Path) -> None:
    """What is written as CSV can be read again, though a NUL is not text."""
    write_one(tmp_path / "a.csv", "a\0b")
    with open_source(tmp_path / "a.csv") as source:
        assert [row.values["output"] for row in source] == ["a\ufffdb"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (None, None),
        ("plain\ntext", "plain text"),
        (BatchError("no\r\n good"), "BatchError: no good"),
        (TimeoutError(), "TimeoutError"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, error: Any, line: str | None) -> None:
    """An error is its class and its message, on one line; none is null."""
    path = tmp_path / "a.jsonl"
    with open_sink(path, columns=[]) as sink:
        sink.write({}, None, error)
    assert json_rows(path)[0]["error"] == line


def test_a_bad_row_can_be_written(tmp_path: Path) -> None:
    """What could be read of a faulty row is in the output, beside its error."""
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


def test_values_without_a_place_are_told(tmp_path: Path) -> None:
    """What a table has no column for is left out, and the sink says which; the names are bounded."""
    with open_sink(tmp_path / "a.csv", columns=["id"]) as sink:
        sink.write({"id": 1})
        assert sink.left_out == set()
        sink.write({"id": 1, "late": 2})
        assert sink.left_out == {"late"}
        for number in range(100):
            sink.write({f"key{number}": 1})
        assert len(sink.left_out) == 20


def test_a_late_column_of_the_outputs_name(tmp_path: Path) -> None:
    """Where a later JSONL row has a key `output`, the model's answer wins, and it is told."""
    path = tmp_path / "a.jsonl"
    with open_sink(path, columns=["id"]) as sink:
        sink.write({"id": 1, "output": "old"}, "new")
        assert sink.left_out == {"output"}
    assert json_rows(path)[0]["output"] == "new"


def test_an_integer_too_long_for_the_interpreter(tmp_path: Path) -> None:
    """Python does not write 10,000 digits: they become hexadecimal rather than an error."""
    for name in ("a.jsonl", "a.csv"):
        assert hex(10**9999) in write_one(tmp_path / name, [10**9999])


# Names of columns


def test_names_of_the_added_columns(tmp_path: Path) -> None:
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
def test_names_that_are_taken(
    tmp_path: Path, columns: list[str], options: dict[str, str], column: str
) -> None:
    """A name that is taken is refused before there is a file, with the option that helps."""
    error = refuse(tmp_path / "a.csv", columns=columns, **options)
    assert error.column == column
    assert not (tmp_path / "a.csv").exists()


# Where it is written


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    """A file that is there is left alone unless `overwrite` is said."""
    path = tmp_path / "a.jsonl"
    path.write_text("precious")
    assert "--overwrite" in str(refuse(path))
    assert path.read_text() == "precious"
    with open_sink(path, columns=[], overwrite=True):
        pass
    assert path.read_text() == ""


@pytest.mark.parametrize("link", ["same", "symlink", "hardlink", "dotted"])
def test_the_input_is_never_the_output(tmp_path: Path, link: str) -> None:
    """The input is not overwritten by whatever name or link, even with `overwrite`."""
    path, other = tmp_path / "a.csv", tmp_path / "b.csv"
    path.write_text("id\n1\n")
    if link == "symlink":
        other.symlink_to(path)
    elif link == "hardlink":
        os.link(path, other)
    else:
        other = path if link == "same" else tmp_path / ".." / tmp_path.name / "a.csv"
    with open_source(path) as source:
        error = refuse(other, source=source, overwrite=True)
        assert "this is the input" in str(error)
        assert [row.values for row in source] == [{"id": "1"}]


def test_stdin_from_the_output_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`batchrt run - -o a.csv --overwrite < a.csv` does not empty the file it reads."""
    path = tmp_path / "a.csv"
    path.write_text("id\n1\n")
    with path.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with open_source("-", format="csv") as source:
            assert "this is the input" in str(refuse(path, source=source, overwrite=True))
    assert path.read_text() == "id\n1\n"


def test_stdout_into_the_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`batchrt run a.csv -o - >> a.csv` does not feed on itself."""
    path = tmp_path / "a.csv"
    path.write_text("id\n1\n")
    with path.open("a") as stdout, open_source(path) as source:
        monkeypatch.setattr(sys, "stdout", stdout)
        error = None
        try:
            open_sink("-", columns=["id"], source=source)
        except InputError as caught:
            error = caught
        monkeypatch.undo()
    assert "this is the input" in str(error)


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    """A folder that is missing, a folder as a file, and an unknown suffix are each said."""
    assert "there is no folder" in str(refuse(tmp_path / "no" / "a.csv"))
    (tmp_path / "file").write_text("")
    assert "there is no folder" in str(refuse(tmp_path / "file" / "a.csv"))
    (tmp_path / "d.csv").mkdir()
    assert "folder" in str(refuse(tmp_path / "d.csv", overwrite=True))
    assert "--format" in str(refuse(tmp_path / "a.txt"))
    assert "'xml'" in str(refuse(tmp_path / "a.csv", format="xml"))


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal of the system's is said in words."""

    def deny(*_: object) -> io.FileIO:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(io, "FileIO", deny)
    assert "permission denied" in str(refuse(tmp_path / "a.csv"))


def test_devices_may_be_there() -> None:
    """/dev/null exists, and is meant to."""
    with open_sink("/dev/null", columns=[], format="csv") as sink:
        sink.write({}, "x")


def test_writing_to_a_closed_sink(tmp_path: Path) -> None:
    """Closing and flushing twice are fine; writing after it is a mistake that shows."""
    sink = open_sink(tmp_path / "a.csv", columns=[])
    sink.close()
    sink.close()
    sink.flush()
    with pytest.raises(ValueError, match="closed"):
        sink.write({})


def test_rows_reach_the_file_on_flush(tmp_path: Path) -> None:
    """A flushed row is in the file, whole, while the sink is open."""
    path = tmp_path / "a.jsonl"
    with open_sink(path, columns=[]) as sink:
        sink.write({}, 1)
        sink.flush()
        assert path.read_text() == '{"output": 1, "error": null}\n'


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.csv.gz"])
def test_memory_does_not_grow_with_rows(tmp_path: Path, name: str) -> None:
    """Ten thousand rows of 1,000 characters leave nothing behind in memory."""
    with open_sink(tmp_path / name, columns=["id"]) as sink:
        sink.write({"id": 0}, "x" * 1000)
        tracemalloc.start()
        for number in range(10_000):
            sink.write({"id": number}, "x" * 1000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2_000_000


# Failures while writing


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a disk that is always full")
@pytest.mark.parametrize("how", ["write", "flush", "close"])
def test_disk_full(how: str) -> None:
    """A full disk is one clear error, whichever call meets it, and nothing is taken after it."""
    sink = open_sink(FULL, columns=[], format="csv")
    with pytest.raises(OutputError, match="no space left") as caught:
        for _ in range(1000 if how == "write" else 1):
            sink.write({}, "x" * 1000)
        sink.flush() if how == "flush" else sink.close()
    assert caught.value.path == "/dev/full"
    assert not isinstance(caught.value, OutputClosedError)
    if how != "close":
        with pytest.raises(OutputError):
            sink.write({})
        with pytest.raises(OutputError):
            sink.flush()
    sink.close()


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a disk that is always full")
def test_a_failing_close_does_not_hide_what_ended_the_block() -> None:
    """An error raised inside the block comes out as itself even if closing fails too."""
    with pytest.raises(RuntimeError, match="mine"), open_sink(FULL, columns=[], format="csv"):
        raise RuntimeError("mine")
    with pytest.raises(OutputError), open_sink(FULL, columns=[], format="csv") as sink:
        sink.write({})


@pytest.fixture
def piped_stdout(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Put a pipe in stdout's place and give its reading end."""
    reading, writing = os.pipe()
    with open(writing, "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        yield reading
        monkeypatch.undo()
    os.close(reading)


def test_stdout_is_jsonl_and_stays_open(piped_stdout: int) -> None:
    """`-` is stdout, JSONL by default, after what was printed before, and is left open."""
    sys.stdout.write("before\n")
    with open_sink("-", columns=["id"]) as sink:
        assert (sink.path, sink.format) == ("stdout", "jsonl")
        sink.write({"id": 1}, "ü")
    sys.stdout.write("after\n")
    sys.stdout.flush()
    expected = 'before\n{"id": 1, "output": "ü", "error": null}\nafter\n'
    assert os.read(piped_stdout, 1000).decode() == expected


def test_stdout_without_a_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream in memory, as a test runner puts in stdout's place, is written to and left open."""
    memory = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(memory))
    with open_sink("-", columns=["id"], format="csv") as sink:
        sink.write({"id": 1}, "a")
    monkeypatch.undo()
    assert memory.getvalue() == b"id,output,error\n1,a,\n"


def test_a_terminal_gets_each_line_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever watches sees a row when it is there."""
    leader, follower = os.openpty()
    with open(follower, "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with open_sink("-", columns=[]) as sink:
            sink.write({}, 1)
            assert os.read(leader, 1000) == b'{"output": 1, "error": null}\r\n'
        monkeypatch.undo()
    os.close(leader)


def test_closed_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without a stdout gets a clear line."""
    monkeypatch.setattr(sys, "stdout", None)
    error = None
    try:
        open_sink("-", columns=[])
    except InputError as caught:
        error = caught
    monkeypatch.undo()
    assert "stdout is closed" in str(error)


def test_stdout_that_must_not_block(piped_stdout: int) -> None:
    """A full pipe that was set not to block is an error, not rows lost or a busy loop."""
    os.set_blocking(sys.stdout.fileno(), False)
    with pytest.raises(OutputError, match="not to block"), open_sink("-", columns=[]) as sink:
        sink.write({}, "x" * 1_000_000)
    assert os.read(piped_stdout, 10) == b'{"output":'


PROGRAM = """
import sys
from batchrt.jobs import OutputClosedError, open_sink
sys.stdin.readline()
try:
    with open_sink("-", columns=[]) as sink:
        for _ in range(10):
            sink.write({}, "x" * 50_000)
except OutputClosedError as error:
    sys.exit(7 if str(error) == "stdout: its reader has gone" else 8)
"""


def test_a_reader_that_has_gone() -> None:
    """`batchrt … | head` ends in an error of its own class, and Python adds nothing at exit."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(b"go\n")
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait() == 7


# Properties

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
AWKWARD = st.one_of(TEXT, st.text('",\t\n\r a', max_size=6))
NAMES = st.lists(
    TEXT.filter(lambda name: name and name not in {"output", "error"} and name[0] != "\ufeff"),
    min_size=1,
    max_size=4,
    unique=True,
)


def json_values(text: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Draw anything that JSON can say, with strings and keys of `text`."""
    numbers = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
    return st.recursive(
        st.one_of(st.none(), st.booleans(), numbers, text),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)
        ),
        max_leaves=8,
    )


# At most one surrogate in a row: two can be a pair, which JSON reads as one character.
ANY_TEXT = st.one_of(st.text(max_size=8), st.characters(categories=["Cs"]))
ROWS = st.lists(
    st.dictionaries(ANY_TEXT, json_values(ANY_TEXT), min_size=1, max_size=4), min_size=1, max_size=5
)


@given(NAMES, st.data(), st.sampled_from(["csv", "tsv", "csv.gz"]))
def test_tables_come_back_unchanged(
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
        open_sink(folder / f"b.{suffix}", columns=source.columns, output_column="o") as copy,
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
            assert copied.values == {**read.values, "o": "", "o_error": ""}


@given(ROWS, json_values(ANY_TEXT))
def test_json_comes_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], output: object
) -> None:
    """Any JSON values, lone surrogates included, are read as they were written, one a line."""
    path = tmp_path_factory.mktemp("t") / "a.jsonl"
    with open_sink(path, columns=[], output_column="output", error_column="error") as sink:
        for row in rows:
            sink.write(row, output)
    assert path.read_bytes().count(b"\n") == len(rows)
    with open_source(path) as source:
        for read, row in zip(source, rows, strict=True):
            assert read.values == {**row, "output": output, "error": None}


@given(json_values(TEXT))
def test_json_in_a_table_can_be_parsed(
    tmp_path_factory: pytest.TempPathFactory, value: object
) -> None:
    """What is no string is JSON in a CSV field, and means the same when it is parsed."""
    path = tmp_path_factory.mktemp("t") / "a.csv"
    write_one(path, [value])
    with open_source(path) as source:
        [row] = source
    assert json.loads(row.values["output"]) == [value]
