"""How embedding ends that does not simply come to its end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import httpx
import numpy as np
import pytest

from batchrt.cli import process as process_module
from batchrt.cli.job import Job
from batchrt.testing import Fault, FaultPlan, MockProvider, RequestLog
from tests.cli.conftest import Command
from tests.cli.embedder import ask_first, put_in_place, written

WIDTH = 4

ONE_SIGNAL = process_module._ONE_SIGNAL


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """A hundred rows that say which they are."""
    path = tmp_path / "in.csv"
    path.write_text("n\n" + "".join(f"{number}\n" for number in range(100)))
    return path


def embedded(out: Path) -> list[int]:
    """Give the numbers whose vectors are in a matrix, and check that they are."""
    matrix, provider = np.load(out), MockProvider(dimensions=WIDTH)
    rows = written(out.with_suffix(".ids.jsonl").read_text())
    assert [row["row"] for row in rows] == [*range(len(matrix))]
    for row, vector in zip(rows, matrix.tolist(), strict=True):
        assert row["error"] is None
        assert vector == provider.vector_of(row["id"])
    return [int(row["id"]) for row in rows]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_embed_first_signal_lets_lists_in_flight_finish(
    command: Command,
    numbers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
) -> None:
    """No list is begun after it, none that was begun is lost."""
    stopped = anyio.Event()
    stop = Job._stop

    def stop_and_tell(job: Job, number: int) -> None:
        stop(job, number)
        stopped.set()

    async def first(texts: list[str]) -> None:
        if texts[0] == "20":
            signal.raise_signal(number)
        if int(texts[0]) >= 20:
            await stopped.wait()

    monkeypatch.setattr(Job, "_stop", stop_and_tell)
    ask_first(monkeypatch, MockProvider(dimensions=WIDTH), first, max_batch_size=10)
    out = tmp_path / "v.npy"
    result = command("embed", numbers, "--column", "n", "--id", "n", "-o", out, "-c", 2)
    assert result.code == code
    assert embedded(out) == [*range(40)]
    assert "batchrt: stopping, with 20 rows in flight to finish" in result.err
    assert "40 done, 0 failed\n" in result.err


def test_embed_second_signal_cancels_and_keeps_finished_rows(
    command: Command, numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also lists that waited for one before them; unfinished lists are left out."""

    async def first(texts: list[str]) -> None:
        if texts[0] == "10":
            await anyio.sleep_forever()
        if texts[0] == "40":  # 0, 20 and 30 went through the other slot
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            await anyio.sleep_forever()

    ask_first(monkeypatch, MockProvider(dimensions=WIDTH), first, max_batch_size=10)
    out = tmp_path / "v.npy"
    result = command("embed", numbers, "--column", "n", "--id", "n", "-o", out, "-c", 2)
    assert result.code == 130
    assert embedded(out) == [*range(10), *range(20, 40)]
    assert "batchrt: cancelled 20 rows in flight" in result.err
    assert "30 done, 0 failed, 20 more cancelled" in result.err
    assert f"output: 30 rows of 4 numbers in {out}" in result.err


