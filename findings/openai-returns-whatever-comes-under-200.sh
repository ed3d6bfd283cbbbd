#!/usr/bin/env bash
# openai 3.57.0, chat completions without streaming, against a local server that answers 200 to everything.
#
# A good guess: an answer that is no chat completion (a login page, a gateway's error object, JSON that was cut off)
# raises an error of the SDK, or is tried again, as a 502 is.
# What it does: by default nothing is validated. HTML is returned as a str where the type says ChatCompletion, and an
# error object as a ChatCompletion whose `choices` is None, so the failure shows as an AttributeError or TypeError in
# the caller's code. Only JSON that cannot be parsed raises, and that is JSONDecodeError: no OpenAIError, not tried
# again, and without the text, the status or the request's id. `_strict_response_validation=True` catches the first,
# not the others.
#
# Seen: "HTML: str; error object: ChatCompletion, choices None; cut off: JSONDecodeError, 1 request; strict: HTML:
# APIResponseValidationError; error object: APIResponseValidationError; cut off: JSONDecodeError, 1 request".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q openai==3.57.0
"$home/venv/bin/python" - <<'END'
import http.server
import json
import threading

import openai

answers = {
    "HTML": ("text/html", b"<html>please log in</html>"),
    "error object": ("application/json", b'{"error": {"message": "overloaded", "code": 503}}'),
    "cut off": ("application/json", b'{"id": "c", "choices": ['),
}
answer, requests = None, 0

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        global requests
        requests += 1
        self.rfile.read(int(self.headers["content-length"]))
        kind, data = answer
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
seen = {}
for strict in (False, True):
    client = openai.OpenAI(
        base_url=f"http://127.0.0.1:{server.server_port}", api_key="k", _strict_response_validation=strict
    )
    for name, answer in answers.items():
        requests = 0
        try:
            result = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        except (openai.OpenAIError, json.JSONDecodeError) as error:
            text = type(error).__name__
            if not isinstance(error, openai.OpenAIError):
                text += f", {requests} request"
        else:
            text = type(result).__name__
            if not isinstance(result, str):
                text += f", choices {result.choices}"
        seen["strict: " * strict + name] = text
print("; ".join(f"{name}: {result}" for name, result in seen.items()))
assert seen == {
    "HTML": "str",
    "error object": "ChatCompletion, choices None",
    "cut off": "JSONDecodeError, 1 request",
    "strict: HTML": "APIResponseValidationError",
    "strict: error object": "APIResponseValidationError",
    "strict: cut off": "JSONDecodeError, 1 request",
}
END
