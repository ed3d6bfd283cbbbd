from __future__ import annotations

import csv
import gzip
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchrt.cli import run
from batchrt.cli.options import RunSettings
from batchrt.cli.prompt import chat_model
from batchrt.providers.chat.model import ChatOpenAI
from batchrt.testing import Fault, FaultPlan, MockProvider, MockServer
from tests.cli.conftest import Command
from tests.cli.provider import answer, put_in_place

ROWS = [{"id": str(number), "text": f"text {number}"} for number in range(20)]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    lines = ["id,text", *(f"{row['id']},{row['text']}" for row in ROWS)]
    path.write_text("\n".join(lines) + "\n")
    return path


def written(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_run_every_row_gets_its_own_answer_in_order(command: Command, table: Path, tmp_path: Path) -> None:
    """The embedded model needs neither a key nor a server; columns stay and two are added."""
    out = tmp_path / "out.jsonl"
    result = command("run", table, "--prompt", "Say {text}!", "--model", "mock", "-o", out)
    assert result.code == 0
    answer_to = MockProvider().answer_to
    assert written(out.read_text()) == [
        {**row, "output": answer_to(f"Say {row['text']}!"), "error": None, "finish_reason": "stop"}
        for row in ROWS
    ]
    assert result.out == ""
    assert re.search(r"^20 rows in .* 20 done, 0 failed$", result.err, re.MULTILINE)
    assert f"output: {out}" in result.err


def test_run_rows_go_to_stdout_by_default(command: Command, table: Path) -> None:
    """As JSONL, and --quiet leaves nothing else to be seen."""
    result = command("run", table, "--prompt", "{text}", "--model", "mock", "--quiet")
    assert (result.code, result.err) == (0, "")
    assert [row["id"] for row in written(result.out)] == [row["id"] for row in ROWS]


def test_run_stdin_is_read_as_its_format_says(command: Command, table: Path) -> None:
    """From a pipe, with the output in another format."""
    arguments = ["run", "-", "--format", "csv", "--prompt", "{text}", "--model", "mock"]
    result = command(*arguments, "--output-format", "tsv", stdin=table.read_bytes())
    assert result.code == 0
    rows = list(csv.DictReader(result.out.splitlines(), dialect="excel-tab"))
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    assert all(row["output"] and not row["error"] for row in rows)


def test_run_packed_table_becomes_a_packed_table(command: Command, table: Path, tmp_path: Path) -> None:
    """By their suffixes."""
    packed, out = tmp_path / "in.csv.gz", tmp_path / "out.csv.gz"
    packed.write_bytes(gzip.compress(table.read_bytes()))
    assert command("run", packed, "--prompt", "{text}", "--model", "mock", "-o", out).code == 0
    rows = list(csv.DictReader(gzip.decompress(out.read_bytes()).decode().splitlines()))
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]


def test_run_limit_takes_the_first_rows(command: Command, table: Path) -> None:
    """And no more are asked about."""
    result = command("run", table, "--prompt", "{text}", "--model", "mock", "--limit", "3")
    assert [row["id"] for row in written(result.out)] == ["0", "1", "2"]


def test_run_bad_rows_cost_no_request_and_stay_in_their_places(
    command: Command, tmp_path: Path, mock_server: MockServer
) -> None:
    """Each says which file, which row and which column; the exit code is 1."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"a": "x"}\n{"b": 1}\nnonsense\n{"a": "y"}\n')
    result = command("run", path, "--prompt", "{a}", "--base-url", mock_server.base_url)
    assert result.code == 1
    first, second, third, fourth = written(result.out)
    assert first["output"]
    assert fourth["output"]
    assert second["error"].startswith(f"InputError: {path}, row 2 (line 2), column 'a': ")
    assert third["error"].startswith(f"InputError: {path}, row 3 (line 3): not valid JSON")
    assert mock_server.provider.log.snapshot().requests == 2
    assert "2 InputError, as in row 2: " in result.err


def test_run_values_that_are_no_strings_stand_in_the_prompt_as_in_the_file(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON and not Python; null is nothing; numbers take a format."""
    asked: list[str] = []

    async def handle(text: str) -> httpx.Response:
        asked.append(text)
        return answer("ok")

    put_in_place(monkeypatch, handle)
    row = {"null": None, "true": True, "list": [1, {"é": None}], "dict": {"k": "v"}, "number": 1.5}
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(row) + "\n")
    prompt = "{null}|{true}|{list}|{dict}|{number:.2f}"
    assert command("run", path, "--prompt", prompt).code == 0
    assert asked == ['|true|[1, {"é": null}]|{"k": "v"}|1.50']


