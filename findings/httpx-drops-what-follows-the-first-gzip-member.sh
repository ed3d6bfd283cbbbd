#!/usr/bin/env bash
# httpx 0.28.1 and httpx2 2.16.2 with a gzip body of two members, beside requests 2.34.2 and aiohttp 3.14.5.
#
# A good guess: a body of several gzip members, as RFC 1952 allows and as servers and log writers make by appending,
# is unpacked whole, as by `gzip.decompress`, curl and requests; or it raises.
# What it does: both stop at the end of the first member and drop the rest, with status 200, without an error or a
# warning. A JSON Lines file of results that was compressed block by block is short, and each line of it is valid.
#
# Seen: "httpx: b'first ', httpx2: b'first ', requests: b'first second', aiohttp: b'first second'".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q httpx==0.28.1 httpx2==2.16.2 requests==2.34.2 aiohttp==3.14.5
"$home/venv/bin/python" - <<'END'
import asyncio
import gzip
import http.server
import threading

import aiohttp
import httpx
import httpx2
import requests

body = gzip.compress(b"first ") + gzip.compress(b"second")
assert gzip.decompress(body) == b"first second"

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-encoding", "gzip")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/"

async def with_aiohttp():
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.read()

seen = {
    "httpx": httpx.get(url).content,
    "httpx2": httpx2.get(url).content,
    "requests": requests.get(url).content,
    "aiohttp": asyncio.run(with_aiohttp()),
}
print(", ".join(f"{name}: {content!r}" for name, content in seen.items()))
assert seen["httpx"] == seen["httpx2"] == b"first "
assert seen["requests"] == seen["aiohttp"] == b"first second"
END
