"""Bytes out, bytes in: bounded in time and size, over whatever carries them."""

from __future__ import annotations

import gzip
import socket
import threading
import traceback
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import openai
import pytest
import trio.testing

from batchrt.errors import (
    ConnectionFailedError,
    MalformedResponseError,
    ProviderError,
    RequestTimeoutError,
)
from batchrt.providers.http import scheme_probe
from batchrt.providers.http.httpx_transport import BatchrtTransport
from batchrt.providers.http.response import Reply
from batchrt.providers.http.transport import Transport
from tests.providers.http.raw import ANSWER, Connection, HangUp, RawServer, raw_server, threaded_server
from tests.providers.http.tls import certificate, hashed, tls_server

pytestmark = pytest.mark.anyio

KEY = "sk-a-secret-that-must-not-show"
HEADERS = {"content-type": "application/json", "Authorization": f"Bearer {KEY}"}
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def direct(**options: Any) -> Transport:
    """Return the default transport."""
    return Transport(HEADERS, tls=False, **{"timeout": 10.0, "max_response_bytes": 10**6, **options})


def over_httpx_transport(**options: Any) -> Transport:
    """Return one that goes through an httpx transport, as a user would hand it in."""
    return direct(transport=httpx.AsyncHTTPTransport(), **options)


def over_httpx_client(**options: Any) -> Transport:
    """Return one that goes through an httpx client, as a user would hand it in."""
    return direct(http_client=httpx.AsyncClient(), **options)


def over_our_httpx_transport(**options: Any) -> Transport:
    """Return one that goes through our connections by httpx's types."""
    return direct(transport=BatchrtTransport(), **options)


