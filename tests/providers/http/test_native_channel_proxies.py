"""The default transport through proxies: forwarded, tunnelled, with TLS to the proxy, and refused."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from batchrt.errors import ConnectionFailedError
from batchrt.providers.http.transport import Transport
from tests.providers.http.fault_plans import Tally
from tests.providers.http.fault_server import Plan, Served, fault_server
from tests.providers.http.proxy_server import proxy_server
from tests.providers.http.tls import certificate

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def cert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate for localhost."""
    return certificate(tmp_path_factory.mktemp("cert"))


@pytest.fixture(scope="module", params=["http", "https"])
def served(request: pytest.FixtureRequest, cert: Path) -> Iterator[Served]:
    """Run a server, with TLS or without."""
    with fault_server(cert if request.param == "https" else None) as server:
        yield server


@pytest.fixture(autouse=True)
def trusted_certificate(monkeypatch: pytest.MonkeyPatch, cert: Path) -> None:
    """Trust the certificate of this module's servers."""
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))


def transport_to(url: str, timeout: float = 20.0) -> Transport:
    tls = url.startswith("https")
    return Transport({"authorization": "Bearer k"}, tls=tls, timeout=timeout, max_response_bytes=10**6)


async def ask(url: str, requests: int, at_once: int) -> Tally:
    """Send requests, some at once, and judge the answers."""
    transport, tally, numbers = transport_to(url), Tally(), iter(range(requests))

    async def work() -> None:
        for number in numbers:
            plan = Plan(id=number + 1)
            tally.add(plan, await transport.post(url, plan.body()), tls=url.startswith("https"))

    async with anyio.create_task_group() as group:
        for _ in range(at_once):
            group.start_soon(work)
    await transport.aclose()
    return tally


@pytest.mark.parametrize("tls", [False, True], ids=["plain-proxy", "tls-proxy"])
async def test_proxied_requests_reach_the_server(
    monkeypatch: pytest.MonkeyPatch, served: Served, cert: Path, tls: bool
) -> None:
    """Forwarded, or through a tunnel where the server has TLS; connections are used again."""
    with proxy_server(cert if tls else None) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url.replace("://", "://us%40er:hunter2@"))
        tally = await ask(served.url, requests=60, at_once=6)
    assert not tally.wrong
    assert tally.answers == 60
    assert proxy.connections == 6
    heads = [dict(line.partition(": ")[::2] for line in head.split("\r\n")[1:]) for head in proxy.heads]
    assert {head["proxy-authorization"] for head in heads} == {"Basic dXNAZXI6aHVudGVyMg=="}
    authority = served.url.partition("://")[2].removesuffix("/v1")
    assert {head["host"] for head in heads} == {authority}
    starts = {head.partition("\r\n")[0] for head in proxy.heads}
    if served.cert is None:
        assert starts == {f"POST {served.url} HTTP/1.1"}
        assert len(heads) == 60
    else:
        assert starts == {f"CONNECT {authority} HTTP/1.1"}
        assert len(heads) == 6
        assert not any("authorization" in head for head in heads)


