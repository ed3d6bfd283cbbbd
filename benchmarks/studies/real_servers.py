"""Real servers that close idle connections after a second, and requests with pauses around that.

    python -m benchmarks.studies.real_servers [--requests 5000] [--backend asyncio|uvloop|trio]

Each server that is found is started: uvicorn, hypercorn and granian (from `--python`),
Node's http, and nginx and haproxy in front of uvicorn. No request may fail, whichever side closes first.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio

from batchrt.providers.http.transport import Transport

APP = """
import json
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    body = b""
    while True:
        part = await receive()
        body += part.get("body", b"")
        if not part.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""
NODE = """
const server = require('http').createServer((request, response) => {
  const parts = [];
  request.on('data', part => parts.push(part));
  request.on('end', () => response.end(Buffer.concat(parts)));
});
server.keepAliveTimeout = 1000;
server.listen(Number(process.argv[2]), '127.0.0.1');
"""
NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_timeout 1s;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{backend}; }} }}
}}
"""
HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout http-keep-alive 1s
frontend in
  bind 127.0.0.1:{port}
  default_backend out
backend out
  server one 127.0.0.1:{backend}
"""


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def commands(python: str, folder: Path) -> Iterator[tuple[str, int, list[str]]]:
    """Yield each server's name, port and command."""
    (folder / "echo_app.py").write_text(APP)
    (folder / "server.js").write_text(NODE)
    asgi = {
        "uvicorn": ["--timeout-keep-alive", "1", "--log-level", "warning", "--app-dir", str(folder)],
        "hypercorn": ["--keep-alive", "1"],
        "granian": ["--interface", "asgi", "--http1-header-read-timeout", "1000", "--log-level", "warning"],
    }
    for name, options in asgi.items():
        port = free_port()
        found = subprocess.run([python, "-c", f"import {name}"], cwd=folder, check=False, capture_output=True)
        if found.returncode == 0:
            bind = (
                ["--bind", f"127.0.0.1:{port}"]
                if name == "hypercorn"
                else ["--host", "127.0.0.1", "--port", str(port)]
            )
            yield name, port, [python, "-m", name, *bind, *options, "echo_app:app"]
    backend = free_port()
    yield (
        "",
        backend,
        [python, "-m", "uvicorn", "--port", str(backend), "--log-level", "warning", "echo_app:app"],
    )
    port = free_port()
    if node := shutil.which("node"):
        yield "node", port, [node, str(folder / "server.js"), str(port)]
    port = free_port()
    if nginx := shutil.which("nginx"):
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, backend=backend))
        yield "nginx", port, [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    port = free_port()
    if haproxy := shutil.which("haproxy"):
        (folder / "haproxy.cfg").write_text(HAPROXY.format(port=port, backend=backend))
        yield "haproxy", port, [haproxy, "-q", "-db", "-f", str(folder / "haproxy.cfg")]


@contextlib.contextmanager
def servers(python: str) -> Iterator[dict[str, int]]:
    """Run every server that is found; gives their ports."""
    ports: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for name, port, command in commands(python, Path(folder)):
            process = stack.enter_context(subprocess.Popen(command, cwd=folder))
            stack.callback(process.terminate)
            if name:
                ports[name] = port
            end = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.05)
        yield ports


async def ask(port: int, requests: int, workers: int, spread: float) -> dict[str, Any]:
    """Send `requests` with pauses of a second, `spread` more or less; return the counts."""
    url = f"http://127.0.0.1:{port}/v1"
    transport = Transport(
        {"content-type": "application/json"}, tls=False, timeout=30, max_response_bytes=10**6
    )
    numbers = iter(range(requests))
    failures: list[str] = []
    done = 0
    chance = random.Random(port)

    async def work() -> None:
        nonlocal done
        for number in numbers:
            body = json.dumps({"id": number}).encode()
            try:
                reply = await transport.post(url, body)
                if reply.status != 200 or reply.body != body:
                    failures.append(f"{reply!r} {reply.body!r}")
            except Exception as error:
                failures.append(repr(error))
            done += 1
            await anyio.sleep(1 + chance.uniform(-spread, spread))

    async with anyio.create_task_group() as group:
        for _ in range(workers):
            group.start_soon(work)
    await transport.aclose()
    return {"requests": done, "failed": len(failures), "first": failures[:3]}


async def main(ports: dict[str, int], requests: int, workers: int, spread: float) -> dict[str, Any]:
    """Ask all servers at once."""
    found: dict[str, Any] = {}

    async def one(name: str, port: int) -> None:
        found[name] = await ask(port, requests, workers, spread)

    async with anyio.create_task_group() as group:
        for name, port in ports.items():
            group.start_soon(one, name, port)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.real_servers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--requests", type=int, default=5000, help="to each server, %(default)s")
    parser.add_argument("--workers", type=int, default=100, help="that send at the same time, %(default)s")
    parser.add_argument(
        "--spread", type=float, default=0.1, help="of the pauses around a second, %(default)s"
    )
    parser.add_argument("--backend", choices=["asyncio", "uvloop", "trio"], default="asyncio")
    parser.add_argument("--python", default=sys.executable, help="that has the servers")
    given = parser.parse_args()
    with servers(given.python) as listening:
        results = anyio.run(
            main, listening, given.requests, given.workers, given.spread,
            backend="trio" if given.backend == "trio" else "asyncio",
            backend_options={"use_uvloop": True} if given.backend == "uvloop" else {},
        )  # fmt: skip
    for server, counts in results.items():
        print(
            f"{given.backend:8} {server:10} {counts['requests']} requests, {counts['failed']} failed",
            *counts["first"],
        )
    sys.exit(any(counts["failed"] for counts in results.values()))
