#!/usr/bin/env bash
# openai 3.57.0 with max_retries=3 against a local server that refuses the first two requests.
#
# A good guess: a Retry-After that is too long to wait for is ignored, and the SDK backs off by itself, as its
# 1.x and 2.x did above 60 s; and `x-should-retry: true` has the last word.
# What it does: above 120 s nothing is tried again, whatever `x-should-retry` says. One second more or less
# decides between a wait of two minutes and a failure at once. A Retry-After of 0 is not "at once" either: it
# counts as none, and the wait is the SDK's own half a second.
#
# Seen: requests sent: {'121': 1, '121 and x-should-retry': 1, '0': 3, 'none': 3}; waits at "0" 0.4 to 1.1 s.
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q openai==3.57.0
"$home/venv/bin/python" - <<'END'
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai

HEADERS = {
    "121": {"retry-after": "121"},
    "121 and x-should-retry": {"retry-after": "121", "x-should-retry": "true"},
    "0": {"retry-after": "0"},
    "none": {},
}
came = {name: [] for name in HEADERS}
DONE = {
    "id": "1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}],
}

class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        name = body["messages"][0]["content"]
        came[name].append(time.monotonic())
        refused = len(came[name]) < 3
        reply = json.dumps({"error": {"message": "slow down"}} if refused else DONE).encode()
        self.send_response(429 if refused else 200)
        for key, value in (HEADERS[name] if refused else {}).items():
            self.send_header(key, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=3)
for name in HEADERS:
    try:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": name}])
    except openai.RateLimitError:
        pass
sent = {name: len(times) for name, times in came.items()}
waits = [b - a for a, b in zip(came["0"], came["0"][1:])]
print("requests sent:", sent, "waits at 0:", [round(wait, 1) for wait in waits])
assert sent == {"121": 1, "121 and x-should-retry": 1, "0": 3, "none": 3}
assert min(waits) > 0.3, "a Retry-After of 0 is followed now"
END