def test_run_prompts_are_read_from_files(
    command: Command, table: Path, tmp_path: Path, mock_server: MockServer
) -> None:
    """With @; the system message comes first; @@ stands for an @."""
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("About {text}\n")
    arguments = ["--prompt", f"@{prompt}", "--system", "@@{id}", "--limit", 1]
    result = command("run", table, *arguments, "--model", "mock")
    messages = [{"role": "system", "content": "@0"}, {"role": "user", "content": "About text 0"}]
    assert written(result.out)[0]["output"] == MockProvider().answer_to(messages)


def test_run_schema_makes_answers_objects(command: Command, table: Path, tmp_path: Path) -> None:
    """Which in a table are JSON in a field."""
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}')
    arguments = ["run", table, "--prompt", "{text}", "--model", "mock", "--schema", schema, "-n", 2]
    objects = [row["output"] for row in written(command(*arguments).out)]
    assert all(isinstance(value["n"], int) for value in objects)
    rows = csv.DictReader(command(*arguments, "--output-format", "csv").out.splitlines())
    assert [json.loads(row["output"]) for row in rows] == objects


def test_run_options_reach_the_provider(command: Command, table: Path) -> None:
    """Under the names that servers other than OpenAI's know."""
    bodies: list[dict[str, Any]] = []

    def reply(body: Any) -> str:
        bodies.append(dict(body))
        return "ok"

    with MockProvider(answer=reply).serve() as server:
        arguments = ["--model", "m1", "--temperature", "0.5", "--max-tokens", 7, "--limit", 1]
        result = command("run", table, "--prompt", "{text}", "--base-url", server.base_url, *arguments)
    assert result.code == 0
    [body] = bodies
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m1", 0.5, 7)


def test_run_faults_of_every_kind_leave_every_row_right_or_with_its_own_error(
    command: Command, table: Path
) -> None:
    """None is lost, none is out of order."""
    faults = FaultPlan.everything(0.5, stall_seconds=0.01)
    with MockProvider(faults=faults).serve() as server:
        result = command("run", table, "--prompt", "{text}", "--base-url", server.base_url)
        answer_to = server.provider.answer_to
    rows = written(result.out)
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    for row in rows:
        assert (row["output"] == answer_to(row["text"])) == (row["error"] is None)
    failed = sum(row["error"] is not None for row in rows)
    assert 0 < failed < len(rows)
    assert result.code == 1
    assert f"{len(rows) - failed} done, {failed} failed" in result.err
    assert "repeated requests: " in result.err


def test_run_row_that_takes_too_long_fails_alone(command: Command, table: Path) -> None:
    """The timeout is the row's."""
    with MockProvider(faults=FaultPlan(script=[Fault.STALL(seconds=60)])).serve() as server:
        arguments = ["--base-url", server.base_url, "--timeout", "0.2", "-c", "1", "-n", "2"]
        first, second = written(command("run", table, "--prompt", "{text}", *arguments).out)
    assert first["error"] == "ItemTimeoutError: the row took longer than its timeout of 0.2 s"
    assert second["output"]


def test_run_cut_off_answers_are_counted(command: Command, table: Path) -> None:
    """A table full of half answers should not look fine."""
    result = command("run", table, "--prompt", "{text}", "--model", "mock", "--max-tokens", 1, "-n", 2)
    assert result.code == 0
    assert "2 answers cut off at the token limit" in result.err


