from __future__ import annotations

import json
from collections.abc import MutableMapping
from typing import Any

import anyio
import httpx
import pytest

from batchrt.testing import DroppedConnectionError, Fault, FaultPlan, MockProvider

pytestmark = pytest.mark.anyio

SCOPE: dict[str, Any] = {
    "type": "http",
    "method": "POST",
    "path": "/v1/chat/completions",
    "headers": [],
    "query_string": b"",
}
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()


class Connection:
    """An ASGI server's end of one request: scripted messages in, sent messages recorded."""

    def __init__(self, *body: bytes) -> None:
        self.left = anyio.Event()
        self.sent: list[MutableMapping[str, Any]] = []
        self._body = list(body)

    async def receive(self) -> MutableMapping[str, Any]:
        if self._body:
            part = self._body.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._body)}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)


async def test_provider_runs_on_any_asgi_server() -> None:
    """Shown with httpx's ASGI transport."""
    provider = MockProvider(latency=0.001)
    transport = httpx.ASGITransport(provider)
    async with httpx.AsyncClient(transport=transport, base_url="http://mock") as client:
        response = await client.post("/v1/chat/completions", content=BODY)
    assert response.json()["choices"][0]["message"]["content"] == provider.answer_to("hi")


async def test_provider_reads_a_body_in_parts() -> None:
    """Servers split large bodies."""
    provider = MockProvider()
    connection = Connection(BODY[:10], BODY[10:20], BODY[20:])
    await provider(SCOPE, connection.receive, connection.send)
    assert connection.sent[0]["status"] == 200


@pytest.mark.parametrize("fault", [None, Fault.STALL(seconds=3600), Fault.SLOW_DRIP(seconds=3600)])
async def test_provider_notices_a_disconnect_at_once(fault: Any) -> None:
    """During latency, a stall or a drip, without the connection extension too."""
    latency = 3600 if fault is None else 0
    provider = MockProvider(latency=latency, faults=FaultPlan(script=[fault]))
    connection = Connection(BODY)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(provider, SCOPE, connection.receive, connection.send)
            await anyio.wait_all_tasks_blocked()
            assert provider.log.snapshot().in_flight == 1
            connection.left.set()
    seen = provider.log.snapshot()
    assert (seen.disconnects, seen.in_flight) == (1, 0)
    assert not any(message.get("body") for message in connection.sent)


async def test_provider_drips_a_byte_at_a_time() -> None:
    """Each byte is sent by itself, and all of them."""
    provider = MockProvider(faults=FaultPlan(script=[Fault.SLOW_DRIP(seconds=0.0001)]))
    connection = Connection(BODY)
    await provider(SCOPE, connection.receive, connection.send)
    start, *parts, last = connection.sent
    assert {len(part["body"]) for part in parts} == {1}
    assert len(parts) == int(dict(start["headers"])[b"content-length"])
    assert (last["body"], last["more_body"]) == (b"", False)


async def test_provider_large_body_ends_with_its_client() -> None:
    """The rest is not generated."""
    faults = FaultPlan(script=[Fault.OVERSIZED(size=10**15)])
    provider = MockProvider(faults=faults)
    connection = Connection(BODY)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(provider, SCOPE, connection.receive, connection.send)
            await provider.log.wait_for(lambda seen: seen.in_flight == 1)
            connection.left.set()
    assert provider.log.snapshot().disconnects == 1


async def test_provider_ignores_an_incomplete_request() -> None:
    """No answer and no record."""
    provider = MockProvider()
    connection = Connection()
    connection.left.set()
    await provider(SCOPE, connection.receive, connection.send)
    assert connection.sent == []
    assert provider.log.snapshot().requests == 0


async def test_provider_raises_where_the_server_cannot_drop_connections() -> None:
    """ASGI has no message for it."""
    provider = MockProvider(faults=FaultPlan(script=[Fault.DROP_BEFORE_RESPONSE]))
    connection = Connection(BODY)
    with pytest.raises(DroppedConnectionError, match="no way to drop"):
        await provider(SCOPE, connection.receive, connection.send)
    assert connection.sent == []


async def test_provider_cancelled_leaves_nothing_in_flight() -> None:
    """A stopping server is not a disconnect."""
    provider = MockProvider(latency=3600)
    connection = Connection(BODY)
    async with anyio.create_task_group() as group:
        group.start_soon(provider, SCOPE, connection.receive, connection.send)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    seen = provider.log.snapshot()
    assert (seen.requests, seen.in_flight, seen.disconnects) == (1, 0, 0)


async def test_provider_answers_lifespan_messages() -> None:
    """Startup is confirmed."""
    messages = ["lifespan.startup", "lifespan.shutdown"]
    sent: list[str] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": messages.pop(0)}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])

    await MockProvider()({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_provider_refuses_websockets() -> None:
    """It speaks HTTP only."""
    connection = Connection()
    with pytest.raises(NotImplementedError, match="websocket"):
        await MockProvider()({"type": "websocket"}, connection.receive, connection.send)
