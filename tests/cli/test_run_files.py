"""Files and arguments of all shapes, from the outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchrt.errors import InputError
from batchrt.files.csv_reader import CsvReader
from batchrt.providers.chat.json_schema import SchemaError, load_schema
from tests.cli.conftest import Command
from tests.cli.provider import answer, put_in_place


def rows_of(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize(
    "column", ["2019", "Q1: How?", "dc:title", "Wow!", "name!r", "price:.2f", "a[0]", "a{b}", "x.y", " "]
)
def test_run_columns_of_any_name_can_be_asked_about(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    """In a CSV as in JSONL; doubled braces stay braces."""
    asked: list[str] = []

    async def handle(text: str) -> httpx.Response:
        asked.append(text)
        return answer("ok")

    put_in_place(monkeypatch, handle)
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": "1", column: "value"}) + "\n")
    (tmp_path / "in.csv").write_text(f'id,"{column}"\n1,value\n')
    for name in ("in.jsonl", "in.csv"):
        assert command("run", tmp_path / name, "-p", f"{{{{ {{id}} {{{column}}}").code == 0
    assert asked == ["{ 1 value"] * 2


def test_run_columns_that_the_first_row_lacks_are_columns(command: Command, tmp_path: Path) -> None:
    """Optional keys are optional in every row; each row without one says so for itself."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"id": 1}\n{"id": 2, "text": "x"}\n{"id": 3}\n')
    result = command("run", path, "-p", "{text}", "-m", "mock")
    assert result.code == 1
    errors = [row["error"] for row in rows_of(result.out)]
    assert [error is None for error in errors] == [False, True, False]
    assert "row 1 (line 1), column 'text': the row does not have it" in errors[0]
    assert command("run", path, "-p", "{txet}", "-m", "mock").code == 2


def test_run_columns_of_later_rows_are_kept_in_a_table(command: Command, tmp_path: Path) -> None:
    """From a file. From a pipe they are named, also with --quiet."""
    lines = '{"id":1}\n{"id":2,"notes":"precious"}\n{"id":3,"a,b":[1]}\n'
    path = tmp_path / "in.jsonl"
    path.write_text(lines)
    arguments = ["-p", "{id}", "-m", "mock", "--quiet", "--output-format", "csv"]
    result = command("run", path, *arguments)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[0] == 'id,notes,"a,b",output,error,finish_reason'
    assert "precious" in result.out
    piped = command("run", "-", "--format", "jsonl", *arguments, stdin=lines.encode())
    assert piped.err == "batchrt: left out of 2 rows, for there is no column for them: a,b, notes\n"


@pytest.mark.parametrize("name", ["output", "error", "finish_reason"])
def test_run_columns_called_like_added_ones_are_refused_in_any_row(
    command: Command, tmp_path: Path, name: str
) -> None:
    """Before anything is asked, and with the way out."""
    path = tmp_path / "in.jsonl"
    path.write_text(f'{{"id":1}}\n{{"id":2,"{name}":"mine"}}\n')
    refused = command("run", path, "-p", "{id}", "-m", "mock")
    assert refused.code == 2
    assert f"the input has a column {name!r} already" in refused.complaint
    result = command("run", path, "-p", "{id}", "-m", "mock", "--output-column", "new", "-q")
    assert (result.code, result.err) == (0, "")
    assert rows_of(result.out)[1][name] == "mine"
    assert list(rows_of(result.out)[0])[-3:] == ["new", "new_error", "new_finish_reason"]


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "[1, NaN]", '{"a": Infinity}'])
def test_run_numbers_that_are_none_matter_where_they_are_asked_about(
    command: Command, tmp_path: Path, number: str
) -> None:
    """Elsewhere they are null, or hold one."""
    path = tmp_path / "in.jsonl"
    path.write_text(f'{{"id": 1, "score": 1}}\n{{"id": 2, "score": {number}}}\n')
    result = command("run", path, "-p", "{id}", "-m", "mock", "-q")
    assert result.code == 0
    assert "NaN" not in result.out
    assert "Infinity" not in result.out
    asked = command("run", path, "-p", "{score}", "-m", "mock", "-q")
    assert asked.code == 1
    error = rows_of(asked.out)[1]["error"]
    assert "row 2 (line 2), column 'score': " in error
    assert "write null or a string" in error
    embedded = command("embed", path, "--column", "score", "-m", "mock", "-q")
    assert "column 'score'" in rows_of(embedded.out)[1]["error"]


