#!/usr/bin/env bash
# HAProxy 2.6.12 (Debian 12), default settings, in front of a server that closes connections without an answer.
#
# A good guess: whenever the server fails before it has answered, the client gets a 502.
# What it does: only for the first request of a client's connection. For any later one HAProxy closes the client's
# connection without a byte, on purpose: a browser then sends the request again by itself. A client with a pool sees
# "server disconnected" of a proxy that is up, with no status, nothing to tell it from a lost network. That the request
# has not been carried out does not follow: POSTs, too, end this way after the server has read them.
#
# Seen: "POST: 502, disconnected, 502, disconnected; GET: 502, disconnected, 502, disconnected; requests read by the
# server: 8".
set -euo pipefail
home=$(mktemp -d); trap 'kill "$(cat "$home/pid" 2>/dev/null)" 2>/dev/null || true; sleep 1; rm -rf "$home"' EXIT
haproxy=$(command -v haproxy || true)
if [ -z "$haproxy" ] || ! "$haproxy" -v | grep 'version 2\.6\.12' > /dev/null; then
    libraries="liblua5.3-0 libopentracing-c-wrapper0 libopentracing1"
    (cd "$home" && apt-get download -q haproxy=2.6.12-1+deb12u4 $libraries 2>&1 &&
        for package in *.deb; do dpkg -x "$package" .; done) > "$home/log"
    haproxy=$home/usr/sbin/haproxy
    export LD_LIBRARY_PATH=$home/usr/lib/$(uname -m)-linux-gnu:$home/usr/lib
fi
"$haproxy" -v | grep 'version 2\.6\.12' > /dev/null
port() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
front=$(port) back=$(port)
cat > "$home/conf" <<END
global
    maxconn 100
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend web
    bind 127.0.0.1:$front
    default_backend servers
backend servers
    server one 127.0.0.1:$back
END
"$haproxy" -D -p "$home/pid" -f "$home/conf" 2> /dev/null
python3 - "$front" "$back" <<'END'
import http.client
import socket
import sys
import threading

front, back = (int(port) for port in sys.argv[1:])
read = 0

def serve(listener):
    global read
    while True:
        connection, _ = listener.accept()
        request = b""
        while not request.endswith(b"body"):
            request += connection.recv(65536)
        read += 1
        connection.close()

threading.Thread(target=serve, args=(socket.create_server(("127.0.0.1", back)),), daemon=True).start()
seen = {}
for method in ("POST", "GET"):
    connection = http.client.HTTPConnection("127.0.0.1", front, timeout=20)
    seen[method] = []
    for _ in range(4):
        try:
            connection.request(method, "/", body=b"body")
            response = connection.getresponse()
            response.read()
            seen[method].append(str(response.status))
        except http.client.RemoteDisconnected:
            seen[method].append("disconnected")
            connection.close()  # the next request opens a connection again
    print(f"{method}: {', '.join(seen[method])}", end="; ")
print(f"requests read by the server: {read}")
assert seen["POST"] == seen["GET"] == ["502", "disconnected"] * 2 and read == 8
END