def test_embed_done_part_of_a_list_that_was_split_is_kept(
    command: Command, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was paid for."""
    asked: list[int] = []

    async def first(texts: list[str]) -> None:
        asked.append(len(texts))
        if texts == ["5"]:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            await anyio.sleep_forever()

    provider = MockProvider(dimensions=WIDTH, reject=lambda text: text == "5")
    ask_first(monkeypatch, provider, first, max_batch_size=8)
    result = command("embed", numbers, "--column", "n", "--id", "n", "-c", 1)
    assert result.code == 130
    assert asked == [8, 4, 4, 2, 1, 1]
    assert [row["id"] for row in written(result.out)] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("status", "code"), [(401, "invalid_api_key"), (429, "insufficient_quota"), (404, "model_not_found")]
)
def test_embed_aborts_if_the_provider_refuses_every_request(
    command: Command,
    numbers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: str,
) -> None:
    """After a handful of lists and not after all; exit code 2, for nothing was done."""
    asked: list[str] = []

    async def handle(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content)["input"][0])
        return httpx.Response(status, json={"error": {"message": "no", "code": code}})

    put_in_place(monkeypatch, MockProvider(), transport=httpx.MockTransport(handle), max_batch_size=10)
    out = tmp_path / "v.npy"
    result = command("embed", numbers, "--column", "n", "-o", out, "-c", 1, "--no-journal")
    assert result.code == 2
    assert asked == ["0", "10", "20", "30", "40"]
    last = result.err.splitlines()[-1]
    assert last.startswith("batchrt: stopped because the provider refuses every request: ")
    assert code in last
    assert np.load(out).shape == (50, 0)
    assert len(written((tmp_path / "v.ids.jsonl").read_text())) == 50


def test_embed_single_refusal_is_the_lists_own(
    command: Command, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad account behind a proxy does not stop a job."""
    faults = FaultPlan(script=[Fault.UNAUTHORIZED, None] * 5)
    put_in_place(monkeypatch, MockProvider(dimensions=WIDTH, faults=faults), max_batch_size=10)
    result = command("embed", numbers, "--column", "n", "-c", 1)
    assert result.code == 1
    assert "50 done, 50 failed" in result.err
    assert "stopped" not in result.err


@pytest.mark.parametrize("kind", ["npy", "parquet", "jsonl"])
def test_embed_without_patience_a_server_that_is_down_fails_every_row(
    command: Command, numbers: Path, tmp_path: Path, kind: str
) -> None:
    """Nothing is stopped; each row says what happened."""
    out = tmp_path / f"v.{kind}"
    where = ["--base-url", "http://127.0.0.1:9/v1", "--max-retries", 0, "--patience", 0]
    arguments = [*where, "-n", 8, "-o", out]
    result = command("embed", numbers, "--column", "n", *arguments, "--dimensions", 3)
    assert result.code == 2
    if kind == "npy":
        assert np.isnan(np.load(out)).all()
        assert np.load(out).shape == (8, 3)
        rows = written((tmp_path / "v.ids.jsonl").read_text())
    elif kind == "parquet":
        rows = pytest.importorskip("pyarrow.parquet").read_table(out).to_pylist()
    else:
        rows = written(out.read_text())
    assert len(rows) == 8
    assert all(row["error"].startswith("ConnectionFailedError: ") for row in rows)


def test_embed_key_is_never_shown(
    command: Command, numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the output, nor in messages, nor when a server echoes it."""
    secret = "sk-a-key-that-nobody-may-see"
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    out = tmp_path / "v.jsonl"
    with MockProvider(api_key="another").serve() as server:
        given = ["embed", numbers, "--column", "n", "--base-url", server.base_url, "-o", out]
        kept = command(*given)
        journal = Path(f"{out}.journal").read_bytes()
        result = command(*given, "--no-journal")
    assert (kept.code, result.code) == (2, 2)
    assert "AuthenticationError" in out.read_text()
    assert secret not in out.read_text() + result.err + result.out + kept.err + kept.out
    assert secret.encode() not in journal


async def third_request(log: RequestLog) -> None:
    with anyio.fail_after(60):  # or a process that does not start would be waited for without end
        await log.wait_for(lambda seen: seen.requests == 3)


def test_embed_ctrl_c_twice_leaves_files_that_can_be_read(numbers: Path, tmp_path: Path) -> None:
    """A real process, a real server that stalls, real signals."""
    out = tmp_path / "v.npy"
    faults = FaultPlan(script=[None, None, *[Fault.STALL(seconds=600)] * 100])
    with MockProvider(dimensions=WIDTH, faults=faults).serve() as server:
        arguments = ["--column", "n", "--id", "n", "-c", "1", "--max-batch-size", "10"]
        where = ["--model", "mock", "--base-url", server.base_url, "-o", str(out)]
        with subprocess.Popen(
            [sys.executable, "-m", "batchrt", "embed", str(numbers), *arguments, *where],
            stderr=subprocess.PIPE,
        ) as running:
            try:
                assert running.stderr is not None
                anyio.run(third_request, server.provider.log)
                running.send_signal(signal.SIGINT)
                assert running.stderr.readline().startswith(b"batchrt: stopping, with 10 rows in flight")
                time.sleep(ONE_SIGNAL + 0.1)  # or it would be the same one
                running.send_signal(signal.SIGINT)
                assert running.wait() == 130
                assert b"Traceback" not in running.stderr.read()
            finally:
                running.kill()
    assert embedded(out) == [*range(20)]
