from __future__ import annotations

import base64
import builtins
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import httpx
import pytest

from batchrt.testing import Fault, FaultLike, FaultPlan, MockProvider, MockServer, serve_forever

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@contextmanager
def client_of(server: MockServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.base_url, timeout=10, trust_env=False) as client:
        yield client


def test_server_answers_as_predicted() -> None:
    """Entering returns when it listens; the log is read from this thread."""
    provider = MockProvider()
    with provider.serve() as server, client_of(server) as client:
        assert server.base_url == f"http://127.0.0.1:{server.port}/v1"
        response = client.post("/chat/completions", json=BODY)
        seen = client.get(f"{server.url}/_mock/log").json()
    assert response.json()["choices"][0]["message"]["content"] == provider.answer_to("hi")
    assert response.headers["x-request-id"].startswith("req_")
    assert seen == provider.log.snapshot().to_dict()


def test_server_sends_long_lists() -> None:
    """Megabytes of vectors, and the log has the number of inputs."""
    provider = MockProvider()
    texts = [f"text {number}" for number in range(2048)]
    body = {"model": "m", "input": texts, "encoding_format": "base64"}
    with provider.serve() as server, client_of(server) as client:
        data = client.post("/embeddings", json=body).json()["data"]
        seen = client.get(f"{server.url}/_mock/log").json()
    expected = provider.vector_of(texts[-1], model="m")
    assert struct.unpack("<1536f", base64.b64decode(data[-1]["embedding"])) == tuple(expected)
    assert (seen["requests"], seen["items"], seen["most_items"]) == (1, 2048, 2048)


