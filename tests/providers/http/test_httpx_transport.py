"""Connections of our own in an `httpx.AsyncClient`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from batchrt.providers.http.httpx_transport import BatchrtTransport
from tests.providers.http.raw import ANSWER, Connection, HangUp, raw_server

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """An ordinary httpx client over our transport."""
    async with httpx.AsyncClient(transport=BatchrtTransport()) as client:
        yield client


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
async def test_batchrt_transport_sends_every_method(client: httpx.AsyncClient, method: str) -> None:
    """With a length where there may be a body, and an answer to HEAD that has none."""

    async def script(connection: Connection) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\r\n"
        await connection.send(head % len(ANSWER) + (b"" if method == "HEAD" else ANSWER))

    async with raw_server(script) as server:
        for _ in range(2):
            response = await client.request(method, f"{server.base_url}/a%20b?c=d&e=%C3%A9")
            assert response.content == (b"" if method == "HEAD" else ANSWER)
            assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
            assert dict(response.cookies) == {"a": "1", "b": "2"}
    head = server.requests[0].head
    assert head.startswith(f"{method} /v1/a%20b?c=d&e=%C3%A9 HTTP/1.1\r\n".encode())
    assert server.requests[0].header("content-length") == ("0" if method in ("POST", "PUT") else None)
    assert head.lower().count(b"\r\nhost: ") == 1


async def test_batchrt_transport_streams_a_body_both_ways(client: httpx.AsyncClient) -> None:
    """The second part of the answer is sent when the first has been read."""
    read = anyio.Event()

    async def script(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await read.wait()
        await connection.send(b"3\r\ntwo\r\n0\r\n\r\n")

    async def parts() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    async with raw_server(script) as server:
        async with client.stream("POST", server.base_url, content=parts()) as response:
            received = []
            async for part in response.aiter_raw():
                received.append(part)
                read.set()
        assert (await client.post(server.base_url, json={})).content == b"onetwo"
    assert received == [b"one", b"two"]
    assert server.requests[0].body == b"ab"
    assert server.opened == 1


async def test_batchrt_transport_closes_the_connection_of_a_response_that_is_not_read(
    client: httpx.AsyncClient,
) -> None:
    """Its rest would stand before the next response."""

    async def script(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nbegin")
        await connection.until_closed()
        raise HangUp

    async with raw_server(script) as server:
        async with client.stream("POST", server.base_url) as response:
            assert response.status_code == 200
        with anyio.fail_after(5):
            await server.closed.wait()


async def test_batchrt_transport_waits_for_each_part_as_long_as_httpx_says(
    client: httpx.AsyncClient,
) -> None:
    """A read time-out is for each part, and not for the whole."""

    async def script(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n")
        for _ in range(8):
            await anyio.sleep(0.1)
            await connection.send(b"x")

    async with raw_server(script) as server:
        response = await client.post(server.base_url, timeout=httpx.Timeout(0.5))
        assert response.content == b"x" * 8


async def test_batchrt_transport_serves_one_loop_after_another() -> None:
    """One client object for several runs is fine: connections are the loop's."""

    async def script(connection: Connection) -> None:
        await connection.answer()

    transport = BatchrtTransport()
    for _ in range(2):
        async with raw_server(script) as server:
            request = httpx.Request("POST", server.base_url)
            response = await transport.handle_async_request(request)
            assert await response.aread() == ANSWER
    await transport.aclose()


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-le", httpx.RemoteProtocolError),
        (b"SSH-2.0\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", httpx.RemoteProtocolError),
    ],
)
async def test_batchrt_transport_raises_httpx_errors_of_broken_responses(
    client: httpx.AsyncClient, sent: bytes, expected: type[Exception]
) -> None:
    """Whatever handles httpx's errors handles these."""

    async def script(connection: Connection) -> None:
        await connection.send(sent)
        raise HangUp

    async with raw_server(script) as server:
        with pytest.raises(expected) as caught:
            await client.post(server.base_url)
    assert isinstance(caught.value, httpx.TransportError)
    assert caught.value.request.method == "POST"


