"""What is wrong with an address: said in words that help, the same by every way out."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchrt.errors import ConnectionFailedError, ConnectionFault
from batchrt.providers.http.connection_errors import connection_failed, fault_of
from batchrt.providers.http.proxies import Proxy
from batchrt.providers.http.transport import Transport
from tests.providers.http.tls import certificate, tls_server

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["direct", "transport", "client"])
async def way(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Run a test over each way out."""
    made: list[Transport] = []
    clients: list[httpx.AsyncClient] = []

    def make(url: str) -> Transport:
        options: dict[str, Any] = {}
        if request.param == "transport":
            options["transport"] = httpx.AsyncHTTPTransport()
        elif request.param == "client":
            clients.append(httpx.AsyncClient())
            options["http_client"] = clients[-1]
        tls = url.startswith("https")
        made.append(Transport({}, tls=tls, timeout=20, max_response_bytes=1000, **options))
        return made[-1]

    yield make
    for thing in made:
        await thing.aclose()
    for client in clients:
        await client.aclose()


async def failure_at(way: Any, url: str) -> ConnectionFailedError:
    """Return how a request to `url` fails."""
    with pytest.raises(ConnectionFailedError) as caught:
        await way(url).post(url, b"{}")
    return caught.value


@pytest.mark.parametrize("host", ["no-such-host.invalid", "no_such_host.invalid", "nö.invalid"])
async def test_connection_fault_of_an_unknown_host(way: Any, host: str) -> None:
    """The message has the host and the setting."""
    error = await failure_at(way, f"http://{host}/v1")
    assert error.fault == "host"
    assert f"http://{host}" in str(error)
    assert "the name of the host is unknown" in str(error)
    assert "base_url" in str(error)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_connection_fault_of_a_port_without_a_listener(
    way: Any, free_tcp_port: int, scheme: str
) -> None:
    """With either scheme."""
    error = await failure_at(way, f"{scheme}://127.0.0.1:{free_tcp_port}/v1")
    assert error.fault == "refused"
    assert str(error).startswith(f"cannot connect to {scheme}://127.0.0.1:{free_tcp_port}: nothing listens")


