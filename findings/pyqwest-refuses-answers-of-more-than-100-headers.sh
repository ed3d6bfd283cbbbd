#!/usr/bin/env bash
# pyqwest 0.12.0 (reqwest and hyper underneath) over HTTP/1.1 on loopback.
#
# A good guess: what bounds the head of an answer is its size, some hundred kilobytes, as in other clients.
# What it does: the 101st header is one too many, however short they are, and the error says "message head is too
# large" of a head of a kilobyte and a half; the request was carried out, and counts as a connection that broke.
# Gateways that add their own headers and pass on those of others come near: LiteLLM's proxy sends some forty.
#
# Seen: "100 headers: 200; 101 headers: RemoteProtocolError, message head is too large".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q pyqwest==0.12.0
"$home/venv/bin/python" - <<'END'
import asyncio
import socket
import threading

import pyqwest

def serve(listener):
    while True:
        connection, _ = listener.accept()
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(65536)
        count = int(head.split(b" ")[1][1:])
        lines = b"".join(b"x-n-%d: 1\r\n" % number for number in range(count - 2))
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n" + lines + b"\r\nok")
        connection.close()

listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, args=(listener,), daemon=True).start()

async def main():
    client = pyqwest.Client()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    answer = await client.get(f"{url}/100")
    print(f"100 headers: {answer.status}")
    assert answer.status == 200
    try:
        await client.get(f"{url}/101")
    except Exception as error:
        print(f"101 headers: {type(error).__name__}: {error}")
        assert "message head is too large" in str(error)
    else:
        raise SystemExit("101 headers were read")

asyncio.run(main())
END