def test_server_logs_an_answer_before_it_arrives() -> None:
    """No race between the client's thread and the server's."""
    provider = MockProvider()
    with provider.serve() as server, client_of(server) as client:
        for number in range(1, 200):
            client.post("/chat/completions", json=BODY)
            seen = provider.log.snapshot()
            assert (seen.by_status, seen.in_flight) == ({200: number}, 0)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.DROP_BEFORE_RESPONSE, httpx.RemoteProtocolError),
        (Fault.STALL(seconds=0.01), httpx.RemoteProtocolError),
        (Fault.SHORT_BODY, httpx.RemoteProtocolError),
        (Fault.DROP_MID_BODY, httpx.ReadError),
    ],
)
def test_server_closes_dropped_connections(
    fault: FaultLike, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """The client sees a broken network, and the server continues."""
    provider = MockProvider(faults=FaultPlan(script=[fault]))
    with provider.serve() as server, client_of(server) as client:
        with pytest.raises(error):
            client.post("/chat/completions", json=BODY)
        assert client.post("/chat/completions", json=BODY).status_code == 200
    assert caplog.records == []
    assert provider.log.snapshot().disconnects == 0


def test_server_reset_sends_rst() -> None:
    """Dropped mid-body means ECONNRESET, not an end of file."""
    provider = MockProvider(faults=FaultPlan(script=[Fault.DROP_MID_BODY]))
    raw = json.dumps(BODY).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(raw)
    with (
        provider.serve() as server,
        socket.create_connection((server.host, server.port), timeout=10) as plug,
    ):
        plug.sendall(head + raw)
        with pytest.raises(ConnectionResetError):
            read_to_the_end(plug)


def read_to_the_end(plug: socket.socket) -> None:
    while plug.recv(65_536):
        pass


def test_server_drip_is_complete() -> None:
    """In the end the answer is right."""
    provider = MockProvider(faults=FaultPlan(script=[Fault.SLOW_DRIP(seconds=0.0001)]))
    with provider.serve() as server, client_of(server) as client:
        answer = client.post("/chat/completions", json=BODY).json()
    assert answer["choices"][0]["message"]["content"] == provider.answer_to("hi")


def test_server_large_answer_ends_with_its_reader() -> None:
    """Whole if it is read; otherwise it ends with the connection."""
    faults = FaultPlan(script=[Fault.OVERSIZED(size=3_000_000), Fault.OVERSIZED(size=10**15)])
    provider = MockProvider(faults=faults)
    with provider.serve() as server, client_of(server) as client:
        assert len(client.post("/chat/completions", json=BODY).content) == 3_000_000
        with client.stream("POST", "/chat/completions", json=BODY) as response:
            next(response.iter_raw())
        seen = anyio.run(heard_of, provider, 1)
    assert seen == 0


async def heard_of(provider: MockProvider, disconnects: int) -> int:
    """Wait for the disconnects and return the number still in flight."""
    with anyio.fail_after(10):
        seen = await provider.log.wait_for(lambda seen: seen.disconnects == disconnects)
    return seen.in_flight


@pytest.mark.anyio
@pytest.mark.parametrize("fault", [None, Fault.STALL(seconds=3600), Fault.SLOW_DRIP(seconds=3600)])
async def test_server_notices_a_disconnect_at_once(fault: FaultLike | None) -> None:
    """During latency, a stall or a drip."""
    latency = 3600 if fault is None else 0
    provider = MockProvider(latency=latency, faults=FaultPlan(script=[fault]))
    raw = json.dumps(BODY).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(raw)
    with provider.serve() as server, anyio.fail_after(10):
        async with await anyio.connect_tcp(server.host, server.port) as plug:
            await plug.send(head + raw)
            await provider.log.wait_for(lambda seen: seen.in_flight == 1)
        seen = await provider.log.wait_for(lambda seen: seen.disconnects == 1)
    assert seen.in_flight == 0


@pytest.mark.anyio
async def test_server_stops_with_requests_in_flight(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Their clients see the connection close; no task is left running, no error is logged."""
    provider = MockProvider(latency=3600)
    raw = json.dumps(BODY).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(raw)
    with anyio.fail_after(10):
        with provider.serve() as server:
            plugs = [await anyio.connect_tcp(server.host, server.port) for _ in range(20)]
            for plug in plugs:
                await plug.send(head + raw)
            await provider.log.wait_for(lambda seen: seen.in_flight == 20)
        for plug in plugs:
            with pytest.raises(anyio.EndOfStream):
                await plug.receive()
            await plug.aclose()
    assert provider.log.snapshot().in_flight == 0
    assert not [thread for thread in threading.enumerate() if "batchrt-mock" in thread.name]
    assert caplog.records == []


def test_server_answers_pipelined_requests() -> None:
    """Two requests at once on one connection, with latency between: in order, none lost."""
    provider = MockProvider(latency=0.001)
    wire = b""
    for text in ("one", "two"):
        raw = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
        wire += head % len(raw) + raw
    with (
        provider.serve() as server,
        socket.create_connection((server.host, server.port), timeout=10) as plug,
    ):
        plug.sendall(wire)
        got = b""
        while got.count(b"fp_batchrt_mock") < 2:
            got += plug.recv(65_536)
    one, two = (provider.answer_to(text).encode() for text in ("one", "two"))
    assert 0 < got.index(one) < got.index(two)


def test_server_holds_many_connections() -> None:
    """A few hundred here; ten thousand have been measured."""
    provider = MockProvider(latency=3600)
    raw = json.dumps(BODY).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(raw)

    async def main(server: MockServer) -> int:
        with anyio.fail_after(30):
            plugs = [await anyio.connect_tcp(server.host, server.port) for _ in range(300)]
            for plug in plugs:
                await plug.send(head + raw)
            seen = await provider.log.wait_for(lambda seen: seen.in_flight == 300)
            for plug in plugs:
                await plug.aclose()
            await provider.log.wait_for(lambda seen: seen.disconnects == 300)
            return seen.peak_in_flight

    with provider.serve() as server:
        assert anyio.run(main, server) == 300


def test_server_raises_for_a_taken_port() -> None:
    """From the `with` statement, not from a thread."""
    provider = MockProvider()
    with (
        provider.serve() as server,
        pytest.raises(OSError, match="in use"),
        provider.serve(port=server.port),
    ):
        pass


def test_server_can_be_entered_once() -> None:
    """The error of a second start gives the alternative."""
    server = MockProvider().serve()
    with server:
        pass
    with pytest.raises(RuntimeError, match=r"serve\(\) again"), server:
        pass


def test_server_url_is_reachable() -> None:
    """0.0.0.0 is for listening only."""
    with MockProvider().serve("0.0.0.0") as server, client_of(server) as client:
        assert server.base_url.startswith("http://127.0.0.1:")
        assert client.get("/models").status_code == 200


def test_server_url_brackets_an_ipv6_address() -> None:
    """RFC 3986."""
    assert MockProvider().serve("::1", 8000).base_url == "http://[::1]:8000/v1"
    assert MockProvider().serve("::", 8000).url == "http://[::1]:8000"


def test_server_without_uvicorn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ImportError says what to install."""
    monkeypatch.delitem(sys.modules, "batchrt.testing.serving.uvicorn_server", raising=False)
    real = builtins.__import__

    def without_uvicorn(name: str, *args: Any, **options: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == "uvicorn":
            raise ModuleNotFoundError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_uvicorn)
    with pytest.raises(ImportError, match=r"pip install 'batchrt\[mock\]'"):
        MockProvider().serve()


def test_server_start_failure_is_raised_by_the_with_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the server's thread is not lost, and nothing waits for ever."""
    server = MockProvider().serve()

    def broken(**_: Any) -> Any:
        raise LookupError("no event loop today")

    monkeypatch.setattr(server._server, "serve", broken)
    with pytest.raises(LookupError, match="today"), server:
        pass


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_serve_forever_ends_with_a_signal(sign: signal.Signals) -> None:
    """Ctrl-C returns, with a request in flight as well; SIGTERM ends the process as usual."""
    program = textwrap.dedent("""
        from batchrt.testing import MockProvider, serve_forever

        def tell(base_url):
            print(base_url, flush=True)

        serve_forever(MockProvider(latency=3600), port=0, on_listening=tell)
        print("returned", flush=True)
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as child:
        try:
            assert child.stdout is not None
            base_url = child.stdout.readline().strip()
            with pytest.raises(httpx.HTTPError):
                send_and_signal(base_url, child.pid, sign)
            out, err = child.communicate(timeout=20)
        finally:
            child.kill()
    assert err == ""
    assert out == ("returned\n" if sign is signal.SIGINT else "")
    assert child.returncode == (0 if sign is signal.SIGINT else -sign)


def send_and_signal(base_url: str, pid: int, sign: signal.Signals) -> None:
    """Signal the server from the moment it has a request in flight."""

    async def main() -> None:
        async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
            async with anyio.create_task_group() as group:
                group.start_soon(signal_when_busy, client)
                await client.post(f"{base_url}/chat/completions", json=BODY)

    async def signal_when_busy(client: httpx.AsyncClient) -> None:
        log = base_url.removesuffix("/v1") + "/_mock/log"
        while not (await client.get(log)).json()["in_flight"]:
            await anyio.lowlevel.checkpoint()
        os.kill(pid, sign)

    try:
        anyio.run(main)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


def test_serve_forever_raises_for_a_taken_port() -> None:
    """Before `on_listening` is called."""
    told: list[str] = []
    with MockProvider().serve() as server, pytest.raises(OSError, match="in use"):
        serve_forever(MockProvider(), port=server.port, on_listening=told.append)
    assert told == []


def test_server_stops_with_idle_connections() -> None:
    """They are closed at once, and the port is free afterwards."""
    with httpx.Client(trust_env=False) as client:
        with MockProvider().serve() as server:
            assert client.get(f"{server.base_url}/models").status_code == 200
        with pytest.raises(httpx.ConnectError):
            client.get(f"{server.base_url}/models")
