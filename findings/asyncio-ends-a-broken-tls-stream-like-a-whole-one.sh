#!/usr/bin/env bash
# asyncio of Python 3.11.7, uvloop 0.23.0, AnyIO 4.16.0, aiohttp 3.14.5, httpx 0.28.1 and requests 2.34.2: a TLS
# server that dies in the middle of an answer without a length, so that TCP ends without TLS's own goodbye
# (close_notify).
#
# A good guess: this is the one thing that TLS adds to an answer that ends with its connection: the client can tell a
# whole one from a broken one, and raises.
# What it does: asyncio calls `eof_received` and `connection_lost(None)` for both, uvloop leaves `eof_received` out
# for the broken one, and none of the clients raises; AnyIO's streams alone do. A protocol can still find out: when
# the connection is lost, the SSL object's `read(1)` raises SSLZeroReturnError after a goodbye and SSLWantReadError
# without one.
#
# Seen: "asyncio: eof, lost None, SSLWantReadError (whole: eof, lost None, SSLZeroReturnError); uvloop: lost None,
# SSLWantReadError (whole: eof, lost None, SSLZeroReturnError); aiohttp, httpx, requests: 'half of it'; anyio:
# BrokenResourceError (whole: EndOfStream)".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q uvloop==0.23.0 anyio==4.16.0 aiohttp==3.14.5 httpx==0.28.1 requests==2.34.2
cd "$home"
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost 2> /dev/null
venv/bin/python - <<'END'
import asyncio
import os
import socket
import ssl
import threading

import aiohttp
import anyio
import httpx
import requests
import uvloop

REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
serving.load_cert_chain("cert.pem", "key.pem")
trusting = ssl.create_default_context(cafile="cert.pem")

def start(says_goodbye):
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            connection = serving.wrap_socket(listener.accept()[0], server_side=True)
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhalf of it")
            if says_goodbye:
                try:
                    connection.unwrap()
                except OSError:
                    pass
                connection.close()
            else:
                os.close(connection.detach())

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]

async def watch(port):
    events, lost = [], asyncio.Event()

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            transport.write(REQUEST)

        def eof_received(self):
            events.append("eof")

        def connection_lost(self, error):
            events.append(f"lost {error}")
            try:
                self.transport.get_extra_info("ssl_object").read(1)
            except ssl.SSLError as error:
                events.append(type(error).__name__)
            lost.set()

    await asyncio.get_running_loop().create_connection(Protocol, "localhost", port, ssl=trusting)
    await lost.wait()
    return ", ".join(events)

async def with_aiohttp(url):
    async with aiohttp.ClientSession() as session, session.get(url, ssl=trusting) as response:
        return await response.read()

async def with_httpx(url):
    async with httpx.AsyncClient(verify=trusting, trust_env=False) as client:
        return (await client.get(url)).content

async def with_anyio(port):
    stream = await anyio.connect_tcp("localhost", port, tls=True, ssl_context=trusting)
    await stream.send(REQUEST)
    try:
        while True:
            await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
        return type(error).__name__

whole, broken = start(True), start(False)
url = f"https://localhost:{broken}/"
loops = {}
for name, run in (("asyncio", asyncio.run), ("uvloop", uvloop.run)):
    loops[name] = run(watch(broken)), run(watch(whole))
    print(f"{name}: {loops[name][0]} (whole: {loops[name][1]})", end="; ")
bodies = {asyncio.run(with_aiohttp(url)), asyncio.run(with_httpx(url)), requests.get(url, verify="cert.pem").content}
streams = anyio.run(with_anyio, broken), anyio.run(with_anyio, whole)
print(f"aiohttp, httpx, requests: {bodies}; anyio: {streams[0]} (whole: {streams[1]})")
assert loops["asyncio"] == ("eof, lost None, SSLWantReadError", "eof, lost None, SSLZeroReturnError")
assert loops["uvloop"] == ("lost None, SSLWantReadError", "eof, lost None, SSLZeroReturnError")
assert bodies == {b"half of it"} and streams == ("BrokenResourceError", "EndOfStream")
END
