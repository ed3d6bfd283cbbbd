"""Test tools that mock httpx see the default transport."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import respx

from batchrt import ChatOpenAI
from batchrt.errors import ConnectionFailedError
from batchrt.providers.http.httpx_mocks import is_httpx_mocked
from batchrt.providers.http.transport import Transport
from tests.providers.http.raw import ANSWER, Connection, raw_server
from tests.providers.streaming import Streamed, streamed

pytestmark = pytest.mark.anyio

URL = "https://provider.example/v1/chat/completions"


def direct() -> Transport:
    """Return the default transport."""
    return Transport({"authorization": "Bearer k"}, tls=True, timeout=10, max_response_bytes=10**6)


async def test_httpx_mocks_global_respx_answers() -> None:
    """`respx.mock` as most tests use it: nothing is passed to the model."""
    model = ChatOpenAI("m", base_url="https://provider.example/v1", api_key="k")
    with respx.mock:
        route = respx.post(URL).mock(return_value=httpx.Response(200, content=ANSWER))
        assert str((await model.ainvoke("hi")).content) == "hello"
    assert route.call_count == 1
    request = route.calls.last.request
    assert request.headers["authorization"] == "Bearer k"
    assert json.loads(request.content)["messages"][-1]["content"] == "hi"


@pytest.mark.parametrize("using", ["httpcore", "httpx"])
async def test_httpx_mocks_respx_router_is_seen_by_either_mocker(using: str) -> None:
    """It patches httpcore, or httpx's clients."""
    transport = direct()
    with respx.mock(using=using) as router:
        router.post(URL).mock(return_value=httpx.Response(418, text="teapot"))
        for _ in range(2):
            reply = await transport.post(URL, b"{}")
            assert (reply.status, reply.body) == (418, b"teapot")


async def test_httpx_mocks_errors_are_translated() -> None:
    """As those of a client are."""
    with respx.mock:
        respx.post(URL).mock(side_effect=httpx.ConnectError("no"))
        with pytest.raises(ConnectionFailedError):
            await direct().post(URL, b"{}")


async def test_httpx_mocks_requests_without_a_route_are_an_error_of_the_mock() -> None:
    """Nothing goes to the network by mistake."""
    with respx.mock:
        respx.post("https://other.example/")
        with pytest.raises(respx.models.AllMockedAssertionError):
            await direct().post(URL, b"{}")
        respx.post("https://other.example/").mock(return_value=httpx.Response(200))
        await direct().post("https://other.example/", b"{}")


async def test_httpx_mocks_let_requests_pass_that_are_to_pass() -> None:
    """To the real server."""

    async def script(connection: Connection) -> None:
        await connection.answer()

    async with raw_server(script) as server:
        with respx.mock:
            respx.post(server.base_url).pass_through()
            assert (await direct().post(server.base_url, b"{}")).body == ANSWER
    assert len(server.requests) == 1


async def test_httpx_mocks_end_with_the_tool() -> None:
    """Afterwards requests go over connections of our own again."""
    transport = direct()
    with respx.mock:
        assert is_httpx_mocked()
    assert not is_httpx_mocked()

    async def script(connection: Connection) -> None:
        await connection.answer()

    async with raw_server(script) as server:
        await transport.post(server.base_url, b"{}")
        await transport.post(server.base_url, b"{}")
        await transport.aclose()
    assert server.opened == 1


async def test_httpx_mocks_of_pytest_httpx_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """It replaces the method of httpx's transport, as here."""
    source = """
async def handle(_self, _request):
    return httpx.Response(200, content=b"mocked")
"""
    names: dict[str, Any] = {"httpx": httpx}
    exec(compile(source, "/site-packages/pytest_httpx/__init__.py", "exec"), names)
    handle = names["handle"]
    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)
    assert (await direct().post(URL, b"{}")).body == b"mocked"


async def test_httpx_mocks_answer_streams() -> None:
    """A stream of events too, in the parts of the mock's answer; one that is left ends its client."""
    parts = [b'data: {"choices":[{"delta":{"content":"hel', b'lo"}}]}\n\n', b"data: [DONE]\n\n"]
    model = ChatOpenAI("m", base_url="https://provider.example/v1", api_key="k")

    async def events() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    with respx.mock:
        respx.post(URL).mock(side_effect=lambda _: httpx.Response(200, content=events()))
        assert [chunk.content for chunk in await streamed(model)] == ["hello"]
        assert [chunk.content for chunk in await Streamed(model, most=1).ainvoke("hi")] == ["hello"]
        respx.post(URL).mock(side_effect=httpx.ConnectError("no"))
        with pytest.raises(ConnectionFailedError):
            await direct().stream(URL, b"{}")
