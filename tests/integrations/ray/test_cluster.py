"""`batchrt run --ray`, with a cluster of this machine; `nox -s ray` runs these."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ray: Any = pytest.importorskip("ray", reason="needs batchrt[ray]; see `nox -s ray`")

from batchrt.testing import MockProvider  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")

KEY = "sk-canary-0123456789"
ROWS = 600
ENVIRONMENT = {
    **os.environ,
    "OPENAI_API_KEY": KEY,
    "RAY_USAGE_STATS_ENABLED": "0",
    # A cluster that `init` starts can be joined with its token alone: this one is the test's own.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": uuid.uuid4().hex + uuid.uuid4().hex,
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Give a cluster that commands join, since each start takes seconds."""
    script = (
        "import ray, sys; ray.init(num_cpus=4, object_store_memory=100 * 2**20, include_dashboard=False, "
        "logging_level='error'); print(ray.get_runtime_context().gcs_address, flush=True); sys.stdin.read()"
    )
    head = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    )
    assert head.stdout is not None
    found = head.stdout.readline().strip()
    assert found, "the cluster has not started"
    yield found
    head.communicate()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"n": {number}, "note": "kept"}}\n' for number in range(ROWS)))
    return path


class Command:
    """`batchrt run` in a process of its own."""

    def __init__(self, rows: Path, out: Path, url: str, *options: str) -> None:
        named = ["-p", "Say {n}", "-m", "model", "--base-url", url, "-o", str(out)]
        command = [sys.executable, "-m", "batchrt", "run", str(rows), *named, *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)

    def wait(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=240)
        return self.process.returncode, said


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_ids(path: Path) -> str:
    """Return the output without the ids of requests, which the provider counts."""
    return re.sub(r"\breq\w*[-_]\w+", "", path.read_text())


def test_cluster_run_is_that_of_one_process(address: str, rows: Path, tmp_path: Path) -> None:
    """Output, order, error columns, exit code and counts are the same, and so is the journal."""
    provider = MockProvider(api_key=KEY, reject=lambda text: text.endswith("7"))
    outs = [tmp_path / "here.jsonl", tmp_path / "there.jsonl"]
    with provider.serve() as server:
        here = Command(rows, outs[0], server.base_url).wait()
        sent = provider.log.snapshot().requests
        there = Command(rows, outs[1], server.base_url, "--ray", address, "--ray-workers", "2").wait()
        assert there[0] == 1, there[1]
        assert provider.log.snapshot().requests == 2 * sent
        again = Command(rows, outs[1], server.base_url).wait()
        assert provider.log.snapshot().requests == 2 * sent
    assert (here[0], there[0], again[0]) == (1, 1, 1)
    assert without_ids(outs[0]) == without_ids(outs[1])
    assert [row["n"] for row in read(outs[1])] == list(range(ROWS))
    tokens = [line for line in here[1].splitlines() if line.startswith("tokens:")]
    assert [line for line in there[1].splitlines() if line.startswith("tokens:")] == tokens
    assert "60 BadRequestError, as in" in there[1]
    assert f"{ROWS} rows" in there[1]


def test_cluster_run_goes_on_after_ctrl_c(address: str, rows: Path, tmp_path: Path) -> None:
    """The first Ctrl-C finishes what is in flight; the same command sends the rest, and no answer twice."""
    provider, out = MockProvider(api_key=KEY, latency=0.5), tmp_path / "out.jsonl"
    options = ["--ray", address, "--ray-workers", "1", "-c", "20"]
    with provider.serve() as server:
        command = Command(rows, out, server.base_url, *options)
        while provider.log.snapshot().requests < 40:
            assert command.process.poll() is None
            time.sleep(0.05)
        command.process.send_signal(signal.SIGINT)
        code, said = command.wait()
        sent = provider.log.snapshot()
        assert (code, "the same command goes on" in said) == (130, True)
        assert sent.peak_in_flight <= 20
        assert sent.disconnects == 0
        assert 40 <= sent.requests < ROWS
        code, said = Command(rows, out, server.base_url, "--ray", address).wait()
        assert code == 0, said
        assert provider.log.snapshot().requests == ROWS
    assert [row["n"] for row in read(out) if row["error"] is None] == list(range(ROWS))


def test_cluster_run_keeps_the_limit_of_spending(address: str, rows: Path, tmp_path: Path) -> None:
    """It ends with exit code 3 at the limit, which holds for all workers together."""
    provider, out = MockProvider(api_key=KEY, latency=0.05), tmp_path / "out.jsonl"
    with provider.serve() as server:
        options = ["--ray", address, "--ray-workers", "2", "--max-tokens-total", "1500"]
        code, said = Command(rows, out, server.base_url, *options).wait()
    assert code == 3, said
    assert "stopped at --max-tokens-total 1500" in said
    assert 0 < provider.log.snapshot().requests < 300
