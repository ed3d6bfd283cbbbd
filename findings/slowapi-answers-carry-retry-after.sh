#!/usr/bin/env bash
# slowapi 0.1.10, the rate limiter of many FastAPI gateways, with `headers_enabled=True` and a limit of 2 a minute.
#
# A good guess: Retry-After comes with a refusal; `X-RateLimit-Reset` is a duration, as OpenAI's is, or whole seconds;
# `error` is an object.
# What it does: every answer has a Retry-After, the 200s too, with places left or none: the seconds until the window
# ends. The reset is a time since 1970 with seven decimals. The body of the 429 has `error` as a string. And
# without `headers_enabled`, its default, nothing names a wait at all.
#
# Seen: "200, retry-after 60, remaining 1; 200, retry-after 60, remaining 0; 429, retry-after 60, remaining 0, reset
# 1795839047.5054553, {'error': 'Rate limit exceeded: 2 per 1 minute'}"; by default "429, retry-after None".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q slowapi==0.1.10 limits==5.8.0 fastapi==0.165.0 starlette==1.10.0 uvicorn==0.54.0
cd "$home"
cat > app.py <<'END'
import os

from fastapi import FastAPI, Request, Response
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from slowapi.util import get_remote_address

limiter = Limiter(key_func=get_remote_address, headers_enabled=os.environ["TOLD"] == "yes")
app = FastAPI()
app.state.limiter = limiter
app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)

@app.post("/v1/chat/completions")
@limiter.limit("2/minute")
async def chat(request: Request, response: Response):
    return {"ok": True}
END
venv/bin/python - <<'END'
import http.client
import json
import os
import socket
import subprocess
import sys
import time

def ask(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/v1/chat/completions")
    response = connection.getresponse()
    return response.status, response.headers, json.loads(response.read())

for told in ("yes", "no"):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "error"]
    server = subprocess.Popen(command, env={**os.environ, "TOLD": told})
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        seen = [ask(port) for _ in range(3)]
    finally:
        server.terminate()
        server.wait()
    for status, headers, body in seen:
        print(told, status, *(headers[key] for key in ("retry-after", "x-ratelimit-remaining", "x-ratelimit-reset")), body)
    assert [one[0] for one in seen] == [200, 200, 429]
    assert seen[2][2] == {"error": "Rate limit exceeded: 2 per 1 minute"}
    if told == "yes":
        assert all(55 <= int(one[1]["retry-after"]) <= 60 for one in seen), "answers have no Retry-After now"
        assert abs(float(seen[2][1]["x-ratelimit-reset"]) - time.time() - 60) < 10
        assert "." in seen[2][1]["x-ratelimit-reset"]
    else:
        assert not [key for one in seen for key in one[1] if "ratelimit" in key.lower() or "retry" in key.lower()]
END
