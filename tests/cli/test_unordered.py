"""`--unordered` and `--follow`: rows are written as they end, and as they are appended to the input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest

from batchrt.jobs.journal_reader import JournalReader
from batchrt.testing import MockProvider
from tests.cli.conftest import Command
from tests.cli.provider import answer, put_in_place

ROWS = 30
JOURNALS = pytest.mark.parametrize("more", [[], ["--no-journal"]], ids=["journal", "no journal"])
PATIENCE = 60.0


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"n": {number}}}\n' for number in range(ROWS)))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def outputs(path: Path) -> list[str]:
    return [row["output"] for row in read(path)]


def until(holds: Callable[[], bool]) -> bool:
    """Wait until it holds, and return whether it does."""
    end = time.monotonic() + PATIENCE
    while not holds() and time.monotonic() < end:
        time.sleep(0.005)
    return holds()


@JOURNALS
def test_unordered_rows_are_on_the_disk_before_one_that_stalls(
    command: Command, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    """The row that stalls is the last; each row is written once."""
    out = tmp_path / "out.jsonl"
    seen: list[int] = []

    async def handle(text: str) -> httpx.Response:
        if text == "0":
            await anyio.to_thread.run_sync(until, lambda: len(read(out)) == ROWS - 1)
            seen.append(len(read(out)))
        return answer(f"to {text}")

    put_in_place(monkeypatch, handle)
    assert command("run", rows, "-p", "{n}", "-o", out, "-c", 4, "--unordered", *more).code == 0
    assert seen == [ROWS - 1]
    assert outputs(out)[-1] == "to 0"
    assert sorted(outputs(out)) == sorted(f"to {number}" for number in range(ROWS))


def test_unordered_output_begins_with_reused_rows(
    command: Command, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C it has the rows so far; the next run writes those first, and all in the end."""
    out, stop = tmp_path / "out.jsonl", [True]

    async def handle(text: str) -> httpx.Response:
        if text == "9" and stop[0]:
            signal.raise_signal(signal.SIGINT)
        return answer(f"to {text}")

    put_in_place(monkeypatch, handle)
    given = ["run", rows, "-p", "{n}", "-o", out, "-c", 4, "--unordered"]
    stopped = command(*given)
    assert stopped.code == 130
    before = outputs(out)
    assert 0 < len(before) < ROWS
    assert f"has the outcomes of {len(before)} rows; run the same command to continue" in stopped.err
    stop[0] = False
    assert command(*given).code == 0
    assert sorted(outputs(out)[: len(before)]) == sorted(before)
    assert sorted(outputs(out)) == sorted(f"to {number}" for number in range(ROWS))
    ordered = command(*given[:-1])
    assert ordered.code == 0
    assert outputs(out) == [f"to {number}" for number in range(ROWS)]


