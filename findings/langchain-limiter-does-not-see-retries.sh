#!/usr/bin/env bash
# langchain-openai 1.7.3, langchain-core 1.7.2, openai 3.54.0: ChatOpenAI with a limiter of 4 requests a second,
# against a local server that refuses every text once.
#
# A good guess: a limiter of 4 a second means that no more than 4 a second are sent.
# What it does: the limiter counts calls. The SDK below tries again by itself, twice by default, past the limiter;
# against a server that refuses each once, twice as much is sent as the limiter was told.
#
# Seen: "24 calls, 48 requests in about 6 s: 8 a second through a limiter of 4".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q langchain-openai==1.7.3 langchain-core==1.7.2 openai==3.54.0
"$home/venv/bin/python" - <<'END'
import asyncio
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_openai import ChatOpenAI

RATE, CALLS = 4, 24
tries, times = Counter(), []

class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = body["messages"][0]["content"]
        times.append(time.monotonic())
        tries[text] += 1
        message = {"role": "assistant", "content": "yes"}
        done = {
            "id": "1", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        }
        refused = tries[text] == 1
        reply = json.dumps({"error": {"message": "slow down"}} if refused else done).encode()
        self.send_response(429 if refused else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
model = ChatOpenAI(
    model="m", base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none",
    rate_limiter=InMemoryRateLimiter(requests_per_second=RATE, check_every_n_seconds=0.01),
)
asyncio.run(model.abatch([f"text {number}" for number in range(CALLS)], {"max_concurrency": 8}))
took = times[-1] - times[0]
rate = len(times) / took
print(f"{CALLS} calls, {len(times)} requests in {took:.1f} s: {rate:.1f} a second through a limiter of {RATE}")
assert len(times) == 2 * CALLS
assert rate > 1.5 * RATE, "retries are paced now"
END