async def test_batchrt_transport_raises_httpx_errors_of_connections(
    client: httpx.AsyncClient, free_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, unknown, and a proxy that is none of HTTP."""
    with pytest.raises(httpx.ConnectError):
        await client.get(f"http://127.0.0.1:{free_tcp_port}")
    with pytest.raises(httpx.ConnectError):
        await client.get("http://no-such-host.invalid")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(httpx.ConnectError):
        await client.get("http://provider.example")


async def test_batchrt_transport_limits_the_time_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """To a server that does not answer a TLS handshake."""

    async def silent(stream: Any) -> None:
        async with stream:
            with anyio.move_on_after(5):
                await anyio.sleep_forever()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as group, BatchrtTransport() as transport:
        group.start_soon(listener.serve, silent)
        timeouts = httpx.Timeout(10, connect=0.1).as_dict()
        request = httpx.Request("GET", f"https://127.0.0.1:{port}", extensions={"timeout": timeouts})
        with pytest.raises(httpx.ConnectTimeout):
            await transport.handle_async_request(request)
        group.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("kwargs", "fault"),
    [
        ({"headers": {"x-key": "secret\r\nx-other: 1"}}, "the value of the header 'x-key'"),
        ({"headers": {"x-key": "secret\0"}}, "the value of the header 'x-key'"),
        ({"headers": {"x\r\ny": "1"}}, "the name of the header"),
        ({"headers": {"": "1"}}, "the name of the header"),
        ({"method": "GET / HTTP/1.1\r\nx: y\r\n\r\nGET"}, "the method"),
        ({"extensions": {"target": b"/a HTTP/1.1\r\nx: y"}}, "the target"),
        ({"content": b"ab", "headers": {"content-length": "5"}}, "content-length is '5', and the body has 2"),
        ({"content": b"ab", "headers": {"content-length": "1"}}, "content-length is '1', and the body has 2"),
    ],
)
async def test_batchrt_transport_sends_nothing_that_is_not_one_request(
    client: httpx.AsyncClient, kwargs: dict[str, Any], fault: str
) -> None:
    """A line break would add a header or a request; httpx's error names the part, and quotes no value."""

    async def script(connection: Connection) -> None:
        await connection.answer()

    async with raw_server(script) as server:
        with pytest.raises(httpx.LocalProtocolError, match=fault) as caught:
            await client.request(**{"method": "POST", "url": server.base_url, **kwargs})
        assert "secret" not in str(caught.value)
        assert server.opened == 0


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "/x"])
async def test_batchrt_transport_refuses_other_schemes_as_httpx_does(
    client: httpx.AsyncClient, url: str
) -> None:
    """The address of a request, and the one that it is redirected to."""

    async def script(connection: Connection) -> None:
        await connection.answer(b"", "302 Found", b"location: ftp://127.0.0.1/x")

    with pytest.raises(httpx.UnsupportedProtocol, match=r"is needed"):
        await client.get(url)
    async with raw_server(script) as server:
        with pytest.raises(httpx.UnsupportedProtocol, match="'ftp'"):
            await client.get(server.base_url, follow_redirects=True)


@pytest.mark.parametrize("error", [FileNotFoundError("no file"), TimeoutError("too slow")])
async def test_batchrt_transport_raises_the_errors_of_a_body_as_they_are(
    client: httpx.AsyncClient, error: OSError
) -> None:
    """They are none of the connection, which has not been made."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"a"
        raise error

    with pytest.raises(type(error)) as caught:
        await client.post("http://127.0.0.1:1", content=parts())
    assert caught.value is error


async def test_batchrt_transport_passes_on_that_a_connection_is_to_be_closed(
    client: httpx.AsyncClient,
) -> None:
    """The server closes it; other fields about the connection are the transport's."""

    async def script(connection: Connection) -> None:
        await connection.answer()

    async with raw_server(script) as server:
        await client.post(server.base_url, headers={"connection": "Close"})
        await client.post(server.base_url, headers={"connection": "upgrade"})
    assert [request.header("connection") for request in server.requests] == ["close", None]