@pytest.mark.parametrize("tls", [False, True], ids=["plain-proxy", "tls-proxy"])
@pytest.mark.parametrize(
    ("status", "says"),
    [("407 Proxy Authentication Required", "does not accept the user and password"),
     ("403 Forbidden", "403 Forbidden"), ("502 Bad Gateway", "502 Bad Gateway")],
)  # fmt: skip
async def test_proxy_that_opens_no_tunnel_is_blamed(
    monkeypatch: pytest.MonkeyPatch, cert: Path, tls: bool, status: str, says: str
) -> None:
    """With its setting, and without its password."""
    answer = f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode()
    with proxy_server(cert if tls else None, answer) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("://", "://user:hunter2@"))
        transport = transport_to("https://provider.example/v1")
        with pytest.raises(ConnectionFailedError, match=says) as caught:
            await transport.post("https://provider.example/v1", b"{}")
        await transport.aclose()
    assert f"the proxy {proxy.url} (HTTPS_PROXY) on the way to https://provider.example" in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_proxy_that_forwards_no_request_gives_its_own_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its status is a response like any other."""
    with proxy_server(answer=b"HTTP/1.1 407 No\r\ncontent-length: 2\r\n\r\nno") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        transport = transport_to("http://provider.example/v1")
        reply = await transport.post("http://provider.example/v1", b"{}")
        await transport.aclose()
    assert (reply.status, reply.body) == (407, b"no")


@pytest.mark.parametrize("tls", [False, True], ids=["plain-proxy", "tls-proxy"])
async def test_certificate_behind_a_tunnel_is_the_servers(
    monkeypatch: pytest.MonkeyPatch, cert: Path, tls: bool
) -> None:
    """The name is another; the proxy is not to blame."""
    with fault_server(cert) as served, proxy_server(cert if tls else None) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        url = served.url.replace("localhost", "127.0.0.1")
        transport = transport_to(url)
        with pytest.raises(ConnectionFailedError, match="its certificate is refused") as caught:
            await transport.post(url, b"{}")
        await transport.aclose()
    assert caught.value.fault == "certificate"
    assert "proxy" not in str(caught.value)


async def test_certificate_of_a_proxy_is_the_proxys(monkeypatch: pytest.MonkeyPatch, cert: Path) -> None:
    """For whose name it does not hold."""
    with proxy_server(cert) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url.replace("localhost", "127.0.0.1"))
        for url in ("http://provider.example/v1", "https://provider.example/v1"):
            transport = transport_to(url)
            with pytest.raises(ConnectionFailedError, match="its certificate is refused") as caught:
                await transport.post(url, b"{}")
            await transport.aclose()
            assert "the proxy https://127.0.0.1" in str(caught.value)


async def test_socks_proxy_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is sent."""
    monkeypatch.setenv("ALL_PROXY", "socks5://user:hunter2@127.0.0.1:1080")
    transport = transport_to("http://provider.example/v1")
    with pytest.raises(ConnectionFailedError, match="http_client=") as caught:
        await transport.post("http://provider.example/v1", b"{}")
    await transport.aclose()
    assert "the proxy socks5://127.0.0.1:1080 (ALL_PROXY)" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def tinyproxy(folder: Path, port: int) -> list[str]:
    (folder / "conf").write_text(
        f'Port {port}\nListen 127.0.0.1\nBasicAuth user word\nMaxClients 50\nLogFile "{folder}/log"\n'
    )
    return ["tinyproxy", "-d", "-c", str(folder / "conf")]


def squid(folder: Path, port: int) -> list[str]:
    root = Path(shutil.which("squid") or "").parents[1]  # a package that is unpacked elsewhere works too
    share = root / "share" / "squid"
    (folder / "conf").write_text(
        f"mime_table {share}/mime.conf\nerror_directory {share}/errors/templates\n"
        f"icon_directory {share}/icons\nunlinkd_program {root}/lib/squid/unlinkd\npinger_enable off\n"
        f"http_port 127.0.0.1:{port}\nhttp_access allow all\ncache deny all\npid_filename none\n"
        f"access_log none\ncache_log {folder}/cache.log\ncoredump_dir {folder}\nshutdown_lifetime 0\n"
    )
    return ["squid", "-N", "-f", str(folder / "conf")]


def mitmdump(folder: Path, port: int) -> list[str]:
    return [
        *("mitmdump", "-q", "--listen-host", "127.0.0.1", "-p", str(port), "--set", f"confdir={folder}"),
        *("--set", "proxyauth=user:word", "--set", "ssl_insecure=true"),
    ]


REAL: dict[str, Callable[[Path, int], list[str]]] = {
    "tinyproxy": tinyproxy,
    "squid": squid,
    "mitmdump": mitmdump,
}


@contextmanager
def real_proxy(name: str, folder: Path, port: int) -> Iterator[str]:
    """Run a proxy that is a package."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    with subprocess.Popen(REAL[name](folder, port), stdout=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 20
            while time.monotonic() < end:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield f"http://user:word@127.0.0.1:{port}"
        finally:
            process.terminate()


@pytest.mark.parametrize("name", REAL)
async def test_real_proxies_carry_requests(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_tcp_port: int, served: Served, name: str
) -> None:
    """Where one is installed: with a password, twenty requests at a time."""
    with real_proxy(name, tmp_path, free_tcp_port) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy)
        if name == "mitmdump" and served.cert is not None:
            authorities = served.cert.read_text() + (tmp_path / "mitmproxy-ca-cert.pem").read_text()
            (tmp_path / "both.pem").write_text(authorities)
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "both.pem"))
        tally = await ask(served.url, requests=300, at_once=20)
    assert not tally.wrong
    assert tally.answers == 300
