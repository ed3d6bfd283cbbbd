#!/usr/bin/env bash
# uvloop 0.23.0, and asyncio from Python 3.12 on: `transport.write` of a bytearray.
#
# A good guess: what is written is what the buffer holds when `write` is called; it returns at once and can be
# followed by the reuse of the buffer, as on asyncio up to Python 3.11, which copies what the socket does not take.
# What it does: what the socket does not take at once is kept by reference, and sent as it is later. Up to some
# megabytes it always works on loopback; beyond, or with a slow peer, the bytes of the next message are sent in place
# of this one's, in a body of the right length. No exception is raised, and the buffer can be changed freely.
#
# Seen: "uvloop: 4 bytes written, then overwritten: 0 overwritten bytes sent; 20,000,000: more than 10,000,000 sent";
# asyncio the same on Python 3.12.1, and none on 3.11.7.
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q uvloop==0.23.0
"$home/venv/bin/python" - <<'END'
import asyncio
import socket
import sys
import threading
import time

import uvloop

async def overwritten(size):
    """Return how many bytes arrive that were put into the buffer after it had been written."""
    listener = socket.create_server(("127.0.0.1", 0))
    received = bytearray()

    def receive():
        connection, _ = listener.accept()
        time.sleep(0.5)
        while part := connection.recv(65536):
            received.extend(part)

    thread = threading.Thread(target=receive)
    thread.start()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname())
    buffer = bytearray(b"a" * size)
    transport.write(buffer)
    buffer[:] = b"b" * size
    transport.close()
    await asyncio.to_thread(thread.join)
    listener.close()
    assert len(received) == size
    return received.count(b"b")

few, many = uvloop.run(overwritten(4)), uvloop.run(overwritten(20_000_000))
print(f"uvloop: 4 bytes written, then overwritten: {few} overwritten bytes sent; 20,000,000: {many:,} sent", end="; ")
assert few == 0 and many > 10_000_000
many = asyncio.run(overwritten(20_000_000))
print(f"asyncio, Python {sys.version.split()[0]}: {many:,}")
assert many > 10_000_000 if sys.version_info >= (3, 12) else many == 0
END
