"""How jobs end that do not simply come to their end."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import httpx
import pytest

from batchrt.cli import process as process_module
from batchrt.cli.job import Job
from batchrt.testing import Fault, FaultPlan, MockProvider
from tests.cli.conftest import Command
from tests.cli.provider import answer, put_in_place

ONE_SIGNAL = process_module._ONE_SIGNAL
SECRET = "sk-a-key-that-nobody-may-see"


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """A hundred rows that say which they are."""
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"n": {number}}}\n' for number in range(100)))
    return path


def answered(out: str) -> list[int]:
    rows = [json.loads(line) for line in out.splitlines()]
    assert all(row["output"] == f"answer {row['n']}" for row in rows)
    return [row["n"] for row in rows]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_job_first_signal_lets_rows_in_flight_finish(
    command: Command, numbers: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    """No row is begun after it, none that was begun is lost."""
    stopped = anyio.Event()
    stop = Job._stop

    def stop_and_tell(job: Job, number: int) -> None:
        stop(job, number)
        stopped.set()

    async def handle(text: str) -> httpx.Response:
        if text == "9":
            signal.raise_signal(number)
        if int(text) >= 9:
            await stopped.wait()
        return answer(f"answer {text}")

    monkeypatch.setattr(Job, "_stop", stop_and_tell)
    put_in_place(monkeypatch, handle)
    result = command("run", numbers, "--prompt", "{n}", "-c", "4")
    assert result.code == code
    assert answered(result.out) == list(range(13))
    assert "batchrt: stopping, with 4 rows in flight to finish" in result.err
    assert "13 done, 0 failed\n" in result.err


def test_job_second_signal_cancels_and_keeps_finished_rows(
    command: Command, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also rows that waited for one before them; unfinished rows are left out."""

    async def handle(text: str) -> httpx.Response:
        if text == "1":
            await anyio.sleep_forever()
        if text == "4":  # 0, 2 and 3 went through the other slot
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            await anyio.sleep_forever()
        return answer(f"answer {text}")

    put_in_place(monkeypatch, handle)
    result = command("run", numbers, "--prompt", "{n}", "-c", "2")
    assert result.code == 130
    assert answered(result.out) == [0, 2, 3]
    assert "batchrt: cancelled 2 rows in flight" in result.err
    assert "3 done, 0 failed, 2 more cancelled" in result.err


