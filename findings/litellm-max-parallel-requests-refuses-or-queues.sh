#!/usr/bin/env bash
# LiteLLM's proxy 1.108.7: `max_parallel_requests: 2` of a key, and of a deployment (`litellm_params`), each asked
# for six chats at once of an upstream that takes 0.5 s.
#
# A good guess: one name, one meaning; and a wait that is named says when it is worth while to ask again.
# What it does: the deployment's limit queues (six answers, in three turns), and no header mentions it. The key's
# refuses: four 429s at once, with `retry-after: 60` and `reset_at` a minute off, although a place is free as soon
# as one of the two ends. Whoever obeys waits a hundred times too long; the openai SDK does.
#
# Seen: "deployment: six 200, the last after 3.5 s (on a busy machine); key: two 200, four 429 (retry-after 60,
# rate_limit_type max_parallel_requests); the same key, at once: 200".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q 'litellm[proxy]==1.108.7'
cd "$home"
cat > own_auth.py <<'END'
from litellm.proxy._types import UserAPIKeyAuth

async def authorize(request, api_key):
    return UserAPIKeyAuth(api_key=api_key, max_parallel_requests=2 if api_key == "sk-limited" else None)
END
venv/bin/python - <<'END'
import http.client
import json
import os
import secrets
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Upstream(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(0.5)
        message = {"role": "assistant", "content": "yes"}
        reply = json.dumps({
            "id": "1", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass

upstream = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
threading.Thread(target=upstream.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{upstream.server_port}/v1"
with open("config.yaml", "w") as file:
    file.write(f"""
model_list:
  - {{model_name: plain, litellm_params: {{model: openai/m, api_base: '{base}', api_key: none}}}}
  - model_name: narrow
    litellm_params: {{model: openai/m, api_base: '{base}', api_key: none, max_parallel_requests: 2}}
general_settings: {{custom_auth: own_auth.authorize}}
""")
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
environment = {
    **os.environ, "LITELLM_MASTER_KEY": f"sk-{secrets.token_urlsafe(32)}", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
command = ["venv/bin/litellm", "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
with open("log", "w") as log:
    proxy = subprocess.Popen([*command, "--telemetry", "False"], env=environment, stdout=log, stderr=log)

def ask(model, key):
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "q"}]})
    connection.request("POST", "/v1/chat/completions", body, {
        "content-type": "application/json", "authorization": f"Bearer {key}",
    })
    response = connection.getresponse()
    response.read()
    return response.status, response.headers, time.monotonic() - began

def six(model, key):
    with ThreadPoolExecutor(6) as pool:
        return list(pool.map(lambda _: ask(model, key), range(6)))

try:
    for _ in range(240):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health/liveliness")
            if connection.getresponse().status == 200:
                break
        except OSError:
            time.sleep(0.5)
    ask("plain", "sk-other"), ask("narrow", "sk-other")  # the first ones are slow
    queued = six("narrow", "sk-other")
    print("deployment:", sorted(one[0] for one in queued), f"the last after {max(one[2] for one in queued):.1f} s")
    assert {one[0] for one in queued} == {200} and max(one[2] for one in queued) > 1.4
    assert not [name for one in queued for name in one[1] if "parallel" in name.lower()]
    limited = six("plain", "sk-limited")
    refused = [one for one in limited if one[0] == 429]
    print("key:", sorted(one[0] for one in limited), {
        (one[1]["retry-after"], one[1]["rate_limit_type"]) for one in refused
    })
    assert len(refused) == 4
    assert {(one[1]["retry-after"], one[1]["rate_limit_type"]) for one in refused} == {("60", "max_parallel_requests")}
    time.sleep(0.3)
    status, headers, _ = ask("plain", "sk-limited")
    print("the same key, at once:", status, headers["x-ratelimit-api_key-limit-max_parallel_requests"])
    assert status == 200
finally:
    proxy.terminate()
    proxy.wait()
END
