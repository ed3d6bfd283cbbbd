#!/usr/bin/env bash
# openai 3.57.0, 40 requests at once, each refused once by a local server.
#
# A good guess: a wait that the server names is the safe case, and the SDK spreads what comes back after it, as it
# spreads its own backoff.
# What it does: its own backoff has jitter, a named wait has none. Who was refused together comes back together, to
# the millisecond. Against a bucket of 60 that gains 50 a second and truly says in `retry-after-ms` when it has one
# again, 14 of 1,000 requests, 50 in flight, were lost after nine retries, and 144 after two (case `waits` of this
# project's benchmark `refusals`). For such a client a wait that is named is worse than none, unless the server
# adds the jitter.
#
# Seen: "no wait named: 40 waits, 40 different; retry-after-ms 250: 40 waits, 1 different: {0.25}".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q openai==3.57.0
"$home/venv/bin/python" - <<'END'
import asyncio
import json
import logging
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai

tries = Counter()
CALLS = 40

class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        text = json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"][0]["content"]
        tries[text] += 1
        refused = tries[text] == 1
        message = {"role": "assistant", "content": "yes"}
        done = {
            "id": "1", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        }
        reply = json.dumps({"error": {"message": "slow down"}} if refused else done).encode()
        self.send_response(429 if refused else 200)
        if refused and text.startswith("told"):
            self.send_header("retry-after-ms", "250")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass

class Waits(logging.Handler):
    """Collects what the SDK says that it waits."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def emit(self, record):
        if record.msg.startswith("Retrying request"):
            self.seen.append(round(float(record.args[0]), 6))

ThreadingHTTPServer.request_queue_size = 128
server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
logger = logging.getLogger("openai._base_client")
logger.setLevel(logging.INFO)

async def waits(name):
    handler = Waits()
    logger.addHandler(handler)
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none") as client:
        await asyncio.gather(*(
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": f"{name} {number}"}])
            for number in range(CALLS)
        ))
    logger.removeHandler(handler)
    return handler.seen

own, told = asyncio.run(waits("own")), asyncio.run(waits("told"))
print(f"no wait named: {len(own)} waits, {len(set(own))} different;",
      f"retry-after-ms 250: {len(told)} waits, {len(set(told))} different: {set(told)}")
assert len(own) == len(told) == CALLS, "the SDK's log has changed"
assert len(set(own)) > CALLS / 2
assert set(told) == {0.25}, "a named wait has jitter now"
END
