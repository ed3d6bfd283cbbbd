#!/usr/bin/env bash
# nginx 1.22.1 (Debian 12): limit_req with `add_header Retry-After 1;` beside it.
#
# A good guess: whoever is refused is told to come back in a second, with a 429.
# What it does: the header is on the answers that are let through, and not on the refusals, for `add_header` without
# `always` is for 2xx and 3xx alone. And a refusal is a 503 unless `limit_req_status` says otherwise, so a client
# that takes 429 for "too fast" and 503 for "down" takes a limit for an outage.
#
# Seen, first and second answer with their retry-after: (200, 1) (503, none); with limit_req_status 429 (200, 1)
# (429, none); with always, too, (200, 1) (429, 1).
set -euo pipefail
home=$(mktemp -d); chmod 755 "$home"; trap 'kill "$(cat "$home/pid" 2>/dev/null)" 2>/dev/null || true; sleep 1; rm -rf "$home"' EXIT
if ! nginx=$(command -v nginx || ls /usr/sbin/nginx 2>/dev/null); then
    (cd "$home" && apt-get download -q nginx=1.22.1-9+deb12u11 && dpkg -x nginx_*.deb .)
    nginx=$home/usr/sbin/nginx
fi
"$nginx" -v 2>&1 | grep -q 'nginx/1\.22\.1$' || { "$nginx" -v; exit 1; }
port() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
one=$(port) two=$(port) three=$(port)
cat > "$home/conf" <<END
pid $home/pid; error_log $home/error.log; daemon on;
events { }
http {
    access_log off;
    client_body_temp_path $home/a; proxy_temp_path $home/b; fastcgi_temp_path $home/c;
    uwsgi_temp_path $home/d; scgi_temp_path $home/e;
    limit_req_zone \$server_port zone=rate:1m rate=1r/m;
    limit_req zone=rate;
    server { listen 127.0.0.1:$one; add_header Retry-After 1; location / { root $home/www; } }
    server { listen 127.0.0.1:$two; add_header Retry-After 1; limit_req_status 429; location / { root $home/www; } }
    server { listen 127.0.0.1:$three; add_header Retry-After 1 always; limit_req_status 429; location / { root $home/www; } }
}
END
mkdir "$home/www"; echo ok > "$home/www/index.html"
"$nginx" -p "$home" -c "$home/conf" 2>/dev/null
python3 - "$one" "$two" "$three" <<'END'
import http.client
import sys

def ask(port):
    connection = http.client.HTTPConnection("127.0.0.1", int(port))
    connection.request("GET", "/index.html")
    response = connection.getresponse()
    response.read()
    return response.status, response.getheader("retry-after")

seen = [(ask(port), ask(port)) for port in sys.argv[1:]]
for pair in seen:
    print(pair)
assert seen == [
    ((200, "1"), (503, None)),
    ((200, "1"), (429, None)),
    ((200, "1"), (429, "1")),
]
END
