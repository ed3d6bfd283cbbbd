"""The default transport from a URL to a socket: Unix sockets, names, and contexts of TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest

from batchrt import ChatOpenAI
from batchrt.errors import ConnectionFailedError
from batchrt.providers.http import name_lookup
from batchrt.providers.http.transport import Transport
from tests.providers.http.raw import ANSWER
from tests.providers.http.tls import certificate

pytestmark = pytest.mark.anyio

RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)


@contextmanager
def answering(listener: socket.socket, context: ssl.SSLContext | None = None) -> Iterator[list[bytes]]:
    """Answer each request on each connection to `listener`; gives the requests."""
    requests: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.settimeout(20)
            stream = connection if context is None else context.wrap_socket(connection, server_side=True)
            with stream:
                received = b""
                while part := stream.recv(65536):
                    received += part
                    if received.endswith((b"{}", b"]}")):
                        requests.append(received)
                        received = b""
                        stream.sendall(RESPONSE)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    with listener:
        yield requests
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def transport(*, tls: bool = False, ssl_context: ssl.SSLContext | None = None) -> Transport:
    return Transport({}, tls=tls, timeout=20, max_response_bytes=10**6, ssl_context=ssl_context)


async def test_model_speaks_to_a_unix_socket(socket_folder: Path) -> None:
    """Its base URL has the socket's path; two requests share a connection."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(socket_folder / "Model.sock"))
    listener.listen()
    with answering(listener) as requests:
        base_url = f"http+unix://{quote(str(socket_folder / 'Model.sock'), safe='')}/v1"
        async with ChatOpenAI("m", base_url=base_url, api_key="k", extra_body={"z": []}) as model:
            for _ in range(2):
                assert (await model.ainvoke("x")).text == "hello"
    head = requests[0].partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"post /v1/chat/completions http/1.1\r\nhost: localhost\r\n")
    assert len(requests) == 2


async def test_unix_socket_without_a_listener_is_a_wrong_address(socket_folder: Path) -> None:
    """As a port without one is; the message names the path, as there is no port."""
    url = f"http+unix://{quote(str(socket_folder / 'missing'), safe='')}/v1"
    sender = transport()
    with pytest.raises(ConnectionFailedError, match=r"nothing listens there .* path of the socket") as caught:
        await sender.post(url, b"{}")
    assert caught.value.fault == "refused"
    assert "port" not in str(caught.value)
    await sender.aclose()


def server_context(cert: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, cert.with_name("key.pem"))
    return context


async def test_ssl_context_may_hold_a_client_certificate(tmp_path: Path) -> None:
    """Which a server demands; without it the connection fails."""
    cert = certificate(tmp_path)
    demanding = server_context(cert)
    demanding.verify_mode = ssl.CERT_REQUIRED
    demanding.load_verify_locations(cert)
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"https://localhost:{listener.getsockname()[1]}/v1"
    trusting = ssl.create_default_context(cafile=str(cert))
    known = ssl.create_default_context(cafile=str(cert))
    known.load_cert_chain(cert, cert.with_name("key.pem"))
    with answering(listener, demanding) as requests:
        sender = transport(tls=True, ssl_context=known)
        assert (await sender.post(url, b"{}")).body == ANSWER
        await sender.aclose()
        sender = transport(tls=True, ssl_context=trusting)
        with pytest.raises(ConnectionFailedError):
            await sender.post(url, b"{}")
        await sender.aclose()
    assert len(requests) == 1


async def test_ssl_context_is_an_option_of_models(tmp_path: Path) -> None:
    """Together with a client or transport of the user's it is an error, as that has its own."""
    cert = certificate(tmp_path)
    listener = socket.create_server(("127.0.0.1", 0))
    base_url = f"https://localhost:{listener.getsockname()[1]}/v1"
    context = ssl.create_default_context(cafile=str(cert))
    options: dict[str, Any] = {
        "base_url": base_url,
        "api_key": "k",
        "extra_body": {"z": []},
        "max_retries": 0,
    }
    with answering(listener, server_context(cert)):
        async with ChatOpenAI("m", ssl_context=context, **options) as model:
            assert (await model.ainvoke("x")).text == "hello"
        async with ChatOpenAI("m", **options) as model:
            with pytest.raises(ConnectionFailedError, match="its certificate is refused"):
                await model.ainvoke("x")
    with pytest.raises(ValueError, match="ssl_context"):
        ChatOpenAI("m", ssl_context=context, http_client=object(), **options)  # type: ignore[arg-type]


async def test_burst_of_connections_has_one_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one thread for it, however many requests there are."""
    looked_up: list[tuple[Any, ...]] = []
    resolve = name_lookup._resolve

    def counted(*host: Any) -> Any:
        looked_up.append(host)
        return resolve("127.0.0.1", host[1])

    monkeypatch.setattr(name_lookup, "_resolve", counted)
    listener = socket.create_server(("127.0.0.1", 0), backlog=300)
    url = f"http://my_llm.test:{listener.getsockname()[1]}/v1"
    sender, answers = transport(), 0

    async def ask() -> None:
        nonlocal answers
        assert (await sender.post(url, b"{}")).body == ANSWER
        answers += 1

    with answering(listener) as requests:
        async with anyio.create_task_group() as group:
            for _ in range(200):
                group.start_soon(ask)
        await sender.aclose()
    assert answers == len(requests) == 200
    assert len(looked_up) == 1
