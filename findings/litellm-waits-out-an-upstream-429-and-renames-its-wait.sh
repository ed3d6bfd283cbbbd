#!/usr/bin/env bash
# LiteLLM's proxy 1.108.7, default settings, and an upstream that answers 429 with `retry-after: 2`.
#
# A good guess: the proxy hands an upstream's 429 on at once, with its `retry-after` and its error code.
# What it does: it keeps the request, waits as told, and asks twice more: three calls upstream for one of the
# client's, and an answer after more than twice the wait. That answer has no `retry-after` (it is called
# `llm_provider-retry-after` now), and the code `insufficient_quota` is the text "429" with a `type` of
# "throttling_error": an account without credit looks like a rate limit. Clients multiply these calls by their own.
#
# Seen: "429 after more than 4 s, 3 calls upstream, retry-after None, llm_provider-retry-after 2, code 429, type
# throttling_error".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q 'litellm[proxy]==1.108.7'
cd "$home"
venv/bin/python - <<'END'
import http.client
import json
import os
import secrets
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MESSAGE = {"role": "assistant", "content": "yes"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


def reply(request):
    error = {"message": "You have no credit left.", "type": "insufficient_quota", "code": "insufficient_quota"}
    return 429, {"retry-after": "2"}, {"error": error}


class Upstream(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        calls.append(request)
        status, headers, body = reply(request)
        body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "content-type": "application/json", "content-length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

calls = []
upstream = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
threading.Thread(target=upstream.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{upstream.server_port}/v1"
with open("config.yaml", "w") as file:
    file.write("model_list:\n")
    for name in ("m",):
        file.write(f"- {{model_name: {name}, litellm_params: {{model: openai/{name}, api_base: '{base}', api_key: none}}}}\n")
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
key = f"sk-{secrets.token_urlsafe(32)}"
environment = {**os.environ, "LITELLM_MASTER_KEY": key, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
command = ["venv/bin/litellm", "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
with open("log", "w") as log:
    proxy = subprocess.Popen([*command, "--telemetry", "False"], env=environment, stdout=log, stderr=log)

def ask(model, path="/v1/chat/completions", **body):
    calls.clear()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    if "chat" in path:
        body["messages"] = [{"role": "user", "content": "q"}]
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    connection.request("POST", path, json.dumps({"model": model, **body}), headers)
    response = connection.getresponse()
    named = {name.lower(): value for name, value in response.getheaders()}
    return response.status, named, json.loads(response.read())

try:
    for _ in range(240):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health/liveliness")
            if connection.getresponse().status == 200:
                break
        except OSError:
            time.sleep(0.5)
    began = time.monotonic()
    status, headers, body = ask("m")
    error, seconds = body["error"], time.monotonic() - began
    waits = headers.get("retry-after"), headers.get("llm_provider-retry-after")
    print(
        f"{status} after {seconds:.1f} s, {len(calls)} calls upstream, retry-after {waits[0]}, "
        f"llm_provider-retry-after {waits[1]}, code {error['code']}, type {error['type']}", flush=True,
    )
    assert (status, len(calls), waits) == (429, 3, (None, "2")) and seconds > 4
    assert (error["code"], error["type"]) == ("429", "throttling_error")
finally:
    proxy.terminate()
    proxy.wait()
END
