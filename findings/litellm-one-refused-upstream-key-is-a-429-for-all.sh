#!/usr/bin/env bash
# LiteLLM's proxy 1.108.7, one deployment of a model, and an upstream that refuses the proxy's key once.
#
# A good guess: each request gets what the upstream says, 401; a 429 from a gateway is about a rate.
# What it does: the first 401 puts the only deployment into a cool-down of 5 s. Until it ends every request for the
# model, whoever sends it, is answered 429 with `retry-after: 5` and `type: all_deployments_in_cooldown`, without a
# call upstream, even though the upstream would answer again. A wrong key looks like a rate limit to all but one.
#
# Seen: "401, 1 call upstream; then 429 all_deployments_in_cooldown, retry-after 5, 0 calls; after 6 s: 200".
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
refused = []

def reply(request):
    if not refused:
        refused.append(True)
        error = {"message": "Incorrect API key", "type": "invalid_request_error", "code": "invalid_api_key"}
        return 401, {}, {"error": error}
    choice = {"index": 0, "finish_reason": "stop", "message": MESSAGE}
    return 200, {}, {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE,
    }


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
    status, _, _ = ask("m")
    print(f"{status}, {len(calls)} call upstream", flush=True)
    assert (status, len(calls)) == (401, 1)
    status, headers, body = ask("m")
    kind = body["error"]["type"]
    print(f"then {status} {kind}, retry-after {headers.get('retry-after')}, {len(calls)} calls", flush=True)
    assert (status, kind, headers["retry-after"], len(calls)) == (429, "all_deployments_in_cooldown", "5", 0)
    time.sleep(6)
    status, _, _ = ask("m")
    print(f"after 6 s: {status}", flush=True)
    assert status == 200
finally:
    proxy.terminate()
    proxy.wait()
END