def test_unordered_output_of_moved_rows_has_each_once(
    command: Command, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are found elsewhere in the journal, and one that failed and is asked again."""
    out, refuse = tmp_path / "out.jsonl", [True]

    async def handle(text: str) -> httpx.Response:
        if text == "4" and refuse[0]:
            return httpx.Response(400, json={"error": {"message": "no"}})
        return answer(f"to {text}")

    put_in_place(monkeypatch, handle)
    given = ["run", rows, "-p", "{n}", "-o", out, "--unordered", "--retry-failed"]
    assert command(*given).code == 1
    refuse[0] = False
    rows.write_text("".join(f'{{"n": {number}}}\n' for number in (*range(ROWS + 2, 0, -2), 4, 5)))
    assert command(*given).code == 0
    wanted = sorted(f"to {number}" for number in (*range(ROWS + 2, 0, -2), 4, 5))
    assert sorted(outputs(out)) == wanted


@pytest.mark.parametrize("name", ["v.npy", "v.jsonl", "v.parquet"])
@JOURNALS
def test_unordered_vectors_have_the_ids_of_their_rows(
    command: Command, rows: Path, tmp_path: Path, name: str, more: list[str]
) -> None:
    """In each format of vectors the row says which it is."""
    np = pytest.importorskip("numpy")
    out = tmp_path / name
    given = ["embed", rows, "--text", "t{n}", "-m", "mock", "--id", "n", "-o", out, "--unordered", *more]
    assert command(*given, "--max-batch-size", 7).code == 0
    if name == "v.npy":
        ids = [row["id"] for row in read(tmp_path / "v.ids.jsonl")]
        vectors = np.load(out)
    elif name == "v.jsonl":
        ids, vectors = [row["id"] for row in read(out)], [row["embedding"] for row in read(out)]
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(out)
        ids, vectors = [int(text) for text in table["id"].to_pylist()], table["embedding"].to_pylist()
    assert sorted(ids) == [*range(ROWS)]
    for number, vector in zip(ids, vectors, strict=True):
        expected = np.array(MockProvider().vector_of(f"t{number}"), dtype=np.float32)
        assert np.array_equal(np.array(vector, dtype=np.float32), expected)


@JOURNALS
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_follow_writes_rows_that_are_appended(tmp_path: Path, suffix: str, more: list[str]) -> None:
    """Until Ctrl-C; with a journal, the next run asks only rows that were appended since."""
    path, out = tmp_path / f"in.{suffix}", tmp_path / "out.jsonl"
    asked: list[str] = []

    def reply(body: Any) -> str:
        text: str = body["messages"][-1]["content"]
        asked.append(text)
        return f"to {text}"

    def append(number: int) -> None:
        with path.open("a") as file:
            file.write(f"{number}\n" if suffix == "csv" else f'{{"n": {number}}}\n')

    path.write_text("n\n" if suffix == "csv" else "")
    append(0)
    with MockProvider(answer=reply).serve() as server:
        program = [sys.executable, "-m", "batchrt", "run", str(path), "-p", "{n}", "-o", str(out), "-m", "m"]
        program += ["--base-url", server.base_url, "--follow", *more]
        with subprocess.Popen(program, stderr=subprocess.PIPE) as process:
            for number in range(1, 4):
                assert until(lambda number=number: len(read(out)) == number)  # type: ignore[misc]
                append(number)
            assert until(lambda: len(read(out)) == 4)
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
        assert outputs(out) == [f"to {number}" for number in range(4)]
        if more:
            return
        asked.clear()
        append(4)
        with subprocess.Popen(program, stderr=subprocess.PIPE) as process:
            assert until(lambda: len(read(out)) == 5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 143
        assert asked == ["4"]


@JOURNALS
def test_follow_a_pipe_ends_with_its_writer(command: Command, tmp_path: Path, more: list[str]) -> None:
    """Each row of it is written before the next one comes."""
    pipe, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    os.mkfifo(pipe)
    seen: list[int] = []

    def write() -> None:
        with pipe.open("w") as file:
            for number in range(3):
                file.write(f'{{"n": {number}}}\n')
                file.flush()
                until(lambda number=number: len(read(out)) > number)  # type: ignore[misc]
                seen.append(len(read(out)))

    writer = threading.Thread(target=write)
    writer.start()
    assert command("run", pipe, "-p", "{n}", "-m", "mock", "-o", out, "--follow", *more).code == 0
    writer.join()
    assert seen == [1, 2, 3]


def test_follow_killed_job_loses_nothing(tmp_path: Path, rows: Path) -> None:
    """What was written is in the journal; the next run writes it again, with the rest."""
    out, journal = tmp_path / "out.jsonl", tmp_path / "out.jsonl.journal"
    asked: list[str] = []

    def reply(body: Any) -> str:
        asked.append(body["messages"][-1]["content"])
        return f"to {asked[-1]}"

    with MockProvider(answer=reply, latency=0.05).serve() as server:
        program = [sys.executable, "-m", "batchrt", "run", str(rows), "-p", "{n}", "-o", str(out), "-m", "m"]
        program += ["--base-url", server.base_url, "-c", "2"]
        with subprocess.Popen([*program, "--follow"], stderr=subprocess.PIPE) as process:
            assert until(lambda: len(read(out)) > 3)
            process.kill()
        written = outputs(out)
        with JournalReader(journal) as reader:
            known = {json.loads(given)["n"] for _, given, _ in reader.records()}
        assert {int(text.removeprefix("to ")) for text in written} <= known
        asked.clear()
        last = subprocess.run([*program, "--unordered"], capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    assert not {str(number) for number in known} & set(asked)
    assert sorted(outputs(out)) == sorted(f"to {number}" for number in range(ROWS))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--sample", "2"], "--sample reads the input to its end"),
        (["--format", "parquet"], "one CSV, TSV or JSONL file can be followed, or a pipe"),
        (["{other}"], "one CSV, TSV or JSONL file can be followed, or a pipe"),
    ],
)
def test_follow_mistakes_are_told(
    command: Command, rows: Path, tmp_path: Path, options: list[str], problem: str
) -> None:
    """Before anything is sent."""
    other = tmp_path / "other.jsonl"
    other.write_text('{"n": 1}\n')
    given = [option.format(other=other) for option in options]
    result = command("run", rows, *given, "-p", "{n}", "-m", "mock", "--follow")
    assert result.code == 2
    assert problem in result.complaint