@contextmanager
def blunt_server(reply: bytes) -> Iterator[int]:
    """Answer whatever comes with `reply` and close; gives the port."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(10)
                connection.recv(65536)
                connection.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("reply", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n"])
async def test_connection_fault_of_https_at_a_port_without_tls(way: Any, reply: bytes) -> None:
    """The message points to the scheme and the port."""
    with blunt_server(reply) as port:
        error = await failure_at(way, f"https://127.0.0.1:{port}/v1")
    assert error.fault == "protocol"
    assert "does not speak TLS" in str(error)


async def test_connection_fault_of_another_protocol(way: Any) -> None:
    """Another service listens at the port."""
    with blunt_server(b"SSH-2.0-OpenSSH_9.6\r\n\r\n") as port:
        error = await failure_at(way, f"http://127.0.0.1:{port}/v1")
    assert error.fault == "protocol"
    assert "does not speak HTTP" in str(error)


async def test_connection_fault_of_http_at_a_port_with_tls(tmp_path: Path) -> None:
    """Such a server resets the connection, which is ambiguous: so it is probed."""
    with tls_server(certificate(tmp_path)) as url:
        plain = url.replace("https:", "http:")
        transport = Transport({}, tls=False, timeout=20, max_response_bytes=1000)
        with pytest.raises(ConnectionFailedError, match="try https://") as caught:
            await transport.post(plain, b"{}")
    assert caught.value.fault == "protocol"


async def test_connection_fault_of_an_unsigned_certificate(way: Any, tmp_path: Path) -> None:
    """The message says how to trust it."""
    with tls_server(certificate(tmp_path)) as url:
        error = await failure_at(way, url)
    assert error.fault == "certificate"
    assert "SSL_CERT_FILE" in str(error)


async def test_connection_fault_of_a_broken_connection_is_none(way: Any) -> None:
    """It says nothing about the address."""
    with blunt_server(b"") as port:
        error = await failure_at(way, f"http://127.0.0.1:{port}/v1")
    assert error.fault is None


@pytest.mark.parametrize(
    ("proxy", "fault"),
    [("http://user:hunter2@127.0.0.1:{free}", "refused"), ("http://no-such-proxy.invalid:3128", "host")],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_connection_fault_of_a_dead_proxy_is_the_proxys(
    monkeypatch: pytest.MonkeyPatch, free_tcp_port: int, scheme: str, proxy: str, fault: str
) -> None:
    """The message has the proxy and its setting, without its password, and does not blame the provider."""
    proxy = proxy.format(free=free_tcp_port)
    monkeypatch.setenv("ALL_PROXY", proxy)
    url = f"{scheme}://provider.example/v1"
    transport = Transport({}, tls=scheme == "https", timeout=20, max_response_bytes=1000)
    with pytest.raises(ConnectionFailedError) as caught:
        await transport.post(url, b"{}")
    shown = str(caught.value)
    assert shown.startswith(f"cannot connect to the proxy http://{proxy[7:].rpartition('@')[2]} (ALL_PROXY)")
    assert f"on the way to {scheme}://provider.example" in shown
    assert "hunter2" not in shown
    assert caught.value.fault == fault


@pytest.mark.parametrize("status", [b"407 Proxy Authentication Required", b"502 Bad Gateway"])
async def test_connection_failure_of_a_tunnel_is_the_proxys(
    monkeypatch: pytest.MonkeyPatch, status: bytes
) -> None:
    """A proxy's refusal is neither an outage of the provider nor a fault of an address."""
    with blunt_server(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n") as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        url = "https://provider.example/v1"
        transport = Transport({}, tls=True, timeout=20, max_response_bytes=1000)
        with pytest.raises(
            ConnectionFailedError, match=rf"the proxy http://127.0.0.1:{port} \(HTTPS_PROXY\)"
        ):
            await transport.post(url, b"{}")


def raised_from(error: BaseException, cause: BaseException, *, context: bool = False) -> BaseException:
    """Return `error` as one that was raised from `cause`, or while that was handled."""
    if context:
        error.__context__ = cause
    else:
        error.__cause__ = cause
    return error


def ssl_error(reason: str) -> ssl.SSLError:
    """Return OpenSSL's error of this name."""
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (socket.gaierror(-2, "Name or service not known"), "host"),
        (socket.gaierror(-3, "Temporary failure in name resolution"), "host"),
        (raised_from(OSError("x"), ConnectionRefusedError(111, "Connection refused")), "refused"),
        (raised_from(OSError("x"), ConnectionRefusedError(61, "x"), context=True), "refused"),
        (raised_from(OSError("x"), ExceptionGroup("", [OSError("y"), ConnectionRefusedError()])), "refused"),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), "certificate"),
        (ssl_error("WRONG_VERSION_NUMBER"), "protocol"),
        (ssl_error("RECORD_LAYER_FAILURE"), "protocol"),
        (ssl_error("UNEXPECTED_EOF_WHILE_READING"), None),
        (ConnectionResetError(104, "Connection reset by peer"), None),
        (TimeoutError("timed out"), None),
        (ConnectionError("tcp connect error: No connection could be made (os error 10061)"), "refused"),
    ],
)
def test_connection_fault_is_found_in_the_causes_of_an_error(
    error: BaseException, fault: ConnectionFault | None
) -> None:
    """In the forms of the libraries and operating systems."""
    assert fault_of(error) == fault


def test_connection_fault_search_ends_in_a_circle() -> None:
    """Errors may be raised from one another."""
    first, second = OSError("a"), OSError("b")
    first.__context__, second.__context__ = second, first
    assert fault_of(first) is None


def test_connection_fault_of_a_certificate_behind_a_proxy_is_the_servers() -> None:
    """The proxy only forwards it."""
    proxy = Proxy("http://proxy:3128", "HTTPS_PROXY")
    assert "proxy" not in str(connection_failed("https://a", "expired", "certificate", proxy))