@pytest.mark.parametrize(
    "field", ["{price:.2f}", "{price:d}", "{price:,}", "{price:%}", "{price!r:.2f}", "{id}{price:e}"]
)
def test_run_formats_are_checked_before_the_first_row(command: Command, tmp_path: Path, field: str) -> None:
    """The values of a table are text; in JSONL each value keeps its type."""
    path = tmp_path / "in.csv"
    path.write_text("id,price\n1,9.5\n")
    result = command("run", path, "-p", field, "-m", "mock", "-o", tmp_path / "out.csv")
    assert result.code == 2
    assert "the field 'price' cannot be written as" in result.complaint
    assert "the values of a CSV are text" in result.complaint
    assert not (tmp_path / "out.csv").exists()


def test_run_formats_that_do_not_fit_a_value_name_the_field(command: Command, tmp_path: Path) -> None:
    """In that row."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"price": 1.5}\n{"price": "much"}\n{"price": null}\n')
    result = command("run", path, "-p", "{price:.2f}", "-m", "mock", "-q")
    assert result.code == 1
    first, *others = [row["error"] for row in rows_of(result.out)]
    assert first is None
    assert all("the field 'price' cannot be written as {price:.2f}" in error for error in others)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"properties": null}', "the schema: properties must be an object, not null"),
        ('{"properties": ["a"]}', "properties must be an object, not a list"),
        ('{"properties": {"a": {"maximum": Infinity}}}', "Infinity, which is no number"),
        ('{"properties": {"a": {"maximum": 1e999}}}', "1e999, which is no number"),
        ('{"allOf": {"a": 1}}', "allOf must be a list"),
        ('{"anyOf": []}', "anyOf must be a list"),
        ('{"$defs": []}', "$defs must be an object"),
        ('{"required": "a"}', "required must be a list of names, not a string"),
        ('{"required": [1]}', "required must be a list of names"),
        ('{"properties": {"a": null}}', "the schema.a must be a schema, not null"),
        ('{"properties": {"a": {"type": "strnig"}}}', "the schema.a: type must be one of"),
        ('{"properties": {"a": {"type": []}}}', "type must be one of"),
        ('{"properties": {"a": {"enum": "x"}}}', "enum must be a list"),
        ('{"properties": {"a": {"items": 1}}}', "the schema.a.items must be a schema, not a number"),
        ('{"properties": {"a": {"$ref": 1}}}', "$ref must be a string"),
        ("3", "must be a JSON schema of an object"),
        ("{", "is not JSON"),
    ],
)
def test_run_schemas_of_odd_shapes_are_one_line(
    command: Command, tmp_path: Path, schema: str, words: str
) -> None:
    """The old file is still there."""
    (tmp_path / "in.csv").write_text("id,text\n1,a\n")
    (tmp_path / "schema.json").write_text(schema)
    out = tmp_path / "out.csv"
    out.write_text("precious")
    options = ["--schema", tmp_path / "schema.json", "-o", out, "--overwrite"]
    result = command("run", tmp_path / "in.csv", "-p", "{text}", "-m", "mock", *options)
    assert result.code == 2
    assert result.complaint.startswith(f"--schema: {tmp_path / 'schema.json'} ")
    assert words in result.complaint
    assert out.read_text() == "precious"


def test_run_schemas_that_are_right_are_taken() -> None:
    """With keywords of other drafts, and unknown ones."""
    schema = {
        "type": ["object", "null"],
        "properties": {"a": True, "b": {"type": ["string", "null"]}, "c": {"items": [{}, False]}},
        "additionalProperties": False,
        "x-mine": None,
        "dependentRequired": {"a": ["b"]},
    }
    del schema["type"]
    assert load_schema(json.dumps(schema)) == schema
    deep: dict[str, Any] = {}
    for _ in range(70):
        deep = {"properties": {"a": deep}}
    with pytest.raises(SchemaError, match="nested too deeply"):
        load_schema(json.dumps(deep))


def test_run_messages_are_no_longer_than_a_screen(command: Command, tmp_path: Path) -> None:
    """However long the quoted text."""
    path = tmp_path / "in.csv"
    long = "x" * 100_000
    path.write_text(",".join(f"{long}{number}" for number in range(50)) + "\n")
    many = tmp_path / "many.csv"
    many.write_text(",".join(f"column {number}" for number in range(10_000)) + "\n")
    twice = tmp_path / "twice.csv"
    twice.write_text(f"{long},{long}\n")
    for source in (path, many, twice):
        for prompt in ("{tex}", "{" + long + "y}", "{" + long):
            result = command("run", source, "-p", prompt, "-m", "mock")
            assert result.code == 2
            assert len(result.complaint) < 1500
    with pytest.raises(InputError) as caught:
        CsvReader(iter([f"{long},{long}\n"]), "x.csv", ",")
    assert len(str(caught.value)) < 300


def process(*arguments: bytes | str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "batchrt", *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=120, **options)


@pytest.mark.skipif(sys.platform != "linux", reason="arguments of any bytes")
def test_run_arguments_in_another_encoding_are_one_line(tmp_path: Path) -> None:
    """But a file may have any name."""
    source = os.fsencode(tmp_path) + b"/caf\xe9.csv"
    with open(source, "w") as file:
        file.write("text\na\n")
    done = process("run", source, "-p", "{text}", "-m", "mock", "-q", "-o", source + b".jsonl")
    assert (done.returncode, done.stderr) == (0, b"")
    for option in (b"--prompt=caf\xe9 {text}", b"-pcaf\xe9", b"--model=\xff", b"--output-column=\xff"):
        given: list[bytes | str] = ["run", source, option]
        given += [] if b"-p" in option[:3] else ["-p", "{text}"]
        done = process(*given)
        assert done.returncode == 2
        assert done.stderr.startswith(b"batchrt: -")
        assert b"is not in this system's encoding" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="file descriptors are POSIX's")
@pytest.mark.parametrize("closed", ["0 1 2", "2", "0"])
def test_run_streams_may_be_closed(tmp_path: Path, closed: str) -> None:
    """As some daemons start programs; nothing of the output's takes their place."""
    (tmp_path / "in.csv").write_text("text\na\n")
    program = (
        f"import os, sys\nfor number in map(int, {closed!r}.split()): os.close(number)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'batchrt', *sys.argv[1:]])"
    )
    arguments = ["run", f"{tmp_path}/in.csv", "-p", "{text}", "-m", "mock", "-o", f"{tmp_path}/out.csv"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, check=False)
    assert done.returncode == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 2


