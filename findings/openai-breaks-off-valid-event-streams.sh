#!/usr/bin/env bash
# openai 3.57.0, chat completions with `stream=True`, against a local server.
#
# A good guess: fields of the event stream format that the SDK has no use for are skipped: a `retry:` that tells
# browsers when to reconnect, an `id:`, a comment that keeps the connection alive, an event without data. By the
# standard an event whose data is empty is not dispatched at all.
# What it does: `retry: 3000` before the first chunk, or an `event: ping` without data, is parsed as JSON and raises
# JSONDecodeError, which is none of the SDK's own errors and is not tried again. After one `id:` a comment does the
# same, for the last id is remembered and makes an event of it: an answer breaks at the first keep-alive.
#
# Seen: "comment: ab; id: ab; retry first: JSONDecodeError after ''; ping: JSONDecodeError after 'a'; id, comment:
# JSONDecodeError after 'a'".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q openai==3.57.0
"$home/venv/bin/python" - <<'END'
import http.server
import json
import threading

import openai

def chunk(text):
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    fields = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(fields)}\n\n"

done = "data: [DONE]\n\n"
streams = {
    "comment": chunk("a") + ": keep-alive\n\n" + chunk("b") + done,
    "id": "id: 1\n" + chunk("a") + "id: 2\n" + chunk("b") + done,
    "retry first": "retry: 3000\n\n" + chunk("a") + chunk("b") + done,
    "ping": chunk("a") + "event: ping\n\n" + chunk("b") + done,
    "id, comment": "id: 1\n" + chunk("a") + ": keep-alive\n\n" + chunk("b") + done,
}
stream = b""

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(stream)

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}", api_key="k")
seen = {}
for name, text in streams.items():
    stream = text.encode()
    answer = ""
    try:
        for part in client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True):
            answer += part.choices[0].delta.content
    except json.JSONDecodeError as error:
        assert not isinstance(error, openai.OpenAIError)
        seen[name] = f"{type(error).__name__} after {answer!r}"
    else:
        seen[name] = answer
print("; ".join(f"{name}: {result}" for name, result in seen.items()))
assert list(seen.values()) == [
    "ab", "ab", "JSONDecodeError after ''", "JSONDecodeError after 'a'", "JSONDecodeError after 'a'",
]
END
