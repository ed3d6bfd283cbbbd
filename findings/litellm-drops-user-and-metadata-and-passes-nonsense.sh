#!/usr/bin/env bash
# LiteLLM's proxy 1.108.7 in front of an OpenAI-compatible server.
#
# A good guess: members of a request that OpenAI documents reach the server, and those that nobody documents are
# dropped or refused.
# What it does: the other way round. `user` and `metadata`, both OpenAI's own, are kept by the proxy for its own
# accounts and logs, without a word; `min_p` and a member that does not exist are passed on. An upstream that keeps
# users apart by `user` (for caching, abuse limits, routing) sees none.
#
# Seen: "passed on: min_p, nonsense, seed; dropped, with status 200: metadata, user".
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
    options = {"user": "u1", "metadata": {"batch": "b1"}, "seed": 1, "min_p": 0.1, "nonsense": 1}
    status, _, _ = ask("m", **options)
    passed = sorted(options.keys() & calls[0].keys())
    dropped = sorted(options.keys() - calls[0].keys())
    print(f"passed on: {', '.join(passed)}; dropped, with status {status}: {', '.join(dropped)}", flush=True)
    assert (status, passed, dropped) == (200, ["min_p", "nonsense", "seed"], ["metadata", "user"])
finally:
    proxy.terminate()
    proxy.wait()
END