def test_run_without_a_journal_overwrite_keeps_the_old_file_until_the_new_one_is_complete(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that is down, and one that answers nothing, leave it as it is; the message says so."""
    folder = tmp_path / ("a folder with a long name " * 5).strip()  # the path is told whole
    folder.mkdir()
    path, out = tmp_path / "in.csv", folder / "out.csv"
    path.write_text("id\n1\n2\n")
    assert command("run", path, "-p", "{id}", "-m", "mock", "-o", out, "-q").code == 0
    yesterday = out.read_text()

    async def handle(text: str) -> httpx.Response:
        return httpx.Response(400, json={"error": {"message": f"no {text}"}})

    arguments = ["run", path, "-p", "{id}", "-o", out, "--overwrite", "--no-journal"]
    with monkeypatch.context() as patch:
        put_in_place(patch, handle)
        failed, quiet = command(*arguments), command(*arguments, "-q")
    assert failed.code == 2
    assert out.read_text() == yesterday
    assert f"the rows so far are in {out}.partial)" in failed.err
    assert f"output: {out}" not in failed.err
    assert quiet.err.count("the old one is unchanged") == 1
    again = command(*arguments, "-m", "mock", "--output-column", "new")
    assert again.code == 0
    assert out.read_text().startswith("id,new,")
    assert f"output: {out}" in again.err


def test_run_several_inputs_and_patterns(command: Command, tmp_path: Path) -> None:
    """A row that lacks a field of the prompt says so, with its file and its number there."""
    (tmp_path / "a.jsonl").write_text('{"id": 1, "text": "x"}\n')
    (tmp_path / "b.csv").write_text("id,text,more\n2,y,z\n")
    (tmp_path / "c.csv").write_text("id\n3\n")
    result = command("run", tmp_path / "a.jsonl", tmp_path / "[bc].csv", "-p", "{text}", "-m", "mock", "-q")
    assert result.code == 1
    rows = rows_of(result.out)
    assert [str(row["id"]) for row in rows] == ["1", "2", "3"]
    assert f"{tmp_path}/c.csv, row 1 (line 2), column 'text': the row does not have it" in rows[2]["error"]
    assert [row["error"] is None for row in rows] == [True, True, False]
    embedded = command("embed", tmp_path / "[bc].csv", "--column", "text", "-m", "mock", "-q")
    assert [row["id"] for row in rows_of(embedded.out)] == [1, 2]
    assert "c.csv, row 1 (line 2), column 'text'" in rows_of(embedded.out)[1]["error"]
    assert "no file matches" in command("run", tmp_path / "*.tsv", "-p", "{text}", "-m", "mock").complaint


def test_run_parquet_in_and_out(command: Command, tmp_path: Path) -> None:
    """Values keep their types; a null in the prompt is empty, as in JSONL, and a format may be given."""
    pa: Any = pytest.importorskip("pyarrow")
    pq: Any = pytest.importorskip("pyarrow.parquet")
    path, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"price": [9.5, None], "tags": [["a"], None]}), path)
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"a": {"type": "string"}}}')
    result = command("run", path, "-p", "{price} {tags}", "-m", "mock", "-o", out, "--schema", schema)
    assert result.code == 0
    found = pq.read_table(out)
    assert found.column_names == ["price", "tags", "output", "error", "finish_reason"]
    assert found.schema.types[:2] == pq.read_schema(path).types
    assert all(isinstance(json.loads(text), dict) for text in found.column("output").to_pylist())
    assert command("run", path, "-p", "{price:.2f}", "-m", "mock", "-n", "1").code == 0
    assert command("embed", path, "--column", "tags", "-m", "mock", "-q").code == 1


def test_run_sample_draws_rows(command: Command, tmp_path: Path) -> None:
    """In their order, the same each time, of the first --limit rows; for vectors too."""
    path = tmp_path / "in.csv"
    path.write_text("id\n" + "".join(f"{number}\n" for number in range(200)))
    arguments = ["run", path, "-p", "{id}", "-m", "mock", "--sample", "5"]
    result = command(*arguments)
    assert result.code == 0
    ids = [int(row["id"]) for row in rows_of(result.out)]
    assert len(ids) == 5
    assert ids == sorted(ids)
    assert "5 rows in" in result.err
    assert rows_of(command(*arguments).out) == rows_of(result.out)
    other = [int(row["id"]) for row in rows_of(command(*arguments, "--sample-seed", "7").out)]
    assert other != ids
    limited = [int(row["id"]) for row in rows_of(command(*arguments, "--limit", "20").out)]
    assert len(limited) == 5
    assert max(limited) < 20
    embedded = command("embed", path, "--column", "id", "-m", "mock", "--sample", "5", "-q")
    assert [row["id"] - 1 for row in rows_of(embedded.out)] == ids


def test_embed_text_is_made_of_columns(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like a prompt; a row without text fails, and a row that lacks a column."""
    path = tmp_path / "in.jsonl"
    rows: list[dict[str, Any]] = [{"t": "a", "b": "x"}, {"t": None, "b": ""}, {"t": "c"}, {"t": 1, "b": [2]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = command("embed", path, "--text", "{t} {b}", "-m", "mock", "-q")
    assert result.code == 1
    found = rows_of(result.out)
    assert [row["error"] is None for row in found] == [True, False, False, True]
    assert f"{path}, row 2 (line 2): there is no text" in found[1]["error"]
    assert f"{path}, row 3 (line 3), column 'b': the row does not have it" in found[2]["error"]
    (tmp_path / "same.csv").write_text('text\n"a x"\n"1 [2]"\n')
    same = rows_of(command("embed", tmp_path / "same.csv", "--column", "text", "-m", "mock", "-q").out)
    assert [row["embedding"] for row in same] == [found[0]["embedding"], found[3]["embedding"]]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "Missing option '--column' or '--text' (see batchrt embed --help)"),
        (["--column", "t", "--text", "{t}"], "leave one out"),
        (["--text", "{x}"], "no column 'x'"),
        (["--text", "all the same"], "every row would have the same vector"),
        (["--text", "{t:.2f}"], "the values of a CSV are text"),
        (["--text", "@gone.txt"], "cannot read 'gone.txt'"),
        (["--text", "{t"], "--text"),
    ],
)
def test_embed_text_mistakes_are_found_first(
    command: Command, tmp_path: Path, options: list[str], problem: str
) -> None:
    """Nothing is sent."""
    path = tmp_path / "in.csv"
    path.write_text("t\na\n")
    result = command("embed", path, "-m", "mock", *options)
    assert result.code == 2
    if problem != "--text":
        assert problem in result.complaint


def test_run_flatten_makes_columns_of_the_schema(command: Command, tmp_path: Path) -> None:
    """With the types of the schema; it is refused without one."""
    path, schema = tmp_path / "in.csv", tmp_path / "schema.json"
    path.write_text("id,name\n1,a\n")
    schema.write_text(
        '{"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}}'
    )
    arguments = ["run", path, "-p", "{id}", "-m", "mock", "--flatten", "-q"]
    result = command(*arguments, "--schema", schema)
    assert result.code == 0
    [row] = rows_of(result.out)
    assert list(row) == ["id", "name", "output_name", "n", "output", "error", "finish_reason"]
    assert isinstance(row["output_name"], str)
    assert isinstance(row["n"], int)
    assert row["output"] is None
    assert "name one with --schema" in command(*arguments).complaint
    schema.write_text('{"type": "object"}')
    assert "name one with --schema" in command(*arguments, "--schema", schema).complaint
