#!/usr/bin/env bash
# openai 3.57.0, chat completions with `stream=True`, and a local server that fails in the middle of an answer.
#
# A good guess: `event: error`, the usual way to report a failure once the status 200 is out, raises an APIError of
# some kind; an error that names status 429 or 500 can be caught, and tried again, as the status itself would be.
# What it does: it looks for a member `error` only. `event: error` with a message and a code, and vLLM's former
# `{"object": "error", ...}`, are chunks whose `choices` is None: code that skips chunks without choices, as it must
# for the last one with the usage, takes the half answer for a whole one. A frame with `error` raises the base class
# APIError: no RateLimitError, no `status_code`, and no second attempt, whatever it names.
#
# Seen: "event: error: 'a', no error, choices None; object error: 'a', no error, choices None; member error:
# APIError, status_code none, 1 request".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q openai==3.57.0
"$home/venv/bin/python" - <<'END'
import http.server
import json
import threading

import openai

choice = {"index": 0, "delta": {"content": "a"}, "finish_reason": None}
chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
failure = {"message": "overloaded", "type": "server_error", "code": 429}
endings = {
    "event: error": "event: error\ndata: " + json.dumps(failure) + "\n\n",
    "object error": "data: " + json.dumps({"object": "error", **failure}) + "\n\n",
    "member error": "data: " + json.dumps({"error": failure}) + "\n\n",
}
ending, requests = "", 0

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        global requests
        requests += 1
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n{ending}".encode())

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}", api_key="k", max_retries=2)
seen = {}
for name, ending in endings.items():
    requests, answer, last = 0, "", None
    try:
        for last in client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True):
            if last.choices:
                answer += last.choices[0].delta.content
    except openai.APIError as error:
        status = getattr(error, "status_code", "none")
        seen[name] = f"{type(error).__name__}, status_code {status}, {requests} request"
    else:
        seen[name] = f"{answer!r}, no error, choices {last.choices}"
print("; ".join(f"{name}: {result}" for name, result in seen.items()))
assert list(seen.values()) == [
    "'a', no error, choices None", "'a', no error, choices None", "APIError, status_code none, 1 request",
]
END
