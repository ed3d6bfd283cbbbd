#!/usr/bin/env bash
# LiteLLM's proxy 1.108.7: a key with `max_parallel_requests: 2` in front of an upstream that takes 6 s.
#
# A good guess: a client that gives up (a timeout, a cancelled task) closes its connection, and its place is free.
# What it does: the place is taken until the upstream has answered into the void, and the upstream is not told. So
# whoever has a timeout shorter than an answer and tries again is refused, with `retry-after: 60`, by what was given
# up; each timeout costs one of the key's places for as long as the answer would have taken.
#
# Seen: "given up after 1 s; asked again: {1.5: (429, '60'), 3: (429, '60'), 4.5: (429, '60'), 7: (200, None)};
# answers that nobody read: 2".
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

answered = []

class Upstream(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        came = self.rfile.read(int(self.headers["content-length"]))
        time.sleep(6 if b'slow' in came else 0)
        answered.append(came)
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

def ask(text, timeout=30):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    body = json.dumps({"model": "plain", "messages": [{"role": "user", "content": text}]})
    try:
        connection.request("POST", "/v1/chat/completions", body, {
            "content-type": "application/json", "authorization": "Bearer sk-limited",
        })
        response = connection.getresponse()
        response.read()
    except TimeoutError:
        return None
    finally:
        connection.close()
    return response.status, response.headers["retry-after"]

try:
    for _ in range(240):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health/liveliness")
            if connection.getresponse().status == 200:
                break
        except OSError:
            time.sleep(0.5)
    assert ask("first")[0] == 200
    answered.clear()
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(ask, ["slow 1", "slow 2"], [1, 1])) == [None, None]
    seen = {}
    for seconds in (1.5, 3, 4.5):
        time.sleep(max(0, began + seconds - time.monotonic()))
        seen[seconds] = ask("quick")
    for seconds in range(7, 25):
        time.sleep(max(0, began + seconds - time.monotonic()))
        seen[seconds] = ask("quick")
        if seen[seconds][0] == 200:
            break
    late = sum(b"slow" in one for one in answered)
    print("given up after 1 s; asked again:", seen, "; answers that nobody read:", late)
    assert [seen[at] for at in (1.5, 3, 4.5)] == [(429, "60")] * 3
    assert seen[seconds][0] == 200 and late == 2
finally:
    proxy.terminate()
    proxy.wait()
END
