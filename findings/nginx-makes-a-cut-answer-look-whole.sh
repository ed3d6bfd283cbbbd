#!/usr/bin/env bash
# nginx 1.22.1 (Debian 12) with a plain `proxy_pass`, in front of uvicorn 0.54.0, whose application fails in the middle
# of a streamed answer.
#
# A good guess: the client sees that the answer is broken off, as it does without the proxy: the last chunk is missing.
# What it does: nginx asks its upstream by HTTP/1.0 (up to 1.29.6, unless `proxy_http_version` says otherwise). With
# h11 uvicorn ends such an answer by closing the connection, which nginx cannot tell from a failure: it adds the last
# chunk, and the client has a complete 200 with half of the text. With httptools uvicorn sends chunks to an HTTP/1.0
# client, against the standard, and it is that which lets nginx notice. For a stream only `[DONE]` or a
# `finish_reason` shows that nothing is missing.
#
# Seen: "h11: direct incomplete, by nginx complete, by nginx and proxy_http_version 1.1 incomplete; httptools: direct
# incomplete, by nginx incomplete, by nginx and proxy_http_version 1.1 incomplete".
set -euo pipefail
home=$(mktemp -d); chmod 755 "$home"
trap 'kill "$(cat "$home/pid" 2>/dev/null)" 2>/dev/null || true; sleep 1; rm -rf "$home"' EXIT
if ! nginx=$(command -v nginx || ls /usr/sbin/nginx 2>/dev/null); then
    (cd "$home" && apt-get download -q nginx=1.22.1-9+deb12u11 && dpkg -x nginx_*.deb .)
    nginx=$home/usr/sbin/nginx
fi
"$nginx" -v 2>&1 | grep -q 'nginx/1\.22\.1$' || { "$nginx" -v; exit 1; }
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q uvicorn==0.54.0 h11==0.16.0 httptools==0.9.0
port() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
back=$(port) one=$(port) two=$(port)
cat > "$home/conf" <<END
pid $home/pid; error_log $home/error.log; daemon on;
events { }
http {
    access_log off;
    client_body_temp_path $home/a; proxy_temp_path $home/b; fastcgi_temp_path $home/c;
    uwsgi_temp_path $home/d; scgi_temp_path $home/e;
    server { listen 127.0.0.1:$one; location / { proxy_pass http://127.0.0.1:$back; } }
    server { listen 127.0.0.1:$two; location / { proxy_pass http://127.0.0.1:$back; proxy_http_version 1.1; } }
}
END
"$nginx" -p "$home" -c "$home/conf" 2>/dev/null
cd "$home"
cat > app.py <<'END'
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"half of ", "more_body": True})
    raise RuntimeError("the model is gone")
END
venv/bin/python - "$back" "$one" "$two" <<'END'
import http.client
import socket
import subprocess
import sys
import time

def ask(port):
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
    connection.request("GET", "/")
    response = connection.getresponse()
    assert response.status == 200
    try:
        assert response.read() == b"half of "
    except http.client.IncompleteRead:
        return "incomplete"
    return "complete"

back, one, two = sys.argv[1:]
seen = {}
for library in ("h11", "httptools"):
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", back, "--http", library]
    process = subprocess.Popen([*command, "--lifespan", "off", "--log-level", "critical"])
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", int(back))).close()
            except OSError:
                time.sleep(0.1)
            else:
                break
        seen[library] = [ask(back), ask(one), ask(two)]
    finally:
        process.terminate()
        process.wait()
ways = ("direct", "by nginx", "by nginx and proxy_http_version 1.1")
print("; ".join(f"{library}: {', '.join(map(' '.join, zip(ways, found)))}" for library, found in seen.items()))
assert seen["h11"] == ["incomplete", "complete", "incomplete"]
assert seen["httptools"] == ["incomplete"] * 3
END
