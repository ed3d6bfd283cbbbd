"""The small refusing provider: its waits and its queue."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest

from benchmarks.studies import refusals_server
from benchmarks.studies.refusals_server import Counts, Refuser

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])


class _Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


async def _ask(app: Refuser, text: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://s") as client:
        body = {"model": "m", "messages": [{"role": "user", "content": text}]}
        return await client.post("/v1/chat/completions", json=body)


async def _counts(app: Refuser) -> dict[str, Any]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://s") as client:
        found: dict[str, Any] = json.loads((await client.get("/v1/counts")).content)
        return found


@pytest.mark.anyio
async def test_refuser_counts_requests_within_named_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was sent before the refusal could be known does not count; overlapping waits count once."""
    clock = _Clock()
    monkeypatch.setattr(refusals_server, "time", SimpleNamespace(monotonic=clock.monotonic))
    app = Refuser(latency=(0, 0), share=1.0, wait=2)
    assert (await _ask(app, "a")).headers["retry-after"] == "2"
    clock.now = 100.01
    await _ask(app, "b")
    clock.now = 101.0
    await _ask(app, "c")
    clock.now = 200.0
    await _ask(app, "d")
    counts = await _counts(app)
    assert (counts["sent"], counts["refused"], counts["in_waits"]) == (4, 4, 1)
    assert counts["quiet"] == pytest.approx(3 + 2)


@pytest.mark.anyio
async def test_refuser_without_a_wait_names_none() -> None:
    """A bare refusal has no header, and no request is within a wait."""
    app = Refuser(latency=(0, 0), share=1.0)
    responses = [await _ask(app, "a") for _ in range(2)]
    assert all(
        response.status_code == 429 and "retry-after" not in response.headers for response in responses
    )
    counts = await _counts(app)
    assert (counts["in_waits"], counts["quiet"]) == (0, 0)


@pytest.mark.anyio
async def test_refuser_answers_so_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others queue, and are answered in the end."""
    working = peak = 0

    async def sleep(_: float) -> None:
        nonlocal working, peak
        working += 1
        peak = max(peak, working)
        await anyio.lowlevel.checkpoint()
        working -= 1

    monkeypatch.setattr(refusals_server, "asyncio", SimpleNamespace(sleep=sleep, Semaphore=asyncio.Semaphore))
    app = Refuser(at_once=2)
    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(_ask, app, str(number))
    counts = await _counts(app)
    assert (counts["answered"], peak) == (6, 2)


def test_counts_since_are_differences(anyio_backend: str) -> None:
    """A server that is shared counts each run apart."""
    assert Counts(9, 4, 5, 3, 2.5).since(Counts(3, 1, 2, 1, 0.5)) == Counts(6, 3, 3, 2, 2.0)