WAYS = [direct, over_httpx_transport, over_httpx_client, over_our_httpx_transport]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
async def way(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Run a test over each way out, and close what it leaves open."""
    made: list[Transport] = []

    def make(**options: Any) -> Transport:
        made.append(request.param(**options))
        return made[-1]

    yield make
    for transport in made:
        await transport.aclose()
        client = getattr(transport._channel, "_client", None)
        if client is not None:
            await client.aclose()


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that say nothing are not looked at for long, to find out which scheme they speak."""
    monkeypatch.setattr(scheme_probe, "_HANDSHAKE", 0.05)


async def post(transport: Transport, server: RawServer, body: bytes = b"{}") -> Reply:
    """Post to the server's chat path and close."""
    try:
        return await transport.post(server.base_url + "/chat/completions", body)
    finally:
        await transport.aclose()


async def test_transport_post_sends_and_receives_everything(way: Any) -> None:
    """Method, path, headers and body are sent; status, headers and body are returned."""

    async def script(connection: Connection) -> None:
        await connection.answer(b"{}", "418 I'm a teapot", b"X-Request-ID: req_7")

    async with raw_server(script) as server:
        reply = await post(way(), server, '{"é":1}'.encode())
    (request,) = server.requests
    assert request.head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert request.body == '{"é":1}'.encode()
    assert request.header("authorization") == f"Bearer {KEY}"
    assert request.header("content-type") == "application/json"
    assert request.header("accept-encoding") == "identity"
    assert (reply.status, reply.body, reply.request_id) == (418, b"{}", "req_7")


async def test_transport_joins_chunked_bodies(way: Any) -> None:
    """Chunked transfer gives the same bytes."""

    async def script(connection: Connection) -> None:
        await connection.send(CHUNKED)
        for _ in range(50):
            await connection.send(b"4\r\nab\xc3\xa9\r\n")
        await connection.send(b"0\r\n\r\n")

    async with raw_server(script) as server:
        assert (await post(way(), server)).body == "abé".encode() * 50


@pytest.mark.parametrize("field", [b"chunked ", b"Chunked  "])
async def test_transport_reads_chunks_whose_header_ends_in_a_blank(way: Any, field: bytes) -> None:
    """A blank after a value is no part of it (RFC 9110, 5.5), and the connection is used again."""

    async def script(connection: Connection) -> None:
        await connection.send(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: " + field + b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        )

    async with raw_server(script) as server:
        transport = way()
        for _ in range(2):
            assert (await transport.post(server.base_url, b"{}")).body == b"{}"
        assert server.opened == 1


@pytest.mark.parametrize("name", ["none", "utf-8", "UTF8", "binary"])
async def test_transport_takes_a_body_as_it_is_whose_encoding_is_none(way: Any, name: str) -> None:
    """Applications name a charset there by mistake; httpx and browsers take no notice of it."""

    async def script(connection: Connection) -> None:
        await connection.answer(b"{}", "200 OK", f"content-encoding: {name}".encode())

    async with raw_server(script) as server:
        assert (await post(way(), server)).body == b"{}"


async def test_transport_reads_an_empty_body(way: Any) -> None:
    """With content-length 0 no body is awaited."""

    async def script(connection: Connection) -> None:
        await connection.answer(b"", "500 Oops")

    async with raw_server(script) as server:
        reply = await post(way(), server)
    assert (reply.status, reply.body) == (500, b"")


async def test_transport_reuses_connections(way: Any) -> None:
    """Ten successive posts take one connection."""

    async def script(connection: Connection) -> None:
        await connection.answer()

    transport = way()
    async with raw_server(script) as server:
        for _ in range(10):
            assert (await transport.post(server.base_url, b"{}")).body == ANSWER
        await transport.aclose()
    assert (len(server.requests), server.opened) == (10, 1)


async def test_transport_keeps_many_idle_connections() -> None:
    """A second burst of 20 opens no further connections."""
    together = anyio.Event()

    async def script(connection: Connection) -> None:
        if len(server.requests) == 20:
            together.set()
        await together.wait()
        await connection.answer()

    transport = direct()
    async with raw_server(script) as server:
        for _ in range(2):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(transport.post, server.base_url, b"{}")
        await transport.aclose()
    assert (len(server.requests), server.opened) == (40, 20)


async def head_only(connection: Connection) -> None:
    """Say nothing until the client leaves."""
    await connection.until_closed()
    raise HangUp


async def half_a_body(connection: Connection) -> None:
    """Begin a body and leave it at that."""
    await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    await connection.until_closed()
    raise HangUp


@pytest.mark.parametrize("script", [head_only, half_a_body])
async def test_transport_cancellation_closes_the_connection_at_once(way: Any, script: Any) -> None:
    """The server sees its end while the client goes on."""
    transport = way(timeout=None)
    async with raw_server(script) as server, anyio.create_task_group() as group:
        group.start_soon(transport.post, server.base_url, b"{}")
        await server.arrived.wait()
        if script is half_a_body:
            await anyio.sleep(0.02)  # the head is to have been read
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True), anyio.fail_after(5):
            await server.closed.wait()
    await transport.aclose()


async def test_transport_timeout_bounds_a_dripping_server(way: Any) -> None:
    """The timeout bounds the whole exchange, not each read."""

    async def script(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while True:
            await connection.send(b"x")
            await anyio.sleep(0.01)

    async with raw_server(script) as server:
        with pytest.raises(RequestTimeoutError, match=r"within 0\.2 s"), anyio.fail_after(10):
            await post(way(timeout=0.2), server)


async def test_transport_timeout_bounds_a_silent_server(way: Any) -> None:
    """And the connection is closed."""
    async with raw_server(head_only) as server:
        with pytest.raises(RequestTimeoutError) as caught:
            await post(way(timeout=0.2), server)
        with anyio.fail_after(5):
            await server.closed.wait()
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.__cause__ is not None


def say(data: bytes) -> Any:
    """Return a script that sends `data` and closes."""

    async def script(connection: Connection) -> None:
        await connection.send(data)
        raise HangUp

    return script


BROKEN = {
    "nothing": (b"", ConnectionFailedError),
    "half a head": (b"HTTP/1.1 200 OK\r\ncontent-le", ConnectionFailedError),
    "another protocol": (b"SSH-2.0-OpenSSH\r\n\r\n", ConnectionFailedError),
    "a body cut short": (b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{", MalformedResponseError),
    "chunks cut short": (CHUNKED + b"5\r\nhe", MalformedResponseError),
    "no last chunk": (CHUNKED + b"2\r\nhe\r\n", MalformedResponseError),
    "a chunk of no size": (CHUNKED + b"zz\r\nhe\r\n", MalformedResponseError),
    "bad gzip": (
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nhi",
        MalformedResponseError,
    ),
    "an encoding that was not asked for": (
        b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 2\r\n\r\nhi",
        MalformedResponseError,
    ),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_transport_translates_broken_responses(way: Any, case: str) -> None:
    """Each way to break a response has its class, and no message shows a secret."""
    data, expected = BROKEN[case]
    async with raw_server(say(data)) as server:
        with pytest.raises(expected) as caught:
            await post(way(), server)
    assert_nothing_leaks(caught.value)


async def test_transport_translates_a_refused_connection(way: Any, free_tcp_port: int) -> None:
    """The message has the address."""
    transport = way()
    with pytest.raises(ConnectionFailedError, match=f"127.0.0.1:{free_tcp_port}") as caught:
        await transport.post(f"http://127.0.0.1:{free_tcp_port}/v1?api-key={KEY}", b"{}")
    await transport.aclose()
    assert caught.value.__cause__ is not None
    assert_nothing_leaks(caught.value, capture_locals=False)


async def test_transport_translates_an_unknown_host() -> None:
    """DNS errors are translated too."""
    transport = direct()
    with pytest.raises(ConnectionFailedError, match=r"no-such-host\.invalid"):
        await transport.post("http://no-such-host.invalid/v1", b"{}")


def assert_nothing_leaks(error: BaseException, *, capture_locals: bool = True) -> None:
    """Look for the key in everything that may be shown of an error and its causes."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=capture_locals)
    assert KEY not in "".join(shown.format())
    link: BaseException | None = error
    while link is not None:
        assert KEY not in repr(link) + str(link) + repr(getattr(link, "__notes__", ""))
        link = link.__cause__ or link.__context__


# What httpx and httpcore do when a stream is given up half-way, on Trio.
@pytest.mark.filterwarnings("ignore:Async generator 'http(x|core)\\.:ResourceWarning")
async def test_transport_stops_reading_a_response_over_the_limit(way: Any) -> None:
    """A body without end is abandoned, and the server sees it."""

    async def script(connection: Connection) -> None:
        await connection.send(CHUNKED)
        while True:
            await connection.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")

    async with raw_server(script) as server:
        with pytest.raises(MalformedResponseError, match="larger than 1000000 bytes"):
            await post(way(max_response_bytes=1_000_000), server)
        with anyio.fail_after(5):
            await server.closed.wait()


async def test_transport_refuses_a_length_over_the_limit_at_once() -> None:
    """Before any of the body."""

    async def script(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n")
        await connection.until_closed()
        raise HangUp

    async with raw_server(script) as server:
        with pytest.raises(MalformedResponseError, match="larger than 1000 bytes"):
            await post(direct(max_response_bytes=1000), server)


async def test_transport_accepts_a_response_of_exactly_the_limit(way: Any) -> None:
    """The limit is inclusive."""

    async def script(connection: Connection) -> None:
        await connection.answer(b"x" * 1000)

    async with raw_server(script) as server:
        assert len((await post(way(max_response_bytes=1000), server)).body) == 1000


async def test_transport_stops_a_gzip_bomb_with_bounded_memory(way: Any) -> None:
    """200 MB in 200 kB with a limit of 1 MB: memory stays close to the limit."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(200)) + packer.flush()

    async def script(connection: Connection) -> None:
        await connection.answer(bomb, "200 OK", b"content-encoding: gzip")

    async with raw_server(script) as server:
        tracemalloc.start()
        try:
            with pytest.raises(MalformedResponseError, match="larger than 1000000 bytes"):
                await post(way(max_response_bytes=1_000_000), server)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 12_000_000


async def test_transport_decodes_unrequested_gzip(way: Any) -> None:
    """Some proxies always compress."""

    async def script(connection: Connection) -> None:
        await connection.answer(gzip.compress(ANSWER), "200 OK", b"content-encoding: gzip")

    async with raw_server(script) as server:
        assert (await post(way(), server)).body == ANSWER


async def test_transport_does_not_follow_redirects(way: Any) -> None:
    """The key does not go to a host that the caller did not name."""

    async def answer(connection: Connection) -> None:
        await connection.answer()

    async with raw_server(answer) as elsewhere:

        async def redirect(connection: Connection) -> None:
            location = f"location: {elsewhere.base_url}".encode()
            await connection.answer(b"", "307 Temporary Redirect", location)

        async with raw_server(redirect) as server:
            reply = await post(way(), server)
    assert reply.status == 307
    assert reply.headers.get("location") == elsewhere.base_url
    assert elsewhere.requests == []


async def test_transport_uses_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY and NO_PROXY count, as httpx users expect."""

    async def script(connection: Connection) -> None:
        await connection.answer(b"from the proxy")

    async with raw_server(script) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.base_url.removesuffix("/v1"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        transport = direct()
        reply = await transport.post("http://provider.invalid/v1", b"{}")
        assert reply.body == b"from the proxy"
        assert proxy.requests[0].head.startswith(b"POST http://provider.invalid/v1 HTTP/1.1")
        assert (await transport.post(proxy.base_url, b"{}")).status == 200
        assert proxy.requests[1].head.startswith(b"POST /v1 HTTP/1.1")


async def test_transport_refuses_requests_after_aclose() -> None:
    """Nothing hangs, and the message has the reason."""
    transport = direct()
    await transport.aclose()
    await transport.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await transport.post("http://127.0.0.1:9/v1", b"{}")


def test_transport_takes_either_a_client_or_a_transport() -> None:
    """Both are an error."""
    with pytest.raises(ValueError, match="not both"):
        direct(http_client=httpx.AsyncClient(), transport=httpx.AsyncHTTPTransport())


@pytest.mark.parametrize("value", ["sk-secret\n-key", "sk-sécret", "sk-\x00"])
def test_transport_refuses_a_malformed_header_without_showing_it(value: str) -> None:
    """The value may be a key."""
    with pytest.raises(ValueError, match="'authorization'") as caught:
        Transport({"authorization": value}, tls=False, timeout=1, max_response_bytes=1)
    assert value not in str(caught.value)


# Over httpx's own types


async def test_httpx_channels_mock_transport_answers() -> None:
    """httpx.MockTransport gets an ordinary httpx request."""
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"ok": True}, headers={"X-Request-Id": "r1"})

    transport = direct(transport=httpx.MockTransport(handle))
    reply = await transport.post("http://provider.test/v1/x?y=1", b'{"a":1}')
    assert (reply.status, reply.body, reply.request_id) == (200, b'{"ok":true}', "r1")
    (request,) = seen
    assert (request.method, str(request.url)) == ("POST", "http://provider.test/v1/x?y=1")
    assert request.content == b'{"a":1}'
    assert request.headers["host"] == "provider.test"


async def test_httpx_channels_asgi_application_answers() -> None:
    """httpx.ASGITransport plugs in."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body + scope["path"].encode()})

    transport = direct(transport=httpx.ASGITransport(application))
    assert (await transport.post("http://app/v1/chat", b"{}")).body == b"{}/v1/chat"


async def test_httpx_channels_leave_errors_of_a_mock_as_they_are() -> None:
    """An error of the transport itself is not translated."""

    def handle(_: httpx.Request) -> httpx.Response:
        raise LookupError("not mocked")

    with pytest.raises(LookupError, match="not mocked"):
        await direct(transport=httpx.MockTransport(handle)).post("http://provider.test", b"{}")


async def test_httpx_channels_client_hooks_may_read_the_response() -> None:
    """A body that has been read is not read twice."""

    async def hook(response: httpx.Response) -> None:
        await response.aread()

    def handle(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=stream())

    async def stream() -> AsyncIterator[bytes]:
        yield b"{"
        yield b"}"

    hooks: Any = {"response": [hook]}
    async with httpx.AsyncClient(transport=httpx.MockTransport(handle), event_hooks=hooks) as http:
        transport = direct(http_client=http, max_response_bytes=2)
        assert (await transport.post("http://provider.test", b"{}")).body == b"{}"
        await transport.aclose()
        assert not http.is_closed
        with pytest.raises(MalformedResponseError, match="larger than 1 bytes"):
            await direct(http_client=http, max_response_bytes=1).post("http://x.test", b"{}")


def test_httpx_channels_timeout_works_on_a_virtual_clock() -> None:
    """An hour of dripping against a timeout of 90 s."""

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(3600):
            await anyio.sleep(1)
            yield b"x"

    def handle(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=drip())

    async def main() -> float:
        transport = direct(timeout=90, transport=httpx.MockTransport(handle))
        with pytest.raises(RequestTimeoutError, match="within 90 s"):
            await transport.post("http://provider.test", b"{}")
        return trio.current_time()

    clock = trio.testing.MockClock(autojump_threshold=0)
    start = clock.current_time()
    assert trio.run(main, clock=clock) - start == pytest.approx(90)


# Our own httpx transport


@pytest.fixture
def native_client() -> httpx.AsyncClient:
    """An ordinary httpx client over our transport."""
    return httpx.AsyncClient(transport=BatchrtTransport())


async def test_native_transport_works_in_an_httpx_client(native_client: httpx.AsyncClient) -> None:
    """Headers, bodies and streaming pass through."""

    async def script(connection: Connection) -> None:
        await connection.answer(ANSWER, "201 Created", b"x-a: 1", b"x-b: 2")

    async with raw_server(script) as server, native_client as client:
        response = await client.post(server.base_url, json={"a": 1}, headers={"host": "other"})
    assert (response.status_code, response.content, response.headers["x-b"]) == (201, ANSWER, "2")
    assert server.requests[0].header("host") == "other"
    assert server.requests[0].body == b'{"a":1}'


async def test_native_transport_raises_httpx_errors(
    native_client: httpx.AsyncClient, free_tcp_port: int
) -> None:
    """Refused, silent and broken connections."""
    async with native_client as client:
        with pytest.raises(httpx.ConnectError):
            await client.post(f"http://127.0.0.1:{free_tcp_port}")
        async with raw_server(head_only) as server:
            with pytest.raises(httpx.ReadTimeout):
                await client.post(server.base_url, timeout=0.1)
        async with raw_server(half_a_body) as server:
            with pytest.raises(httpx.ReadTimeout):
                await client.post(server.base_url, timeout=0.1)
        async with raw_server(say(CHUNKED + b"5\r\nhe")) as server:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post(server.base_url)


# What httpx reads


@pytest.mark.parametrize("length", [b"2, 2", b"2,2", b"2 , 2, 2", b"2\r\ncontent-length: 2", b"02"])
async def test_transport_accepts_a_repeated_content_length(way: Any, length: bytes) -> None:
    """A proxy that joins two equal fields breaks nothing (RFC 9110, 8.6)."""
    async with raw_server(say(b"HTTP/1.1 200 OK\r\ncontent-length: " + length + b"\r\n\r\n{}")) as server:
        assert (await post(way(), server)).body == b"{}"


@pytest.mark.parametrize("length", [b"2, 3", b"two", b"-2", b"2\r\ncontent-length: 3", b"9" * 30])
async def test_transport_refuses_a_malformed_content_length(way: Any, length: bytes) -> None:
    """It is not retried: another attempt would get the same."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: " + length + b"\r\n\r\n{}"
    async with raw_server(say(head)) as server:
        with pytest.raises(MalformedResponseError) as caught:
            await post(way(), server)
    assert caught.value.retry_advised is False or length == b"9" * 30


@pytest.mark.parametrize("count", [90, 101, 150, 400, 1000])
async def test_transport_reads_hundreds_of_headers(way: Any, count: int) -> None:
    """At the first attempt, so that no answer is paid for twice."""
    more = [b"x-%d: %d" % (number, number) for number in range(count)]

    async def script(connection: Connection) -> None:
        await connection.answer(ANSWER, "200 OK", *more)

    transport = way()
    async with raw_server(script) as server:
        for _ in range(2):
            reply = await transport.post(server.base_url, b"{}")
            assert reply.headers.get(f"x-{count - 1}") == str(count - 1)
            assert reply.body == ANSWER
        await transport.aclose()
    assert len(server.requests) == 2


@pytest.mark.parametrize("host", ["my_llm", "a_b.c-d_", "_x", "x_", "only-in-nss"])
async def test_transport_asks_the_system_resolver(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Compose has names with underscores; the answer is remembered."""
    known = socket.getaddrinfo
    asked: list[str] = []

    def resolve(name: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(name)
        return known("127.0.0.1" if name == host else name, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with threaded_server() as base_url:
        url = base_url.replace("127.0.0.1", host)
        transport = direct()
        for _ in range(3):
            assert (await transport.post(url, b"{}")).body == ANSWER
        await transport.aclose()
    assert asked == [host]


@pytest.mark.parametrize("setting", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
async def test_transport_accepts_a_trusted_self_signed_certificate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str
) -> None:
    """As httpx and curl do, also if it claims to be an authority."""
    cert = certificate(tmp_path)
    if setting == "SSL_CERT_DIR":
        cert = hashed(cert)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv(setting, str(cert if setting == "SSL_CERT_FILE" else cert.parent))
    with tls_server(cert) as url:
        transport = Transport(HEADERS, tls=True, timeout=20, max_response_bytes=10**6)
        for _ in range(2):
            assert (await transport.post(url, b"{}")).body == ANSWER
        with pytest.raises(ConnectionFailedError, match="certificate"):
            await transport.post(url.replace("localhost", "127.0.0.1"), b"{}")  # which it is not for
        await transport.aclose()


@pytest.mark.parametrize("setting", ["missing.pem", "broken.pem"])
async def test_transport_translates_unreadable_certificate_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str
) -> None:
    """A file that is missing or holds no certificates."""
    (tmp_path / "broken.pem").write_text("no certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / setting))
    with tls_server(certificate(tmp_path)) as url:
        transport = Transport(HEADERS, tls=True, timeout=20, max_response_bytes=10**6)
        with pytest.raises(ConnectionFailedError, match="SSL_CERT_FILE"):
            await transport.post(url, b"{}")
        await transport.aclose()


@pytest.mark.parametrize(
    "exceptions", ["*", "127.0.0.1", "127.0.0.1:{port}", "127.0.0.0/8", "http://127.0.0.1"]
)
async def test_transport_sends_no_key_to_an_excepted_proxy(
    monkeypatch: pytest.MonkeyPatch, exceptions: str
) -> None:
    """For any form of `NO_PROXY`."""

    async def script(connection: Connection) -> None:
        await connection.answer()

    async with raw_server(script) as proxy, raw_server(script) as server:
        port = server.base_url.rpartition(":")[2].removesuffix("/v1")
        monkeypatch.setenv("HTTP_PROXY", proxy.base_url.removesuffix("/v1"))
        monkeypatch.setenv("NO_PROXY", exceptions.format(port=port))
        await post(direct(), server)
        assert (len(server.requests), len(proxy.requests)) == (1, 0)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1:1")
        await post(direct(), server)
        assert (len(server.requests), len(proxy.requests)) == (1, 1)


# Clients of others


def answered(library: Any, first: BaseException | None = None) -> Any:
    """Return a mock of `library` that raises `first` and then answers."""
    failures = [first] if first is not None else []

    def handle(_: Any) -> Any:
        if failures:
            raise failures.pop()
        return library.Response(200, content=ANSWER)

    return library.MockTransport(handle)


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda library: library.__name__)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ReadError", ConnectionFailedError),
        ("WriteError", ConnectionFailedError),
        ("ConnectError", ConnectionFailedError),
        ("RemoteProtocolError", ConnectionFailedError),
        ("ProxyError", ConnectionFailedError),
        ("ReadTimeout", RequestTimeoutError),
        ("PoolTimeout", RequestTimeoutError),
        ("ConnectTimeout", ConnectionFailedError),
        ("DecodingError", ConnectionFailedError),
    ],
)
@pytest.mark.parametrize("as_client", [True, False])
async def test_httpx_channels_translate_errors_of_both_libraries(
    library: Any, name: str, expected: type[ProviderError], as_client: bool
) -> None:
    """httpx2's errors are retried like httpx's: openai and LangChain use it."""
    mock = answered(library, getattr(library, name)("it broke"))
    client = library.AsyncClient(transport=mock)
    transport = direct(**({"http_client": client} if as_client else {"transport": mock}))
    with pytest.raises(expected):
        await transport.post("http://provider.test/v1", b"{}")
    assert (await transport.post("http://provider.test/v1", b"{}")).body == ANSWER
    await client.aclose()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"http_client": httpx.Client()}, "httpx.AsyncClient.*synchronous"),
        ({"http_client": httpx2.Client()}, "httpx2.AsyncClient.*synchronous"),
        ({"http_client": httpx.MockTransport(lambda _: httpx.Response(200))}, "transport="),
        ({"http_client": "http://proxy:3128"}, "not builtins.str"),
        ({"http_client": openai.AsyncOpenAI(api_key="k")}, "not openai.AsyncOpenAI"),
        ({"http_client": httpx.AsyncClient}, "not builtins.type"),
        ({"transport": httpx.AsyncClient()}, "http_client="),
        ({"transport": httpx2.AsyncClient()}, "http_client="),
        ({"transport": httpx.HTTPTransport()}, "handle_async_request"),
        ({"transport": httpx.WSGITransport(lambda _env, _start: [])}, "handle_async_request"),
        ({"transport": 7}, "not builtins.int"),
    ],
)
def test_httpx_channels_refuse_other_objects(options: dict[str, Any], said: str) -> None:
    """When the model is made, with the remedy."""
    with pytest.raises(TypeError, match=said):
        direct(**options)


