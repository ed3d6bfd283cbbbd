"""The examples: each runs as it is, and does what it says."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
TICKETS = 300


def module(name: str) -> ModuleType:
    """Import an example under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # pydantic looks the names of annotations up there
    spec.loader.exec_module(loaded)
    return loaded


def test_quickstart_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Two branches for each ticket, under one cap."""
    anyio.run(module("quickstart").main)
    printed = capsys.readouterr().out
    assert f"{TICKETS} of {TICKETS} items done" in printed
    assert int(printed.rsplit(maxsplit=1)[-1]) <= 50


def test_csv_job_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second run of the job sends nothing and leaves the output as it is."""
    main = module("csv_job").main
    main(tmp_path)
    first = (tmp_path / "answers.csv").read_bytes()
    assert f"{TICKETS} rows to send" in capsys.readouterr().out
    main(tmp_path)
    assert "\n0 rows to send" in f"\n{capsys.readouterr().out}"
    assert (tmp_path / "answers.csv").read_bytes() == first
    assert first.count(b"T-1") >= TICKETS


def test_search_finds_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All tickets are in the index, and the nearest one is the one that was searched for."""
    anyio.run(module("search").main, tmp_path / "tickets.npy")
    assert capsys.readouterr().out.startswith("1.000  ")
    matrix = np.load(tmp_path / "tickets.npy")
    assert len(matrix) == TICKETS
    assert not np.isnan(matrix).any()


def test_compare_models_has_the_cost_of_both(capsys: pytest.CaptureFixture[str]) -> None:
    """Each model is asked about each ticket and has a cost of its own."""
    anyio.run(module("compare_models").main)
    printed = capsys.readouterr().out
    assert all(f"{name}: " in printed for name in ("small", "large"))
    assert f"of {TICKETS} tickets; 0 rows failed" in printed


def test_langchain_rag_keeps_the_cap(capsys: pytest.CaptureFixture[str]) -> None:
    """A retrieval chain of LangChain's runs under the cap."""
    pytest.importorskip("langchain_openai", reason="LangChain is not installed")
    anyio.run(module("langchain_rag").main)
    printed = capsys.readouterr().out
    assert "40 of 40 items done" in printed
    assert int(printed.split("at most ")[1].split()[0]) <= 10


def test_notebook_runs() -> None:
    """The cells run from top to bottom in one running event loop, as in a kernel."""
    cells = json.loads((EXAMPLES / "triage.ipynb").read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") for cell in cells)
    names: dict[str, Any] = {"__name__": "__main__"}

    async def run() -> None:
        for cell in cells:
            if cell["cell_type"] == "code":
                source, flags = "".join(cell["source"]), ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
                code = compile(source, "cell", "exec", flags=flags, dont_inherit=True)
                done = eval(code, names)
                if inspect.isawaitable(done):
                    await done

    asyncio.run(run())
    assert 0 < len(names["failed"]) < len(names["result"])
    assert len(names["again"]) == len(names["failed"])


class Client:
    """Send one request to an ASGI application, and go away when told to."""

    def __init__(self, app: Any, method: str, path: str, body: Any = None, **headers: str) -> None:
        self._app = app
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [
                (b"content-type", b"application/json"),
                *((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()),
            ],
        }
        self._body = json.dumps(body).encode()
        self._gone = anyio.Event()
        self._sent = False
        self.status = 0
        self.text = ""

    async def _receive(self) -> dict[str, Any]:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.status = message.get("status", self.status)
        self.text += message.get("body", b"").decode()

    def leave(self) -> None:
        """Close the connection."""
        self._gone.set()

    async def __call__(self) -> Client:
        await self._app(self._scope, self._receive, self._send)
        return self


@pytest.fixture
async def service() -> AsyncIterator[ModuleType]:
    pytest.importorskip("fastapi", reason="FastAPI is not installed")
    pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")
    loaded = module("service")
    loaded.provider.latency = 0.0
    yield loaded
    await loaded.model.aclose()


@pytest.mark.anyio
async def test_service_answers_and_counts(service: ModuleType) -> None:
    """An answer comes as JSON, and the metrics have its request."""
    answer = await Client(service.app, "POST", "/classify", {"text": "The lamp is broken"})()
    assert answer.status == 200
    assert json.loads(answer.text)["category"]
    metrics = await Client(service.app, "GET", "/metrics")()
    assert "llm_answers_total 1.0" in metrics.text
    assert "llm_requests_in_flight 0.0" in metrics.text


@pytest.mark.anyio
async def test_service_keeps_the_deadline(service: ModuleType) -> None:
    """A deadline that passes is a 504, and the request to the provider is cancelled."""
    service.provider.latency = 60.0
    answer = await Client(service.app, "POST", "/classify", {"text": "slow"}, x_deadline="0.05")()
    assert answer.status == 504
    assert service.provider.log.snapshot().in_flight == 0


@pytest.mark.anyio
async def test_service_cancels_when_the_client_leaves(service: ModuleType) -> None:
    """A client that goes away ends its request to the provider."""
    service.provider.latency = 60.0
    client = Client(service.app, "POST", "/classify", {"text": "slow"})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.__call__)
        while service.provider.log.snapshot().in_flight == 0:  # noqa: ASYNC110  a log has no event
            await anyio.sleep(0.005)
        client.leave()
    assert client.status == 499
    assert service.provider.log.snapshot().in_flight == 0
    assert service.provider.log.snapshot().disconnects == 1


@pytest.mark.anyio
async def test_service_refuses_a_deadline_out_of_bounds(service: ModuleType) -> None:
    """FastAPI's own check answers before anything is sent."""
    answer = await Client(service.app, "POST", "/classify", {"text": "x"}, x_deadline="0")()
    assert answer.status == 422
    assert service.provider.log.snapshot().requests == 0


def test_traced_shows_its_spans_and_metrics() -> None:
    """A tree from the caller to the requests, with retries and cool-downs, and the metrics beside it."""
    pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry's SDK is not installed")
    # A process of its own: the exporters print to the stdout that there was when they were imported.
    command = [sys.executable, str(EXAMPLES / "traced.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in ("caller", "invoke_workflow tickets", "batchrt.item", "chat mock-chat", "batchrt.retry"):
        assert f'"name": "{name}"' in printed
    assert '"name": "batchrt.quota.limit"' in printed
