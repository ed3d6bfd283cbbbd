#!/usr/bin/env bash
# httpx 0.28.1 (and httpx2 2.16.2): a server that answers 413 to a large body before it has read it, and closes, as
# hypercorn, granian and many gateways do.
#
# A good guess: the client stops sending and returns the 413; HTTP clients are written for this, and the sync one and
# the async one behave alike.
# What it does: the sync client returns the 413, and so does the async one on Trio. On asyncio and uvloop the first
# failed write makes the event loop close the connection, and the answer that waits in the socket is never read: the
# caller gets a ReadError with no text. The openai SDK takes it for a lost connection and uploads the 20 MB twice more,
# for nothing. aiohttp, on the same event loop, reads the answer first.
#
# Seen: "sync: 413, asyncio: ReadError(''), uvloop: ReadError(''), trio: 413, httpx2 on asyncio: ReadError(''),
# aiohttp: 413".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q httpx==0.28.1 httpx2==2.16.2 aiohttp==3.14.5 uvloop==0.23.0 trio==0.35.0
"$home/venv/bin/python" - <<'END'
import asyncio
import socket
import threading

import aiohttp
import httpx
import httpx2
import trio
import uvloop

body = bytes(20_000_000)
listener = socket.create_server(("127.0.0.1", 0))
url = f"http://127.0.0.1:{listener.getsockname()[1]}/"

def serve():
    while True:
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")
        connection.close()

threading.Thread(target=serve, daemon=True).start()

async def with_httpx(library=httpx):
    async with library.AsyncClient(trust_env=False) as client:
        return (await client.post(url, content=body)).status_code

async def with_aiohttp():
    async with aiohttp.ClientSession() as session, session.post(url, data=body) as response:
        return response.status

ways = {
    "sync": lambda: httpx.post(url, content=body, trust_env=False).status_code,
    "asyncio": lambda: asyncio.run(with_httpx()),
    "uvloop": lambda: uvloop.run(with_httpx()),
    "trio": lambda: trio.run(with_httpx),
    "httpx2 on asyncio": lambda: asyncio.run(with_httpx(httpx2)),
    "aiohttp": lambda: asyncio.run(with_aiohttp()),
}
seen = {}
for name, post in ways.items():
    try:
        seen[name] = str(post())
    except (httpx.ReadError, httpx2.ReadError) as error:
        seen[name] = repr(error)
print(", ".join(f"{name}: {result}" for name, result in seen.items()))
results = [result.split("(")[0] for result in seen.values()]
assert results == ["413", "ReadError", "ReadError", "413", "ReadError", "413"]
END
