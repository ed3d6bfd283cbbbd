"""Answers that were cut off look like it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchrt.cli.counts import cut_off_reason
from tests.cli.conftest import Command
from tests.cli.provider import answer, put_in_place

ENDS: dict[str, str | None] = {
    "a": "stop",
    "b": "length",
    "c": "content_filter",
    "d": None,
    "e": "max_tokens",
    "f": "recitation",
    "g": "end_turn",
    "h": "eos_token",
}
CUT_OFF = ["b", "c", "e", "f"]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hold a row for each way in which an answer may end."""

    async def handle(text: str) -> httpx.Response:
        message = {"role": "assistant", "content": f'{{"said": "{text}"}}'}
        choice = {"index": 0, "message": message, "finish_reason": ENDS[text]}
        return httpx.Response(200, json={"choices": [choice]})

    put_in_place(monkeypatch, handle)
    path = tmp_path / "in.csv"
    path.write_text("text\n" + "\n".join(ENDS) + "\n")
    return path


def rows_of(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("schema", [False, True])
def test_answers_tell_why_they_ended(command: Command, source: Path, tmp_path: Path, schema: bool) -> None:
    """In a column, and in lines that --quiet does not silence."""
    (tmp_path / "s.json").write_text('{"type": "object", "properties": {"said": {"type": "string"}}}')
    options = ["--schema", tmp_path / "s.json"] if schema else []
    result = command("run", source, "-p", "{text}", "-q", *options)
    assert result.code == 0
    rows = rows_of(result.out)
    assert {row["text"]: row["finish_reason"] for row in rows} == ENDS
    assert all(row["output"] and row["error"] is None for row in rows)
    assert sorted(result.err.splitlines()) == [
        "batchrt: 1 answer cut off at the token limit",
        "batchrt: 1 answer cut off at the token limit",
        "batchrt: 1 answer cut off by the provider's content filter",
        "batchrt: 1 answer ended for the reason 'recitation'",
    ]


def test_answers_that_are_cut_off_may_be_failures(command: Command, source: Path) -> None:
    """Their text is kept."""
    result = command("run", source, "-p", "{text}", "-q", "--fail-cut-off", "--output-format", "csv")
    assert result.code == 1
    rows = list(csv.DictReader(result.out.splitlines()))
    assert [row["text"] for row in rows if row["error"]] == CUT_OFF
    assert all(row["output"] for row in rows)
    assert "cut off at the token limit; raise --max-tokens" in rows[1]["error"]


def test_answers_that_failed_have_no_reason(command: Command, tmp_path: Path) -> None:
    """Neither has a row that was not sent."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a"}\n{}\n')
    rows = rows_of(command("run", path, "-p", "{text}", "-m", "mock").out)
    assert [row["finish_reason"] for row in rows] == ["stop", None]


def test_answers_of_unknown_reasons_are_quoted_briefly() -> None:
    """Servers make words of their own."""
    assert cut_off_reason("LENGTH") == "cut off at the token limit"
    assert len(cut_off_reason("x" * 1000)) < 80


def test_answers_that_do_not_fit_a_schema_are_asked_for_again(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and the tokens of both are counted."""
    asked: list[str] = []

    async def handle(text: str) -> httpx.Response:
        asked.append(text)
        return answer('{"said": "a"}' if len(asked) > 1 else "I say a.")

    put_in_place(monkeypatch, handle)
    (tmp_path / "in.csv").write_text("text\na\n")
    (tmp_path / "s.json").write_text('{"type": "object", "properties": {"said": {"type": "string"}}}')
    result = command("run", tmp_path / "in.csv", "-p", "{text}", "--schema", tmp_path / "s.json")
    assert [row["output"] for row in rows_of(result.out)] == [{"said": "a"}]
    assert asked[0] == "a"
    assert "does not fit the schema" in asked[1]
    assert "tokens: 4 in, 2 out" in result.err
    assert "repeated requests: 1" in result.err
