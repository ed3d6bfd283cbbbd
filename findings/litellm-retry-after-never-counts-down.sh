#!/usr/bin/env bash
# LiteLLM's proxy 1.108.7, a key with rpm_limit 3, against a local upstream. Takes two minutes.
#
# A good guess: `retry-after` and `reset_at` of a refusal say when the minute ends that is full.
# What it does: both say "a minute from now" in every refusal, however much of the minute is over; the minute itself
# began with the first request and ends 60 s after it, and refusals do not prolong it. Refused in its 45th second
# and told 60, a client would be let in again after 16; whoever obeys a late refusal sleeps through most of the next
# minute. Answers carry limit and remaining, and no reset.
#
# Seen: "after 0 s: 200 (three times); after 2 s: 429, retry-after 60, reset_at in 59 s; after 45 s: 429,
# retry-after 60, reset_at in 59 s; after 63 s: 200".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q 'litellm[proxy]==1.108.7'
cd "$home"
cat > own_auth.py <<'END'
from litellm.proxy._types import UserAPIKeyAuth

async def authorize(request, api_key):
    return UserAPIKeyAuth(api_key=api_key, rpm_limit=3)
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
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Upstream(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
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
    file.write(
        f"model_list: [{{model_name: m, litellm_params: {{model: openai/m, api_base: '{base}', api_key: none}}}}]\n"
        "general_settings: {custom_auth: own_auth.authorize}\n"
    )
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
environment = {
    **os.environ, "LITELLM_MASTER_KEY": f"sk-{secrets.token_urlsafe(32)}", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
command = ["venv/bin/litellm", "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
with open("log", "w") as log:
    proxy = subprocess.Popen([*command, "--telemetry", "False"], env=environment, stdout=log, stderr=log)

def ask():
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "q"}]})
    connection.request("POST", "/v1/chat/completions", body, {
        "content-type": "application/json", "authorization": "Bearer sk-one",
    })
    response = connection.getresponse()
    response.read()
    reset = response.getheader("reset_at")
    if reset:
        until = datetime.strptime(reset, "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
        reset = round((until - datetime.now(UTC)).total_seconds())
    named = {key.lower() for key, _ in response.getheaders()}
    return response.status, response.getheader("retry-after"), reset, named

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

    def at(seconds):
        time.sleep(max(0, began + seconds - time.monotonic()))
        seen = ask()
        print(f"after {seconds} s: {seen[0]}, retry-after {seen[1]}, reset_at in {seen[2]} s", flush=True)
        return seen

    first = [at(0) for _ in range(3)]
    assert [one[0] for one in first] == [200] * 3
    assert "x-ratelimit-api_key-remaining-requests" in first[0][3]
    assert not [name for name in first[0][3] if "reset" in name]
    for seconds in (2, 45):
        status, wait, reset, _ = at(seconds)
        assert (status, wait) == (429, "60") and 57 <= reset <= 61
    assert at(63)[0] == 200
finally:
    proxy.terminate()
    proxy.wait()
END