def test_httpx_channels_accept_a_subclass_of_a_client() -> None:
    """As openai's own is."""
    direct(http_client=openai.DefaultAsyncHttpxClient())

    class Mine(httpx.AsyncClient):
        """Be one."""

    direct(http_client=Mine())


async def test_httpx_channels_accept_a_transport_of_no_library() -> None:
    """A stub needs only the one method."""

    class Stub:
        async def handle_async_request(self, _request: object) -> httpx.Response:
            return httpx.Response(200, content=ANSWER)

        async def aclose(self) -> None:
            """Do nothing."""

    assert (await direct(transport=Stub()).post("http://provider.test", b"{}")).body == ANSWER


# Loops and processes


def each_loop() -> Iterator[tuple[str, dict[str, Any]]]:
    """The loops that a client may meet in one process."""
    yield "asyncio", {}
    yield "trio", {}
    yield "asyncio", {"use_uvloop": True}
    yield "asyncio", {}


def test_transport_serves_one_loop_after_another() -> None:
    """asyncio.run twice, and Trio in between."""
    with threaded_server() as base_url:
        transport = direct()
        for backend, options in each_loop():
            for _ in range(3):
                reply = anyio.run(transport.post, base_url, b"{}", backend=backend, backend_options=options)
                assert reply.body == ANSWER


def test_transport_serves_several_loops_at_once() -> None:
    """Four threads, each with its own loop."""
    transport = direct()
    replies: list[Reply] = []

    async def many(base_url: str) -> None:
        for _ in range(25):
            replies.append(await transport.post(base_url, b"{}"))

    def run(backend: str, options: dict[str, Any]) -> None:
        anyio.run(many, base_url, backend=backend, backend_options=options)

    with threaded_server() as base_url:
        threads = [threading.Thread(target=run, args=loop) for loop in each_loop()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [reply.body for reply in replies] == [ANSWER] * 100


def test_transport_errors_are_provider_errors() -> None:
    """One `except` catches everything that a post can raise."""
    for kind in (ConnectionFailedError, RequestTimeoutError, MalformedResponseError):
        assert issubclass(kind, ProviderError)
