#!/usr/bin/env bash
# uvicorn 0.54.0 with --limit-concurrency 4 (the same with h11 and httptools).
#
# A good guess: four requests are served at the same time, and the fifth is refused; connections that are kept
# alive and idle cost nothing; the limit is said with a 429, or a Retry-After, or as JSON.
# What it does: it counts connections, the request's own included, and refuses at four of them: beside three idle
# connections of a pool the only request there is gets a bare 503 in plain text, again and again until a keep-alive
# ends. So 4 means three at once, and a client that keeps more connections open than it uses refuses itself.
#
# Seen: "3 idle connections and one request: 503 Service Unavailable; 2 idle: 200 OK", no Retry-After.
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q uvicorn==0.54.0 httptools==0.9.0
cd "$home"
cat > app.py <<'END'
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
END
venv/bin/python - <<'END'
import http.client
import socket
import subprocess
import sys
import time

def start(http_library):
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    listening.close()
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--limit-concurrency", "4"]
    command += ["--http", http_library, "--lifespan", "off", "--log-level", "error", "--timeout-keep-alive", "30"]
    process = subprocess.Popen(command)
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            break
    time.sleep(0.3)
    return process, port

def ask(port):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/")
    response = connection.getresponse()
    return connection, response, response.read()

for library in ("h11", "httptools"):
    process, port = start(library)
    try:
        idle = [ask(port) for _ in range(2)]  # answered; their connections are kept
        third, response, _ = ask(port)
        print(f"{library}: 2 idle: {response.status} {response.reason}", end="; ")
        assert response.status == 200
        _, response, body = ask(port)  # three are idle now
        print(f"3 idle connections and one request: {response.status} {body!r} {response.getheaders()}")
        assert response.status == 503 and body == b"Service Unavailable"
        assert response.getheader("retry-after") is None
        time.sleep(2)
        _, response, _ = ask(port)
        assert response.status == 503, "idle connections are not counted any more"
    finally:
        process.terminate()
        process.wait()
END
