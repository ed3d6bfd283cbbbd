"""`--cache`: answers of identical requests for any job of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchrt.testing import MockProvider
from tests.cli import embedder, provider
from tests.cli.conftest import Command


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the texts that the provider was asked."""
    texts: list[str] = []

    async def handle(text: str) -> httpx.Response:
        texts.append(text)
        return provider.answer(f"to {text}")

    provider.put_in_place(monkeypatch, handle)
    return texts


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"n": {number}}}\n' for number in range(6)))
    return path


def outputs(text: str) -> list[Any]:
    return [json.loads(line)["output"] for line in text.splitlines()]


def test_cache_serves_other_jobs(command: Command, asked: list[str], rows: Path, tmp_path: Path) -> None:
    """With a journal of their own or none; the summary counts the answers, and the tokens of others alone."""
    cache = tmp_path / "answers.cache"
    first = command("run", rows, "-p", "{n}", "-o", tmp_path / "a.jsonl", "--limit", 4, "--cache", cache)
    assert first.code == 0
    assert "from the response cache" not in first.err
    assert sorted(asked) == ["0", "1", "2", "3"]
    asked.clear()
    second = command("run", rows, "-p", "{n}", "-o", tmp_path / "b.jsonl", "--cache", cache)
    assert sorted(asked) == ["4", "5"]
    assert "\nfrom the response cache: 4 answers\n" in second.err
    assert "tokens: 4 in, 2 out" in second.err
    third = command("run", rows, "-p", "{n}", "--cache", cache)
    assert len(asked) == 2
    assert "from the response cache: 6 answers" in third.err
    assert outputs(third.out) == [f"to {number}" for number in range(6)]
    assert outputs((tmp_path / "b.jsonl").read_text()) == outputs(third.out)


def test_cache_serves_vectors(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts that are kept are left out of the lists."""
    mock = MockProvider()
    embedder.put_in_place(monkeypatch, mock)
    table, cache = embedder.new_table(tmp_path), tmp_path / "vectors.cache"
    given = ("embed", table, "--column", "text", "--cache", cache)
    assert command(*given, "-o", tmp_path / "a.jsonl", "--limit", 15).code == 0
    result = command(*given)
    assert mock.log.snapshot().items == len(embedder.ROWS)
    assert "from the response cache: 15 answers" in result.err
    vectors = [embedder.single(line["embedding"]) for line in embedder.written(result.out)]
    assert vectors == embedder.VECTORS.tolist()


def test_cache_that_is_damaged_is_told_and_the_job_goes_on(
    command: Command, asked: list[str], rows: Path, tmp_path: Path
) -> None:
    """In one line, also with -q."""
    cache = tmp_path / "damaged.cache"
    cache.write_bytes(b"no database" * 500)
    result = command("run", rows, "-p", "{n}", "-q", "--cache", cache)
    assert result.code == 0
    assert len(asked) == 6
    told = (
        f"batchrt: the response cache {cache} is not used any more: file is not a database; requests are sent"
    )
    assert result.err == f"{told}. Make room, or delete the file if it is damaged\n"


@pytest.mark.parametrize(
    ("cache", "problem"),
    [
        ("{rows}", "--cache {rows} is INPUT too; name another file"),
        ("{out}", "--cache {out} is OUT too; name another file"),
        ("{out}.journal", "--cache {out}.journal is the journal too; name another file"),
        ("s3://bucket/x", "--cache s3://bucket/x: it must be a file of this machine; name another one"),
        ("{folder}", "the response cache {folder}: it is a folder; name a file in it"),
        (
            "{folder}/none/x",
            "the response cache {folder}/none/x: there is no folder '{folder}/none'; make it first",
        ),
    ],
)
def test_cache_that_cannot_be_meant_is_refused(
    command: Command, asked: list[str], rows: Path, tmp_path: Path, cache: str, problem: str
) -> None:
    """Before anything is sent, and before a file is made."""
    out = tmp_path / "out.jsonl"
    names = {"rows": rows, "out": out, "folder": tmp_path}
    result = command("run", rows, "-p", "{n}", "-o", out, "--cache", cache.format(**names))
    assert (result.code, result.complaint) == (2, problem.format(**names))
    assert asked == []
    assert not out.exists()


@pytest.mark.usefixtures("asked")
def test_cache_is_not_made_by_a_dry_run(command: Command, rows: Path, tmp_path: Path) -> None:
    """Which sends nothing."""
    cache = tmp_path / "answers.cache"
    assert command("run", rows, "-p", "{n}", "--dry-run", "--cache", cache).code == 0
    assert not cache.exists()