def test_run_prompt_without_columns_is_remarked_upon(command: Command, table: Path) -> None:
    """It is allowed, and seldom meant."""
    result = command("run", table, "--prompt", "Tell a joke", "--model", "mock", "-n", 2)
    assert result.code == 0
    assert "batchrt: the prompt has no {column}: every row is asked the same" in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", "{tex}"], "no column 'tex', did you mean 'text'? (it has: id, text)"),
        (["--prompt", "{text"], "the prompt template is not valid"),
        (["--prompt", ""], "--prompt is empty"),
        (["--prompt", "@no.txt"], "--prompt: cannot read 'no.txt': no such file or directory"),
        (["--prompt", "{text}", "--system", "@no.txt"], "--system: cannot read 'no.txt'"),
        (["--prompt", "{text}", "--timeout", "0"], "--timeout must be a number of seconds above 0, not 0"),
        (["--prompt", "{text}", "--timeout", "nan"], "--timeout must be a number of seconds above 0"),
        (
            ["--prompt", "{text}", "--requests-per-minute", "0"],
            "--requests-per-minute must be a number above 0, not 0",
        ),
        (["--prompt", "{text}", "--rpm", "inf"], "--requests-per-minute must be a number above 0, not inf"),
        (["--prompt", "{text}", "--tpm", "nan"], "--tokens-per-minute must be a number above 0, not nan"),
        (
            ["--prompt", "{text}", "--patience", "-1"],
            "--patience must be a number of seconds, 0 or more, not -1",
        ),
        (
            ["--prompt", "{text}", "--max-wait", "inf"],
            "--max-wait must be a number of seconds, 0 or more, not inf",
        ),
        (["--prompt", "{text}", "--temperature", "9"], "--temperature must be from 0 to 2, not 9.0"),
        (["--prompt", "{text}", "--schema", "no.json"], "--schema: cannot read 'no.json'"),
        (["--prompt", "{text}", "--schema", "{table}"], "is not JSON"),
        (
            ["--prompt", "{text}", "-o", "out.xlsx"],
            "say which with --output-format csv, tsv, jsonl or parquet",
        ),
        (["--prompt", "{text}", "-o", "{table}"], "this is the input"),
        (["--prompt", "{text}", "-o", "{table}", "--overwrite"], "this is the input"),
        (["--prompt", "{text}", "-o", "no/out.csv"], "there is no folder 'no'"),
        (["--prompt", "{text}", "--output-column", "id"], "the input has a column 'id' already"),
        (["--prompt", "{text}", "--model", "m"], "there is no API key; set OPENAI_API_KEY"),
        (["--prompt", "{text}", "--base-url", "ftp://x"], "--base-url must be a URL"),
    ],
)
def test_run_mistakes_are_told_before_anything_is_sent(
    command: Command, table: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    """One line, exit code 2, and no file is made."""
    monkeypatch.chdir(table.parent)
    given = [argument.replace("{table}", str(table)) for argument in arguments]
    if "--model" not in given and "--base-url" not in given:
        given += ["--model", "mock"]
    result = command("run", table, *given)
    assert result.code == 2
    assert words in result.complaint
    assert list(table.parent.iterdir()) == [table]


def test_run_file_that_is_there_is_kept_unless_told_otherwise(
    command: Command, table: Path, tmp_path: Path
) -> None:
    """It may have been paid for."""
    out = tmp_path / "out.csv"
    arguments = ["run", table, "--prompt", "{text}", "--model", "mock", "-o", out]
    out.write_text("precious")
    refused = command(*arguments)
    assert refused.code == 2
    assert "the file exists already; name another one or add --overwrite" in refused.complaint
    assert out.read_text() == "precious"
    assert command(*arguments, "--overwrite").code == 0
    assert len(out.read_text().splitlines()) == 1 + len(ROWS)


@pytest.mark.parametrize("schema", ["[]", '{"type": "array"}'])
def test_run_schema_must_be_an_objects(command: Command, table: Path, tmp_path: Path, schema: str) -> None:
    """No provider takes another."""
    path = tmp_path / "schema.json"
    path.write_text(schema)
    result = command("run", table, "--prompt", "{text}", "--model", "mock", "--schema", path)
    assert result.code == 2
    assert "must be a JSON schema of an object" in result.complaint


def test_run_more_connections_than_the_system_allows_are_refused(
    command: Command, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the ten-thousandth fails to open."""
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 164))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    result = command("run", table, "--prompt", "{text}", "--base-url", "http://x", "-c", 200)
    assert result.code == 2
    assert "use at most 100, or allow more with ulimit -n" in result.complaint


@pytest.mark.parametrize(("refuses", "most"), [(False, 100), (True, 36)])
def test_run_auto_stays_below_the_limit_of_open_files(
    command: Command, table: Path, monkeypatch: pytest.MonkeyPatch, refuses: bool, most: int
) -> None:
    """The limit is raised as far as it goes, and it never fails."""
    resource = pytest.importorskip("resource")
    asked: list[object] = []

    def setrlimit(_kind: int, limits: tuple[int, int]) -> None:
        asked.append(limits)
        if refuses:
            raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 164))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    models: list[ChatOpenAI] = []

    def model(settings: RunSettings) -> ChatOpenAI:
        models.append(chat_model(settings))
        return models[0]

    monkeypatch.setattr(run, "chat_model", model)
    with MockProvider().serve() as server:
        result = command("run", table, "--prompt", "{text}", "--base-url", server.base_url)
    assert result.code == 0
    assert asked == [(164, 164)]
    assert repr(models[0].quota) == f"Quota(max_in_flight={most})"


def test_run_reader_that_has_gone_ends_it_quietly(
    command: Command, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `| head` does; the exit code is the shell's for a broken pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        result = command("run", table, "--prompt", "{text}", "--model", "mock")
    assert result == (141, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_run_full_disk_is_one_line(command: Command, table: Path) -> None:
    """And no traceback."""
    arguments = ["--model", "mock", "-o", "/dev/full", "--output-format", "csv"]
    result = command("run", table, "--prompt", "{text}", *arguments)
    assert result.code == 4
    assert result.complaint.startswith("/dev/full: cannot write: no space left on device")