def test_job_after_the_second_the_third_would_kill(
    command: Command, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the process waits for then."""

    async def handle(_text: str) -> httpx.Response:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        await anyio.sleep_forever()
        raise AssertionError

    put_in_place(monkeypatch, handle)
    assert command("run", numbers, "--prompt", "{n}", "-c", "1").code == 130
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL


@contextmanager
def process(*arguments: object, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command as a process of its own, with pipes to it."""
    with subprocess.Popen(
        [sys.executable, "-m", "batchrt", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def test_job_rows_are_seen_while_others_are_in_flight_and_ctrl_c_twice_ends_it(numbers: Path) -> None:
    """A real process, a real server that stalls, real signals."""
    faults = FaultPlan(script=[None, None, *[Fault.STALL(seconds=600)] * 100])
    with (
        MockProvider(faults=faults).serve() as server,
        process("run", numbers, "-p", "{n}", "--base-url", server.base_url, "-c", "1") as running,
    ):
        assert running.stdout is not None
        assert running.stderr is not None
        lines = [json.loads(running.stdout.readline()) for _ in range(2)]
        running.send_signal(signal.SIGINT)
        assert running.stderr.readline().startswith(b"batchrt: stopping, with 1 row in flight")
        time.sleep(ONE_SIGNAL + 0.1)  # or it would be the same one
        running.send_signal(signal.SIGINT)
        assert running.wait() == 130
        assert running.stdout.read() == b""
        assert b"Traceback" not in running.stderr.read()
    assert [line["n"] for line in lines] == [0, 1]
    assert all(line["output"] for line in lines)
    assert server.provider.log.snapshot().in_flight == 0


def test_job_ctrl_c_gets_through_while_a_pipe_is_waited_for() -> None:
    """The thread that reads it cannot be interrupted and must not hold anything up."""
    arguments = ["run", "-", "--format", "jsonl", "-p", "{n}", "--model", "mock", "--quiet"]
    with process(*arguments) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdin.write(b'{"n": 1}\n')
        running.stdin.flush()
        assert json.loads(running.stdout.readline())["n"] == 1
        running.send_signal(signal.SIGINT)
        assert running.wait() == 130
        assert running.stderr.read() == b""


@pytest.mark.parametrize(
    ("status", "code"), [(401, "invalid_api_key"), (429, "insufficient_quota"), (404, "model_not_found")]
)
def test_job_aborts_if_the_provider_refuses_every_request(
    command: Command, numbers: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    """After a handful of requests and not after all; exit code 2, for nothing was done."""
    asked: list[str] = []

    async def handle(text: str) -> httpx.Response:
        asked.append(text)
        return httpx.Response(status, json={"error": {"message": "no", "code": code}})

    put_in_place(monkeypatch, handle)
    result = command("run", numbers, "--prompt", "{n}", "-c", "1")
    assert result.code == 2
    assert len(asked) == 5
    last = result.err.splitlines()[-1]
    assert last.startswith("batchrt: stopped because the provider refuses every request: ")
    assert code in last
    assert len(result.out.splitlines()) == 5


def test_job_credit_that_runs_out_stops_a_job_half_way(
    command: Command, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers before that are kept; exit code 4, and the number of rows never begun."""

    async def handle(text: str) -> httpx.Response:
        if int(text) < 10:
            return answer(f"answer {text}")
        return httpx.Response(429, json={"error": {"message": "no", "code": "insufficient_quota"}})

    put_in_place(monkeypatch, handle)
    result = command("run", numbers, "--prompt", "{n}", "-c", "1")
    assert result.code == 4
    assert "not started: 85 rows" in result.err
    assert answered("".join(result.out.splitlines(keepends=True)[:10])) == list(range(10))
    assert "10 done, 5 failed" in result.err


def test_job_single_refusal_is_the_rows_own(
    command: Command, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad account behind a proxy does not stop a job."""

    async def handle(text: str) -> httpx.Response:
        if int(text) % 2:
            return answer(f"answer {text}")
        return httpx.Response(401, json={"error": {"message": "no"}})

    put_in_place(monkeypatch, handle)
    result = command("run", numbers, "--prompt", "{n}", "-c", "1")
    assert result.code == 1
    assert "50 done, 50 failed" in result.err
    assert "stopped" not in result.err


def test_job_without_patience_a_server_that_is_down_fails_every_row(command: Command, numbers: Path) -> None:
    """Nothing is stopped; each row says what happened, and the exit code that none was answered."""
    where = ["--base-url", "http://127.0.0.1:9/v1", "--max-retries", 0, "--patience", 0]
    result = command("run", numbers, "-p", "{n}", *where, "-n", 8)
    assert result.code == 2
    errors = [json.loads(line)["error"] for line in result.out.splitlines()]
    assert len(errors) == 8
    assert all(error.startswith("ConnectionFailedError: ") for error in errors)


def test_job_key_is_never_shown(
    command: Command, numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the output, nor in messages, nor when a server echoes it."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    out = tmp_path / "out.jsonl"
    with MockProvider(api_key="another").serve() as server:
        given = ["run", numbers, "-p", "{n}", "--base-url", server.base_url, "-o", out]
        kept = command(*given)
        journal = Path(f"{out}.journal").read_bytes()
        result = command(*given, "--no-journal")
    assert (kept.code, result.code) == (2, 2)
    assert "AuthenticationError" in out.read_text()
    assert SECRET not in out.read_text() + result.err + result.out + kept.err + kept.out
    assert SECRET.encode() not in journal


def test_job_key_in_the_environment_is_used(
    command: Command, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by every other client."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with MockProvider(api_key=SECRET).serve() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        result = command("run", numbers, "-p", "{n}", "-n", 3)
    assert result.code == 0


@pytest.mark.parametrize("quiet", [True, False])
@pytest.mark.parametrize("command_of", ["run", "embed"])
@pytest.mark.parametrize("address", ["http://no-such.invalid/v1", "http://127.0.0.1:9/v1", "https", "http"])
def test_job_wrong_address_ends_a_job_at_once_with_its_reason(
    command: Command, numbers: Path, tmp_path: Path, address: str, command_of: str, quiet: bool
) -> None:
    """In the row, and on stderr; --patience is for what waiting may mend. Exit code 2: no answer."""
    out = tmp_path / "out.jsonl"
    given = ["-p", "{n}"] if command_of == "run" else ["--column", "n"]
    with speaking("tls" if address == "http" else "plain") as port:
        url = f"{address}://127.0.0.1:{port}/v1" if "//" not in address else address
        arguments = [*given, "--base-url", url, "--patience", 600, "-o", out, *["-q"] * quiet]
        kept = command(command_of, numbers, *arguments)
        assert not out.exists()
        result = command(command_of, numbers, *arguments, "--no-journal")
    origin = url.removesuffix("/v1")
    for each in (kept, result):
        assert each.code == 2
        assert each.err.splitlines()[-1].startswith(
            f"batchrt: stopped because no server answers at the provider's address: ConnectionFailedError: "
            f"cannot connect to {origin}: "
        )
        assert "provider is down" not in each.err
    errors = [error for line in out.read_text().splitlines() if (error := json.loads(line)["error"])]
    assert errors
    assert all(error.startswith(f"ConnectionFailedError: cannot connect to {origin}: ") for error in errors)
    assert "provider is down" not in result.err


@contextmanager
def speaking(protocol: str) -> Iterator[int]:
    """Listen on a port; close whatever comes after an alert of TLS's, or an answer of HTTP's."""
    context = None
    if protocol == "tls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("@SECLEVEL=0:aNULL")  # which need no certificate
        context.maximum_version = ssl.TLSVersion.TLSv1_2

    def handle(connection: socket.socket) -> None:
        connection.settimeout(10)
        if context is None:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        else:
            context.wrap_socket(connection, server_side=True).close()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                handle(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
